"""URLs as they are found in metadata, made fit to be asked for, changing nothing that a server could mind.

Browsers' leniency, to a point: foreign letters are encoded (IDNA for the host, UTF-8 percent-encoding for the
rest), what is encoded already stays as it is, and fragments, credentials and the final dot of a name are left out.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from functools import lru_cache
from urllib.parse import quote, urlsplit

import idna

LONGEST_URL = 32_768
# characters that are asked for as they are
PATH_SAFE = "!$%&'()*+,/:;=@~-._|[]"
QUERY_SAFE = PATH_SAFE + "?"
_HOSTS = 10_000  # whose encoding is remembered: most links of a shard are to few hosts
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,62}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_IPV4 = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)")  # by its last part, as browsers decide it
LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UrlError(ValueError):
    """A text that is no URL to be asked for, and why."""


class SchemeError(UrlError):
    """A URL of another scheme than http and https, or of none."""


def request_url(text: str) -> str:
    """The URL that is asked for when `text` is a link: in ASCII, scheme and host in lower case. Raises UrlError.

    What it returns stays as it is when it is given again.
    """
    if len(text) > LONGEST_URL:
        raise UrlError(f"a URL of {len(text)} characters")
    try:
        parts = urlsplit(text.strip())
        scheme = parts.scheme.lower()
        if scheme not in ("http", "https"):
            raise SchemeError(f"scheme {scheme!r}" if scheme else "no scheme")
        host = encode_host(parts.hostname or "")
        default = 443 if scheme == "https" else 80
        port = parts.port or default
    except UrlError:
        raise
    except ValueError as error:
        raise UrlError(str(error)) from error
    place = f"[{host}]" if ":" in host else host
    query = f"?{_quoted(parts.query, QUERY_SAFE)}" if parts.query else ""
    path = _quoted(parts.path, PATH_SAFE) or "/"
    return f"{scheme}://{place}{'' if port == default else f':{port}'}{path}{query}"


def checked_origin(text: str) -> str:
    """`text`, if it is an origin: scheme, host and port (80 and 443 need not be written). Raises ValueError."""
    form = "write scheme, host and port, nothing else: http://192.168.1.20:8080"
    if re.search(r"[\s\\*?#@]", text):
        raise ValueError(f"is no origin: {form}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no origin ({error}): {form}") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"does not begin with http:// or https://: {form}")
    if not parts.hostname or port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"lacks a {'port after its colon' if parts.hostname else 'host'}: {form}")
    if parts.path not in ("", "/"):
        raise ValueError(f"has a path behind the host ({parts.path}), which no origin has: {form}")
    try:
        request_url(text)
    except UrlError as error:
        raise ValueError(f"is no origin ({error}): {form}") from error
    return text


@lru_cache(_HOSTS)
def encode_host(host: str) -> str:
    """A host in ASCII, lower case: an address, or a name by IDNA 2008 without its final dot. Raises ValueError."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host.partition("%")[0]))
    name = host
    if not name.isascii():
        try:
            name = _encoded_name(name)
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(f"the host {host!r} is no name ({error})") from error
    name = name.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError(f"the host {host[:80]!r} is no name")
    if _IPV4.fullmatch(name):
        try:
            return socket.inet_ntoa(socket.inet_aton(name))  # 127.1, 0x7f.1
        except OSError:
            return name
    return name


def _encoded_name(name: str) -> str:
    """A name by IDNA 2008; emoji and the like, which it does not allow and browsers ask for, by Punycode."""
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.InvalidCodepoint:
        if any(unicodedata.category(letter)[0] in "PZC" and letter not in "_-.。．｡" for letter in name):
            raise
        labels = idna.uts46_remap(name, std3_rules=False, transitional=False).split(".")
        return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def _quoted(text: str, safe: str) -> str:
    # surrogates stand for bytes of a header that were no UTF-8: those bytes are meant
    return quote(LONE_PERCENT.sub("%25", text), safe=safe, errors="surrogateescape")
