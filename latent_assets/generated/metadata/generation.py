"""What is known of how an image was generated, in one form for all tools.

Where it is read from is the business of `metadata`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

PROMPT_LIMIT = 20_000
RAW_LIMIT = 65_536
_NAME_LIMIT = 500
_LIMITS = {"prompt": PROMPT_LIMIT, "negative_prompt": PROMPT_LIMIT, "raw": RAW_LIMIT}
# torch's and ComfyUI's seeds are of 64 bits, ComfyUI takes at most 10,000 steps, no pipeline knows a larger guidance
_WHOLE = {"seed": 2**64 - 1, "steps": 10_000, "width": 65_535, "height": 65_535}
_LARGEST_GUIDANCE = 1_000
_WHOLE_NUMBER = re.compile(r"\d{1,20}(?:\.0{1,6})?")
# what no text shows and terminals obey; what cannot be UTF-8
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Generation:
    """Prompts and parameters of a generated image; None for what is not known.

    `guidance` is the classifier-free guidance scale, or the distilled one of models that have only that. `width` and
    `height` are what the tool says, before any upscaling. `raw` is the text that all of it was read from.

    Values are taken as tools write them ("20", 20.0) and made what their types say: texts without control characters
    and unpaired surrogates, stripped, at most 20,000 characters for a prompt, 65,536 for `raw`, 500 for a name; seeds
    of 64 bits; 1 to 10,000 steps. What is empty, of another type or out of range is None.
    """

    tool: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    model: str | None = None
    model_hash: str | None = None
    width: int | None = None
    height: int | None = None
    raw: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name in _WHOLE:
                clean: object = _whole(value, 0 if name == "seed" else 1, _WHOLE[name])
            elif name == "guidance":
                clean = _real(value)
            else:
                clean = _text(value, _LIMITS.get(name, _NAME_LIMIT))
            object.__setattr__(self, name, clean)


def _text(value: object, limit: int) -> str | None:
    if not isinstance(value, str):
        return None
    # control characters are left out of what is kept, not of megabytes
    text = value[: 4 * limit].replace("\r\n", "\n").translate(_CONTROL)
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text).strip()[:limit].strip() or None


def _whole(value: object, smallest: int, largest: int) -> int | None:
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()[:40]):
        value = int(value.strip().partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if smallest <= value <= largest else None


def _real(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value[:40])
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LARGEST_GUIDANCE:
        return None
    return float(value) if math.isfinite(value) else None
