"""Columns of links: as the fetcher asks for them, and what removal lists compare.

How one URL is read is in `latent_assets.urls`. Here are columns of millions: most links are asked for as they are
written, which Polars sees by itself, and only the others are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl
from yarl import URL

from latent_assets.urls import PATH_SAFE, QUERY_SAFE, UrlError, request_url

_ESCAPE = "%[0-9A-Fa-f][0-9A-Fa-f]"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9]")


def _characters(safe: str) -> str:
    quoted = _NOT_PLAIN.sub(r"\\\g<0>", safe.replace("%", ""))
    return rf"(?:[A-Za-z0-9_{quoted}]|{_ESCAPE})"


# a link that `request_url` leaves as it is, or refuses: those with a port, an address or capitals are looked at
_PLAIN = rf"^https?://[a-z0-9_.-]*[a-z]/{_characters(PATH_SAFE)}*(?:\?{_characters(QUERY_SAFE)}+)?$"
_SCHEME = r"^https?://"
_HOST = rf"{_SCHEME}(\[[^\]]*\]|[^/:]*)"
# what RFC 3986 lets be written in several ways is, if anything, written with these
_VARIABLE = rf"{_SCHEME}.*(?:[%|\[\]]|/\.)"


def is_plain(column: str) -> pl.Expr:
    """Whether a link is asked for as it is written, if at all."""
    return pl.col(column).str.contains(_PLAIN)


def requested(urls: pl.Series, plain: pl.Series | None = None) -> pl.Series:
    """The links as they are asked for; those that cannot be stay as they are, without space around them.

    `plain` is `is_plain` of them, where that is known.
    """
    if plain is None:
        plain = urls.to_frame("url").select(is_plain("url")).to_series()
    return _replaced(urls, ~plain, _requested)


def removal_keys(urls: pl.Series) -> pl.Series:
    """What removal lists compare of `requested` links.

    http and https make no difference, nor do escapes of letters that need none, their case, and dots in paths
    (RFC 3986, section 6.2.2).
    """
    return _replaced(urls.str.replace(_SCHEME, ""), urls.str.contains(_VARIABLE), _normal)


def hosts(urls: pl.Series) -> pl.Series:
    """The host of each `requested` link, addresses of IPv6 in brackets; null for what is no link."""
    return urls.str.extract(_HOST, 1).alias("host")


def _replaced(urls: pl.Series, which: pl.Series, change: Callable[[str], str]) -> pl.Series:
    rows = which.arg_true()
    return urls.scatter(rows, [change(url) for url in urls.gather(rows)]) if len(rows) else urls


def _requested(text: str) -> str:
    try:
        return request_url(text)
    except UrlError:
        return text.strip()


def _normal(key: str) -> str:
    try:
        return str(URL(f"http://{key}")).removeprefix("http://")
    except (ValueError, IndexError):  # it is never asked for; yarl stumbles over `[@`
        return key
