"""The URL of a row as the client asks for it, and the origin it belongs to; `latent_assets.urls` reads it."""

from __future__ import annotations

from yarl import URL

from latent_assets.images.outcome import FetchError, Reason
from latent_assets.urls import SchemeError, UrlError, request_url


def parse_url(text: str) -> URL:
    """The URL that a row of the metadata gives. Raises FetchError: `scheme_not_allowed` or `bad_url`."""
    try:
        return URL(request_url(text), encoded=True)
    except UrlError as error:
        raise FetchError(Reason.SCHEME if isinstance(error, SchemeError) else Reason.BAD_URL, str(error)) from error


def origin_of(url: URL) -> str:
    """`scheme://host:port`, lower case, the port always given."""
    host = url.raw_host or ""
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{url.port}".lower()
