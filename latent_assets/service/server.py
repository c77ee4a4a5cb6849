"""A process that listens: sockets, signals, the log, and the record by which the command line finds it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch
import uvicorn
from fastapi import FastAPI

from latent_assets.errors import ProfileError
from latent_assets.profile import Profile
from latent_assets.service.access import Access, allowed_hosts, is_loopback
from latent_assets.service.api import Service, create_app
from latent_assets.service.record import Record, recorded

_CONNECTIONS = 1_000
TOKEN_VARIABLE = "LATENT_ASSETS_TOKEN"


def check_token(host: str, token: str | None, public: bool) -> None:
    """Raises ProfileError for a service that others would reach and that asks for no token, or for one that no header
    can carry."""
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ProfileError(f"{TOKEN_VARIABLE} has to be ASCII characters without spaces.")
    if not is_loopback(host) and not token and not public:
        raise ProfileError(
            f"A service on {host} can be reached by others: set {TOKEN_VARIABLE} to what they have to show (for "
            "example the output of `openssl rand -hex 32`), or let anybody read with `--read-only --public`."
        )


def serve(
    profile: Profile,
    host: str,
    port: int,
    *,
    token: str | None,
    writes: bool,
    generation: bool,
    hosts: Sequence[str] = (),
    proxies: Sequence[str] = (),
) -> None:
    """Answer on `host` and `port` until a signal comes. proxies: addresses whose X-Forwarded-For is believed."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("latent_assets").setLevel(logging.INFO)
    # requests share the processors
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    service = Service(profile, writes=writes, generation=generation)
    app = create_app(service, Access(allowed_hosts(host, hosts), token, 4 * profile.service.per_client))
    record = Record(profile.root.rstrip("/"), os.getpid(), host, port, service.instance, token)
    # uvicorn ends its requests, then raises the signal again: the record has to go as well
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with recorded(record), suppress(KeyboardInterrupt):
        uvicorn.Server(configuration(app, host, port, proxies)).run()


def configuration(app: FastAPI, host: str, port: int, proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How uvicorn serves: without an access log, which would hold what people look for, and in bounds."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies) or None,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        lifespan="on",
        ws="none",
    )
