"""Names and what they resolve to, for tests: public addresses lead to a site on loopback, no question leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from latent_assets.images.download.http_client import Network
from latent_assets_tests.images.site import Site

PUBLIC = "93.184.215.14"


def temporary_failure() -> socket.gaierror:
    """What the system says when the name server does not answer, or has too much to do."""
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class NameServer:
    """Answers for every name, after `takes` seconds; `fails` decides, by what is going on, when it does not."""

    def __init__(
        self, fails: Callable[[NameServer, str], bool] = lambda server, host: False, takes: float = 0.0
    ) -> None:
        self._fails, self._takes = fails, takes
        self.lookups: list[str] = []
        self.active = self.most_active = 0

    async def lookup(self, host: str, port: int) -> list[str]:
        self.lookups.append(host)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            fails = self._fails(self, host)
            await asyncio.sleep(self._takes)
            if fails:
                raise temporary_failure()
            return [PUBLIC]
        finally:
            self.active -= 1


def wired(site: Site) -> Callable[[Any], socket.socket]:
    """A socket factory whose connections go to the site, whatever the address."""

    class Wire(socket.socket):
        def connect(self, address: Any) -> None:
            super().connect(("127.0.0.1", site.port))

    return lambda info: Wire(socket.AF_INET, socket.SOCK_STREAM)


def network(site: Site, server: NameServer) -> Network:
    """Names by that server, connections to that site."""
    return Network(lookup=server.lookup, socket_factory=wired(site))
