"""Serving the pictures that events refer to: on loopback, read-only, nothing else of the root."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from latent_assets.errors import LatentAssetsError
from latent_assets.profile import Profile
from latent_assets.storage import Storage

# as `metadata` names them: no dots but the one before the kind, so nothing leads out of the folder
_PLACE = re.compile(
    r"/(?P<profile>[a-z0-9._-]+)/(?P<place>pictures/[A-Za-z0-9_-]+/[A-Za-z0-9]+/[A-Za-z0-9_-]+\.(png|webp))\Z"
)


@contextmanager
def serving_pictures(profiles: Sequence[Profile]) -> Iterator[str]:
    """Serve the pictures of atlases inside the block; yields the address to put before `/{profile}/{place}`."""
    roots = {profile.name: Storage(profile.root) for profile in profiles}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = _PLACE.match(unquote(self.path))
            storage = roots.get(found["profile"]) if found else None
            try:
                data = storage.read_bytes(found["place"]) if storage and found else None
            except LatentAssetsError:
                data = None
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", f"image/{self.path.rpartition('.')[2]}")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """The terminal is the UI's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, name="pictures", daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
