"""Machine-readable opt-outs in an answer's headers, with the header as evidence.

robots.txt is read in `robots`; what follows from an opt-out is decided in `http_client`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from latent_assets.images.outcome import Reason

# X-Robots-Tag directives that speak against keeping an image for machine use
DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
# directives with a value after a colon, which is not a user agent before one
_WITH_VALUE = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
# `1`, also as a text, a Boolean of structured fields (RFC 8941), or one of several headers that a proxy joined
_TDM_YES = re.compile(r"(?:.*,)?[\s\"']*(?:\+?1(?:\.0*)?|\?1|true|yes)[\s\"']*(?:[,;].*)?", re.DOTALL | re.IGNORECASE)
_QUOTES = str.maketrans("", "", "\"'`“”‘’")


def opt_out(headers: Iterable[tuple[str, str]], agent: str) -> tuple[Reason, str] | None:
    """(reason, the header that says so) when the headers opt out, else None.

    `X-Robots-Tag` counts when it names no user agent or ours (`agent`, the bare product name);
    `tdm-reservation: 1` is the header of the TDM Reservation Protocol.
    """
    for name, value in headers:
        lower = name.lower()
        if lower == "x-robots-tag" and _tag_opts_out(value, agent.lower()):
            return Reason.X_ROBOTS_TAG, f"X-Robots-Tag: {value.strip()}"
        if lower == "tdm-reservation" and _TDM_YES.fullmatch(value):
            return Reason.TDM_RESERVATION, f"tdm-reservation: {value.strip()}"
    return None


def _tag_opts_out(value: str, agent: str) -> bool:
    """`noai, googlebot: noindex, otherbot: noai`: an agent's name holds until the next name.

    Directives are also found in quotes, and separated by semicolons or spaces.
    """
    addressed = True
    for part in re.split("[,;]", value.lower().translate(_QUOTES)):
        name, colon, rest = part.partition(":")
        if colon and name.strip() not in _WITH_VALUE:
            addressed = name.partition("/")[0].strip() in (agent, "*")
            part = rest
        if addressed and not DIRECTIVES.isdisjoint(part.split()):
            return True
    return False
