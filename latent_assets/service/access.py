"""Who may ask: hosts and origins, the token, how many requests are answered at once. Headers that all answers have."""

from __future__ import annotations

import hmac
import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_assets.service.problems import problem

HEALTH = "/api/health"
COOKIE = "latent_assets_token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST = 512  # requests that are answered at once, of all clients
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
# of everything that is no page of the viewer
NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'; sandbox"


@dataclass(frozen=True)
class Access:
    """hosts: names this service is asked by; empty for any. token: what has to be shown; None for nothing.

    per_client: requests of one client that are answered at once.
    """

    hosts: tuple[str, ...]
    token: str | None
    per_client: int


def is_loopback(host: str) -> bool:
    """Whether a service that listens on `host` is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def allowed_hosts(host: str, further: Sequence[str]) -> tuple[str, ...]:
    """The names by which a service on `host` may be asked: on loopback only its own, or any page could ask it by a name
    that leads here (DNS rebinding)."""
    if further:
        return (*further, *_LOOPBACK)
    return (host, *_LOOPBACK) if is_loopback(host) else ()


def client_of(scope: Scope) -> str:
    """Who asks: the address, of IPv6 its network."""
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Guard:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._clients: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", NOTHING_ALLOWED)
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, sending)
            return
        client = client_of(scope)
        if self._clients[client] >= self._access.per_client or self._clients.total() >= _MOST:
            busy = problem(429, "Too many requests at once: ask again later.", {"Retry-After": "1"})
            await busy(scope, receive, sending)
            return
        self._clients[client] += 1
        try:
            await self._app(scope, receive, sending)
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Why a request is not answered; None when it is."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self._access.hosts and _name(f"//{host}") not in self._access.hosts:
            return problem(421, f"This service is not asked by the name {host[:100]!r}: see --allow-host.")
        if scope["method"] not in _SAFE and not _same_origin(headers, host):
            return problem(403, "Pages of other sites may not ask this service to do something.")
        if self._access.token is None or path == HEALTH:
            return None
        if self._is_token(headers.get("authorization", "").removeprefix("Bearer ")) or self._is_token(_cookie(headers)):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if path == "/" and self._is_token(query.pop("token", [""])[0]):
            # a browser shows it once; what it keeps goes to this site only, and no script can read it
            answer = RedirectResponse(f"/?{urlencode(query, doseq=True)}" if query else "/", 303)
            answer.set_cookie(COOKIE, self._access.token, httponly=True, samesite="strict", path="/")
            return answer
        detail = "Show the token of this service: `Authorization: Bearer TOKEN`, or open /?token=TOKEN in a browser."
        return problem(401, detail, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, value: str) -> bool:
        token = self._access.token or ""
        return bool(value) and hmac.compare_digest(value.encode("utf-8", "replace"), token.encode())


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a request comes from a page of this service, or from no page at all."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
