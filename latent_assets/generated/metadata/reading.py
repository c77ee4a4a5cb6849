"""Prompts and parameters of generated images: read from the files of all common tools, and written into our own.

Read are AUTOMATIC1111 and its forks (Forge, SD.Next), ComfyUI, InvokeAI of all ages, Fooocus in both schemes, SwarmUI,
what users of diffusers store, and sidecars. Where a text stands in a file is the business of `embedded_text`, graphs
that of `comfyui`. Nothing raises: a file that says nothing, or nonsense, is an image like any other.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from latent_assets.generated.metadata.comfyui import is_graph, read_graph
from latent_assets.generated.metadata.embedded_text import TEXT_LIMIT, embedded_texts
from latent_assets.generated.metadata.generation import Generation

TOOL = "latent-assets"
_MOST_KEYS = 1_000
# the names of a value, most telling first, in lower case and without what stands between words: tools write
# "negative_prompt", "Negative prompt" and "negativeprompt". Fooocus keeps what was typed beside what became of it.
_NAMES: dict[str, tuple[str, ...]] = {
    "tool": ("tool",),
    "prompt": ("rawprompt", "prompt", "positiveprompt", "positive"),
    "negative_prompt": ("rawnegativeprompt", "negativeprompt", "negative"),
    "seed": ("seed", "noiseseed"),
    "steps": ("steps", "numinferencesteps", "numsteps"),
    "guidance": ("cfgscale", "guidancescale", "cfg"),
    "distilled": ("distilledcfgscale", "fluxguidancescale", "guidance"),
    "sampler": ("sampler", "samplername", "scheduler"),
    "model": ("modelweights", "model", "basemodel", "modelname", "modelid", "checkpoint", "ckptname"),
    "model_hash": ("modelhash", "basemodelhash"),
    "width": ("width",),
    "height": ("height",),
    "size": ("size", "resolution"),
}
_TELLTALE_KEYS = {"swarm_version": "SwarmUI", "adm_guidance": "Fooocus", "num_inference_steps": "diffusers"}
_SIZE = re.compile(r"\D{0,3}(\d{1,5})\D{1,4}(\d{1,5})\D{0,3}")
_PARAMETER = re.compile(r'(?:^|,)\s*(\w[\w /-]{1,60}):[ \t]*("(?:\\.|[^\\"])*+"|[^,]*)(?=,|$)')
_NEGATIVE = "Negative prompt:"
_TEMPLATES = re.compile(r"^(?:Negative )?template:", re.IGNORECASE | re.MULTILINE)
_JSON = re.compile(r'\s*\{\s*["}]')  # unlike "{red|blue} car"
_QUOTED = re.compile(r'[,:"\\\n]')
_DREAM_SWITCHES = re.compile(r"\s(?=-s\s*\d)")
_DREAM_SWITCH = re.compile(r"(?<!\S)-([sSWHCA])\s*([^\s-]\S*)")
_DREAM_NAMES = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "cfg_scale", "A": "sampler"}
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def read_generation(data: bytes, sidecar: tuple[str, bytes] | None = None) -> Generation:
    """What an image file, or the sidecar beside it (its name and content), says of how the image was generated.

    The image comes first: its texts were written with the pixels, a sidecar is found by its name. The sidecar counts
    when the image knows no prompt. `.txt` is AUTOMATIC1111's text or a prompt alone, `.json` what `write_sidecar` or
    any of the tools writes. Of what is only broken, `raw` is kept. Never raises.
    """
    found = itertools.chain(_from_texts(embedded_texts(data)), _from_sidecar(sidecar) if sidecar else ())
    first: Generation | None = None
    for generation in found:
        if generation.prompt:
            return generation
        if first is None or (first.tool is None and generation.tool):
            first = generation
    return first or Generation()


def write_parameters(generation: Generation) -> str:
    """The text for the chunk `parameters` of a PNG of our own, in AUTOMATIC1111's layout.

    `read_generation` gives the same values again, with `TOOL` as the tool and the text as `raw`. A prompt that this
    layout would cut in two is said once more, quoted, as Fooocus does ("Raw prompt").
    """
    size = f"{generation.width}x{generation.height}" if generation.width and generation.height else None
    parameters = {
        "Steps": generation.steps,
        "Sampler": generation.sampler,
        "CFG scale": generation.guidance,
        "Seed": generation.seed,
        "Size": size,
        "Model hash": generation.model_hash,
        "Model": generation.model,
        "Version": TOOL,
    }
    head = [generation.prompt or ""]
    if generation.negative_prompt:
        head.append(f"{_NEGATIVE} {generation.negative_prompt}")
    said = _split("\n".join([*head, "Steps: 1"])) or {}
    if (said.get("prompt") or None, said.get("negative_prompt") or None) != (
        generation.prompt,
        generation.negative_prompt,
    ):
        parameters["Raw prompt"] = generation.prompt or ""
        parameters["Raw negative prompt"] = generation.negative_prompt or ""
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in parameters.items() if value is not None)
    return "\n".join([*head, line]).strip()


def write_sidecar(generation: Generation) -> str:
    """The JSON that stands beside an image of our own: one object with the fields of `Generation` but `raw`.

    `{"tool": "latent-assets", "prompt": ..., "negative_prompt": ..., "seed": ..., "steps": ..., "guidance": ...,
    "sampler": ..., "model": ..., "model_hash": ..., "width": ..., "height": ...}`: all keys always, null for what is
    not known, UTF-8. Keys may be added, never renamed.
    """
    values = {name: value for name, value in asdict(generation).items() if name != "raw"}
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


# -- where metadata stands ---------------------------------------------------------------------------------


def _from_texts(texts: Mapping[str, str]) -> Iterator[Generation]:
    """All that the texts of an image say, most telling first."""
    for name in ("invokeai_metadata", "sd-metadata"):
        if name in texts:
            yield _generation(_object(texts[name]) or {}, texts[name], "InvokeAI")
    if "Dream" in texts:
        yield _generation(_dream(texts["Dream"]), texts["Dream"], "InvokeAI")
    fooocus = texts.get("fooocus_scheme") or texts.get("exif:MakerNote") in ("fooocus", "a1111")
    if "parameters" in texts:
        yield from _from_text(texts["parameters"], "Fooocus" if fooocus else None)
    graph = _JSON.match(texts.get("prompt", ""))
    if graph:
        yield from _from_text(texts["prompt"])
    if "exif:UserComment" in texts:  # cameras and phones have words of their own there
        yield from _from_text(texts["exif:UserComment"], "Fooocus" if fooocus else None, plain=False)
    if _object(texts.get("exif:Model")):  # earlier SwarmUI
        yield from _from_text(texts["exif:Model"])
    values = {name: text for name, text in texts.items() if not (name == "prompt" and graph)}
    if _plain(values).get("prompt"):
        yield _generation(values, "\n".join(f"{name}: {text}" for name, text in values.items()))
    for text in texts.values():
        if (found := _object(text)) and _plain(found).get("prompt"):
            yield _generation(found, text)


def _from_sidecar(sidecar: tuple[str, bytes]) -> Iterator[Generation]:
    name, content = sidecar
    if name.lower().endswith((".txt", ".json")):
        content = content[:TEXT_LIMIT]
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = content.decode("utf-16" if utf16 else "utf-8-sig", "replace")
        yield from _from_text(text, plain=name.lower().endswith(".txt"))


def _from_text(text: str, tool: str | None = None, plain: bool = True) -> Iterator[Generation]:
    """JSON, AUTOMATIC1111's text, or a prompt alone where that may be."""
    if (found := _object(text)) is not None:
        yield _generation(found, text, tool)
    elif (values := _split(text)) is not None:
        yield _generation(values, text, tool)
    elif _JSON.match(text):
        yield Generation(raw=text)  # broken
    elif plain:
        yield _generation(_split(text, plain=True) or {}, text, tool)


# -- what it says ------------------------------------------------------------------------------------------


def _generation(found: Mapping[str, Any], raw: str, tool: str | None = None) -> Generation:
    """From an object in the layout of any tool."""
    graph = next(
        (graph for graph in (found.get("prompt"), _object(found.get("prompt")), found) if is_graph(graph)), None
    )
    if graph is not None:
        tool, values = "ComfyUI", read_graph(graph)
    elif isinstance(swarm := found.get("sui_image_params"), dict):
        tool, values = "SwarmUI", _plain(swarm) | _swarm_hash(found.get("sui_models"))
    elif isinstance(image := found.get("image"), dict):  # InvokeAI 2
        tool, values = "InvokeAI", _plain({**found, **image}) | _bracketed(_weighted(image.get("prompt")))
    elif isinstance(text := found.get("parameters"), str) and (values := _split(text) or {}):
        values = _plain(values)
    elif isinstance(found.get("invokeai_metadata"), dict):
        tool, values = "InvokeAI", _plain(found["invokeai_metadata"])
    else:
        values = _plain(found)
    said = values.pop("tool", None)
    tool = tool or said or next((tool for key, tool in _TELLTALE_KEYS.items() if key in found), None)
    distilled = values.pop("distilled", None)
    if distilled is not None and values.get("guidance") in (None, 1, "1", "1.0"):
        values["guidance"] = distilled
    return Generation(**{**values, "tool": tool, "raw": raw})


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an object with one key for each, under any of their names."""
    known: dict[str, Any] = {}
    for key, value in itertools.islice(found.items(), _MOST_KEYS):
        known.setdefault("".join(filter(str.isalnum, key[:60].lower())), value)
    values = {
        field: next((known[name] for name in names if known.get(name) is not None), None)
        for field, names in _NAMES.items()
    }
    size = values.pop("size")
    if isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        values["width"], values["height"] = match.groups()
    if isinstance(model := values["model"], dict):  # InvokeAI
        values["model"] = model.get("name") or model.get("model_name")
        values["model_hash"] = values["model_hash"] or model.get("hash")
    return values


def _object(value: object) -> dict[str, Any] | None:
    """A JSON object from its text. Numbers of more than 20 digits are null: Python refuses to read the longest."""
    if not isinstance(value, str) or not _JSON.match(value):
        return None
    try:
        found = json.loads(value, parse_int=_bounded)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _bounded(digits: str) -> int | None:
    return int(digits) if len(digits) <= 20 else None


def _swarm_hash(models: object) -> dict[str, Any]:
    entries = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return {"model_hash": next((model.get("hash") for model in entries if model.get("param") == "model"), None)}


def _weighted(prompts: object) -> str:
    """InvokeAI's prompt: a text, or a list of texts with weights."""
    if isinstance(prompts, str):
        return prompts
    entries = (
        [prompt.get("prompt") for prompt in prompts if isinstance(prompt, dict)] if isinstance(prompts, list) else []
    )
    return " ".join(prompt for prompt in entries if isinstance(prompt, str))


def _bracketed(prompt: str) -> dict[str, str]:
    """Of InvokeAI before version 3, where the negative prompt stands in brackets."""
    negative = ", ".join(part.strip() for part in _BRACKETS.findall(prompt))
    return {"prompt": _BRACKETS.sub("", prompt), "negative_prompt": negative}


def _dream(text: str) -> dict[str, Any]:
    """InvokeAI's command line: the prompt, in quotes or not, and switches of which `-s` is the first."""
    *head, switches = _DREAM_SWITCHES.split(text, maxsplit=1)
    prompt = head[0] if head else switches
    values = {_DREAM_NAMES[switch]: value for switch, value in _DREAM_SWITCH.findall(switches if head else "")}
    return {**values, **_bracketed(prompt.strip().removeprefix('"').removesuffix('"'))}


def _split(text: str, plain: bool = False) -> dict[str, Any] | None:
    """AUTOMATIC1111's text: the prompt, the negative one, and a line of parameters; without that None, if not `plain`.

    Extensions write lines of their own after that of the parameters, SD.Next the prompts' templates before it.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    at, parameters = next(
        ((at, found) for at in reversed(range(len(lines))) if (found := _parameters(lines[at]))), (len(lines), {})
    )
    if not (parameters or plain):
        return None
    head = lines[:at]
    cut = next((at for at, line in enumerate(head) if line.lstrip().startswith(_NEGATIVE)), len(head))
    negative = "\n".join(head[cut:]).lstrip().removeprefix(_NEGATIVE)
    version = parameters.pop("Version", "")
    tool = parameters.pop("App", None) or _tool(version) if parameters or version else None
    prompts = {"prompt": "\n".join(head[:cut]).strip(), "negative_prompt": _TEMPLATES.split(negative)[0].strip()}
    return {**prompts, "tool": tool, **parameters}


def _parameters(line: str) -> dict[str, str]:
    """The parameters of a line that consists of them: three or more with steps or a seed, as in all tools, or ours."""
    if ":" not in line:
        return {}
    found = {name.strip(): _unquoted(value) for name, value in _PARAMETER.findall(line.strip())}
    counted = any(found.get(name, "").isdecimal() for name in ("Steps", "Seed"))
    return found if (counted and (len(found) >= 3 or "Steps" in found)) or found.get("Version") == TOOL else {}


def _tool(version: str) -> str:
    """Forks are told by their version, `f2.0.1v1.10.1` or `Fooocus v2.5.5`; AUTOMATIC1111 has `v1.10.1` or none."""
    if version == TOOL:
        return TOOL
    named = re.match(r"(Fooocus|ComfyUI|SD\.Next)\b", version)
    return named[1] if named else "Forge" if re.match(r"f\d", version) else "AUTOMATIC1111"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if _QUOTED.search(value) or not value else value


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            pass
    return value.strip()
