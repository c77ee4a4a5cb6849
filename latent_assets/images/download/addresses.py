"""Which addresses are connected to: a resolver whose answers are checked, and sockets that check once more.

A name is resolved, every address it has is checked, and the connection is made to one of those checked addresses:
nothing is resolved a second time, so a name cannot change its mind in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from latent_assets.errors import ResourceError
from latent_assets.images.download.lookups import LOOKUPS_AT_ONCE, Lookup, Lookups, NameLookupError
from latent_assets.limits import shortage

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
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
_DEAD_NAME_SECONDS = 60.0
# of the request that is made in this context
socket_faults: ContextVar[list[ResourceError] | None] = ContextVar("socket_faults", default=None)
# names that no public name server knows (RFC 2606, 6761, 6762, 7686, 8375, 9476; `internal` by ICANN)
_RESERVED = ("alt", "example", "home.arpa", "internal", "invalid", "local", "localhost", "onion", "test")


class RefusedAddressError(OSError):
    """A host with an address that is not on the public internet."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(f"{host} is at {address}, which is not a public address")
        self.host = host
        self.address = address


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


@lru_cache(10_000)
def reserved_name(host: str) -> str | None:
    """The reserved top level that a name is under: no name server of the public internet is asked for it."""
    name = f".{host.rstrip('.').lower()}"
    return next((f".{reserved}" for reserved in _RESERVED if name.endswith(f".{reserved}")), None)


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp; a name with any address that is not public is refused as a whole.

    Names that do not resolve are remembered for a minute, so that a thousand links to a dead host ask once. `at_once`:
    lookups at a time; `answered` is called whenever the name server answered.
    """

    def __init__(
        self, lookup: Lookup | None = None, at_once: int = LOOKUPS_AT_ONCE, answered: Callable[[], None] = lambda: None
    ) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="dns") if lookup is None else None
        self._lookups = Lookups(lookup or self._system_lookup, at_once, answered)
        self._dead: dict[str, tuple[float, str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The checked addresses of a name. Raises RefusedAddressError, and what `Lookups.ask` does."""
        now = asyncio.get_running_loop().time()
        until, message = self._dead.get(host, (0.0, ""))
        if now < until:
            raise NameLookupError(message, True)
        try:
            addresses = await self._lookups.ask(host, port)
        except NameLookupError as error:
            if error.final:
                self._dead[host] = (now + _DEAD_NAME_SECONDS, str(error))
            raise
        for address in addresses:
            if not is_public(address):
                raise RefusedAddressError(host, address)
        if not addresses:
            raise NameLookupError(f"{host} has no address", True)
        return [_result(host, address, port) for address in addresses]

    def stuck(self, host: str, since: float) -> ResourceError | None:
        """The fault of this side for which a name that was wanted since then (loop time) has no address yet."""
        return self._lookups.stuck(host, since)

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
        return make(info) if make else routed_socket(info)

    return factory


def routed_socket(info: Any) -> socket.socket:
    """A socket towards an address, if this machine has a way there by its IP version.

    Of IPv6 on a machine without, the system says what it says of ports that ran out (EADDRNOTAVAIL).
    """
    if info[0] == socket.AF_INET6 and not _routed(info[4]):
        raise OSError(errno.ENETUNREACH, f"no IPv6 on this machine, for {info[4][0]}")
    return socket.socket(info[0], info[1], info[2])


def _routed(address: tuple[Any, ...]) -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.connect(address)
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def noting_faults(make: SocketFactory) -> SocketFactory:
    """A socket factory that keeps the faults of this side in `socket_faults`.

    Of a host with several addresses, what went wrong with the last is all that is said otherwise.
    """

    def factory(info: Any) -> socket.socket:
        try:
            return make(info)
        except OSError as error:
            if (fault := shortage(error)) is not None and (faults := socket_faults.get()) is not None:
                faults.append(fault)
            raise

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
