"""A server that answers as the hub does: repositories, their files with digests, and ranges of bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files`: bytes by repository and name. `cut_after`: a connection breaks after so many bytes, `cuts` times.
    `lies`: names of which other bytes are given than the listing says. `ranges`: whether parts are given."""

    address: str
    files: dict[str, dict[str, bytes]]
    cut_after: int = 0
    cuts: int = 0
    lies: set[str] = field(default_factory=set)
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0


@contextmanager
def serving_hub(files: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """A hub on loopback as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.asked.append((self.path, self.headers.get("Range", "")))
            for repository, contents in hub.files.items():
                if self.path.partition("?")[0] == f"/api/models/{repository}":
                    return self._json(_listing(repository, contents))
                start = f"/{repository}/resolve/{COMMIT}/"
                if self.path.startswith(start) and (name := self.path.removeprefix(start)) in contents:
                    return self._file(name, contents[name])
            return self._json({"error": "Repository not found"}, 404)

        def _json(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _file(self, name: str, body: bytes) -> None:
            if name in hub.lies:
                body = bytes(len(body))
            first = 0
            if hub.ranges and (wanted := self.headers.get("Range")):
                first = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            part = body[first:]
            if hub.cuts and len(part) > hub.cut_after:
                hub.cuts -= 1
                part = part[: hub.cut_after]
            self.wfile.write(part)
            hub.sent += len(part)

        def log_message(self, *args: Any) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _listing(repository: str, contents: dict[str, bytes]) -> dict[str, Any]:
    siblings = []
    for name, body in contents.items():
        item: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": "0" * 40}
        if name.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(body).hexdigest()
            item["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 134}
        siblings.append(item)
    return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
