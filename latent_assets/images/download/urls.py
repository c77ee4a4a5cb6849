"""URLs as they are found in metadata, made fit to be asked for, changing nothing that a server could mind.

Browsers' leniency, to a point: foreign letters are encoded (IDNA for the host, UTF-8 percent-encoding for the
rest), what is encoded already stays as it is, and fragments and credentials are left out.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import quote, urlsplit

import idna
from yarl import URL

from latent_assets.images.outcome import FetchError, Reason

LONGEST_URL = 32_768
_HOSTS = 10_000  # whose encoding is remembered: most links of a shard are to few hosts
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,62}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PATH_SAFE = "!$%&'()*+,/:;=@~-._|[]"
_QUERY_SAFE = _PATH_SAFE + "?"


def parse_url(text: str) -> URL:
    """The URL that a row of the metadata gives. Raises FetchError: `scheme_not_allowed` or `bad_url`."""
    if len(text) > LONGEST_URL:
        raise FetchError(Reason.BAD_URL, f"a URL of {len(text)} characters")
    try:
        parts = urlsplit(text.strip())
        scheme = parts.scheme.lower()
        if scheme not in ("http", "https"):
            raise FetchError(Reason.SCHEME, f"scheme {scheme!r}" if scheme else "no scheme")
        host = encode_host(parts.hostname or "")
        port = parts.port or (443 if scheme == "https" else 80)
    except ValueError as error:
        raise FetchError(Reason.BAD_URL, str(error)) from error
    default = port == (443 if scheme == "https" else 80)
    place = f"[{host}]" if ":" in host else host
    query = f"?{_quoted(parts.query, _QUERY_SAFE)}" if parts.query else ""
    url = f"{scheme}://{place}{'' if default else f':{port}'}{_quoted(parts.path, _PATH_SAFE) or '/'}{query}"
    return URL(url, encoded=True)


def origin_of(url: URL) -> str:
    """`scheme://host:port`, lower case, the port always given."""
    host = url.raw_host or ""
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{url.port}".lower()


@lru_cache(_HOSTS)
def encode_host(host: str) -> str:
    """A host in ASCII, lower case: an address, or a name by IDNA 2008. Raises ValueError."""
    if ":" in host:
        return str(ipaddress.IPv6Address(host.partition("%")[0]))
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"the host {host!r} is no name ({error})") from error
    if not _NAME.fullmatch(host.lower()):
        raise ValueError(f"the host {host[:80]!r} is no name")
    return host.lower()


def _quoted(text: str, safe: str) -> str:
    # surrogates stand for bytes of a header that were no UTF-8: those bytes are meant
    return quote(_LONE_PERCENT.sub("%25", text), safe=safe, errors="surrogateescape")
