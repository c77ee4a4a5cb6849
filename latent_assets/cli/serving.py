"""Commands that serve: `ui` the Dagster UI, `serve` the atlas in the browser, `demo` both once it is built."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from latent_assets.cli.building import build
from latent_assets.cli.console import out
from latent_assets.cli.generating import generate
from latent_assets.cli.options import ProfileOption, announce_home, profile_reference, selected_profile
from latent_assets.errors import ProfileError
from latent_assets.profile import PICTURES_VARIABLE, PROFILE_VARIABLE

_HOST = "127.0.0.1"
SERVICE_PORT = 3100
_PROMPT, _SEED = "a red apple", 1
_LINEAGE = "asset-groups"  # page of Dagster's webserver with the graph of all assets; the first page is a timeline
PortOption = Annotated[int, typer.Option(min=1, max=65_535, help="Port of the UI, on loopback.")]


def demo(
    serve: Annotated[
        bool, typer.Option(help="Open the atlas in the browser and in the Dagster UI when it is built.")
    ] = True,
    port: PortOption = 3000,
) -> None:
    """Build the embedded default atlas, place an image made from a text on it, and open it in the browser and in the
    Dagster UI."""
    if serve:
        check_port(port)
    build("demo")
    out.print(f'\nlatent-assets generate "{_PROMPT}" --seed {_SEED}', highlight=False)
    generate(_PROMPT, seed=_SEED, profile="demo")
    if serve:
        with serving_viewer("demo") as address:
            out.print(f"\nThe atlas in the browser: {address}", highlight=False)
            ui(["demo"], port)


@contextmanager
def serving_viewer(profile: str) -> Iterator[str]:
    """Have a process answer over HTTP as `serve` does, on loopback, as long as the block lasts; its address."""
    port = _free_port(SERVICE_PORT)
    command = [sys.executable, "-m", "latent_assets.cli", "serve", "--profile", profile, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"http://{_HOST}:{port}/"
    finally:
        process.terminate()
        process.wait()


def ui(
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", "-p", help="Name or path of a profile; several atlases with several of them."),
    ] = None,
    port: PortOption = 3000,
) -> None:
    """Open the Dagster UI on the atlas's instance (loopback only)."""
    from latent_assets.defs.instance import limit_pools, open_instance, write_workspace
    from latent_assets.defs.pictures import serving_pictures

    names: list[str | None] = list(profile) if profile else [None]
    chosen = [selected_profile(name) for name in names]
    check_port(port)
    announce_home(chosen)
    os.environ[PROFILE_VARIABLE] = ",".join(profile_reference(name) for name in names)
    with open_instance(chosen[0]) as instance:
        for each in chosen:
            limit_pools(instance, each)
    workspace = write_workspace(chosen[0])
    with serving_pictures(chosen) as address:
        environment = {**os.environ, PICTURES_VARIABLE: address}
        command = [sys.executable, "-W", "ignore", "-m", "dagster", "dev", "-w", str(workspace), "-h", _HOST]
        out.print(f"Dagster UI: http://{_HOST}:{port}/{_LINEAGE}  (stop with Ctrl+C)", highlight=False)
        # a shell starts what it puts into the background (`make dev &`) with interrupts ignored, and Dagster would
        # then ignore SIGTERM as well
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen([*command, "-p", str(port), "--log-level", "warning"], env=environment)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:
            code = process.wait()
    raise typer.Exit(code)


def serve(
    profile: ProfileOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; elsewhere than on loopback a token is needed.")] = (
        _HOST
    ),
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the service.")] = SERVICE_PORT,
    read_only: Annotated[bool, typer.Option("--read-only", help="Keep no images and make none.")] = False,
    generation: Annotated[bool, typer.Option(help="Make images from prompts, with the profile's model.")] = True,
    public: Annotated[bool, typer.Option("--public", help="With --read-only: anybody may read, without a token.")] = (
        False
    ),
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only asked by this name (several: repeat it).")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A proxy whose X-Forwarded-For is believed.")
    ] = None,
) -> None:
    """Answer over HTTP: searches, images, placements of uploaded ones; and the viewer in a browser."""
    from latent_assets.service.server import TOKEN_VARIABLE, check_token
    from latent_assets.service.server import serve as listen

    chosen = selected_profile(profile)
    token = os.environ.get(TOKEN_VARIABLE) or None
    if public and not read_only:
        raise ProfileError("--public lets anybody read: it goes with --read-only.")
    check_token(host, token, public)
    check_port(port, host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    out.print(f"The atlas {chosen.name}: {address}  (stop with Ctrl+C)")
    listen(
        chosen,
        host,
        port,
        token=None if public else token,
        writes=not read_only,
        generation=generation and not read_only,
        hosts=allow_host or (),
        proxies=proxy or (),
    )


def check_port(port: int, host: str = _HOST) -> None:
    """Raises ProfileError when nothing can be served on `port`, with the next one that is free."""
    error = _refusal(port, host)
    if error is None:
        return
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        raise ProfileError(f"Nothing can be served on {host}:{port}: {error.strerror}.") from error
    what = "is taken, maybe by a UI that is open already" if error.errno == errno.EADDRINUSE else "may not be used"
    free = _free_port(port + 1, host)
    other = "" if free is None else f" Port {free} is free: `--port {free}` (with make: `PORT={free}`)."
    raise ProfileError(f"Port {port} of {host} {what}; nothing was started.{other}")


def _free_port(first: int, host: str = _HOST) -> int | None:
    """The next port from `first` on that can be served on, then from 3000 on; None when there is none."""
    return next((port for port in [*range(first, 65_536), *range(3000, first)] if _refusal(port, host) is None), None)


def _refusal(port: int, host: str) -> OSError | None:
    """Why a server cannot listen on a port of an address; None when it can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the webserver does: closed ones may linger
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            return error
    return None
