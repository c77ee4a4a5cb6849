"""Machine-readable opt-outs in an answer's headers, with the header as evidence.

robots.txt is read in `robots`; what follows from an opt-out is decided in `http_client`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from latent_assets.images.outcome import Reason

# X-Robots-Tag directives that speak against keeping an image for machine use
DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_ONE = rf"\b(?:{'|'.join(sorted(DIRECTIVES))})\b"
# directives with a value after a colon, which are no user agents before one; that of a date has commas and colons
_WITH_VALUE = re.compile(
    r"\bmax-(?:snippet|(?:image|video)-preview)\s*:\s*[\w.+-]*"
    rf"|\bunavailable_after\s*:\s*(?:[a-z]+,\s*)?[^,;]*?(?=[,;]|{_ONE}|$)"
)
_DENIED = re.compile(rf"{_ONE}\s*[:=]\s*(?:false|no|off|0)\b")
_AFFIRMED = re.compile(rf"({_ONE})\s*[:=]")
_WORDS = re.compile(r"[\w-]+")
_COMMENT = re.compile(r"\([^()]*\)\s*(?=:)")
_AGENTS = re.compile(r"[\w*-]+(?:/[\w.-]*)?")  # with versions
# `1`, also as a text, a Boolean of structured fields (RFC 8941), or one of several headers that a proxy joined
_TDM_YES = re.compile(r"(?:.*,)?[\s\"'([=]*(?:\+?0*1(?:\.0*)?|\?1|true|yes|on)(?![\w.]).*", re.DOTALL | re.IGNORECASE)
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

    Directives are also found in quotes or brackets, with a value (`noai: true`), and separated by whatever separates.
    """
    text = _WITH_VALUE.sub(" ", _COMMENT.sub("", value.lower().translate(_QUOTES)))
    text = _AFFIRMED.sub(r"\1 ", _DENIED.sub(" ", text))
    addressed = True
    for part in re.split("[,;]", text):
        *names, directives = part.split(":")
        for name in names:
            # directives, then an agent, whose version does not count
            *before, who = _AGENTS.findall(name) or [""]
            if addressed and _speaks_against(" ".join(before)):
                return True
            addressed = who.partition("/")[0] in (agent, "*", "robots")
        if addressed and _speaks_against(directives):
            return True
    return False


def _speaks_against(text: str) -> bool:
    return not DIRECTIVES.isdisjoint(_WORDS.findall(text))
