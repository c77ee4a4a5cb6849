"""Which addresses are connected to: a resolver whose answers are checked, and sockets that check once more.

A name is resolved, every address it has is checked, and the connection is made to one of those checked addresses:
nothing is resolved a second time, so a name cannot change its mind in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[list[str]]]
SocketFactory = Callable[[Any], socket.socket]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
# not global although ipaddress says so in some versions, or a door to the inside
_REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7",
        "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_LOOKUP_THREADS = 64
_DEAD_NAME_SECONDS = 60.0
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class RefusedAddressError(OSError):
    """A host with an address that is not on the public internet."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} is at {address}, which is not a public address")
        self.host = host
        self.address = address


class NameLookupError(OSError):
    """A host whose name could not be resolved; `final` when the name server says there is no such name."""

    def __init__(self, message: str, final: bool) -> None:
        super().__init__(message)
        self.final = final


def is_public(address: str) -> bool:
    """Whether an address is on the public internet.

    Not public: loopback, private, link-local, carrier-grade NAT, multicast, reserved, documentation and
    benchmarking ranges (RFC 6890), and IPv6 forms that carry such an IPv4 address (mapped, compatible, NAT64,
    6to4, Teredo).
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if "%" in address:
        return False
    return all(_is_public(form) for form in _forms(parsed))


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _REFUSED_NETWORKS if network.version == address.version)


def _forms(address: Address) -> list[Address]:
    """The address and every IPv4 address it carries. The carrier of a carried address is not judged itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:
        return [low]
    if address in _IPV4_COMPATIBLE and int(address) > 1:
        return [low, ipaddress.IPv6Address("::1")]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    if address.teredo is not None:
        return [address, *address.teredo]
    return [address]


@lru_cache(10_000)
def literal_address(host: str) -> str | None:
    """The address that a URL's host is, or None for a name. Accepts the forms sockets accept (127.1, 0x7f.1)."""
    bare = host.strip("[]")
    try:
        return str(ipaddress.ip_address(bare.partition("%")[0]))
    except ValueError:
        pass
    last = bare.rstrip(".").rpartition(".")[2]
    if not last or not (last.isdigit() or last.lower().startswith("0x")):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(bare.rstrip(".")))
    except OSError:
        return bare


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp; a name with any address that is not public is refused as a whole.

    Names that do not resolve are remembered for a minute, so that a thousand links to a dead host ask once.
    """

    def __init__(self, lookup: Lookup | None = None) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="dns") if lookup is None else None
        self._lookup = lookup or self._system_lookup
        self._dead: dict[str, tuple[float, str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        now = asyncio.get_running_loop().time()
        until, message = self._dead.get(host, (0.0, ""))
        if now < until:
            raise NameLookupError(message, True)
        try:
            addresses = await self._lookup(host, port)
        except (OSError, UnicodeError) as error:
            final = isinstance(error, UnicodeError) or error.errno in _NO_SUCH_NAME
            if final:
                self._dead[host] = (now + _DEAD_NAME_SECONDS, f"{host}: {error}")
            raise NameLookupError(f"{host}: {error}", final) from error
        for address in addresses:
            if not is_public(address):
                raise RefusedAddressError(host, address)
        if not addresses:
            raise NameLookupError(f"{host} has no address", True)
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _system_lookup(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads,
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG),
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def checked_socket(make: SocketFactory | None = None) -> SocketFactory:
    """A socket factory for aiohttp that refuses to make a socket towards an address that is not public."""

    def factory(info: Any) -> socket.socket:
        address = str(info[4][0])
        if not is_public(address):
            raise RefusedAddressError(address, address)
        return make(info) if make else socket.socket(info[0], info[1], info[2])

    return factory


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
