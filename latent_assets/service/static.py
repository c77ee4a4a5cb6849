"""Files that are served as they are: a release's tiles, by ranges, and the viewer as it was built."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from latent_assets.layout import TILES, TILES_INDEX
from latent_assets.service.problems import ProblemError

if TYPE_CHECKING:
    from latent_assets.storage import Storage

_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PIECE = 1 << 20
IMMUTABLE = "public, max-age=31536000, immutable"
# what the viewer needs, and nothing else: its own scripts and styles, pictures made in memory, its own API
VIEWER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_NO_VIEWER = """<!doctype html><html lang="en"><meta charset="utf-8"><title>latent_assets</title>
<h1>latent_assets</h1><p>The API is here: <a href="/api/openapi.json">/api/openapi.json</a>. The viewer was not
built: run <code>make viewer</code> in the checkout, or install the package again.
"""


def tile(storage: Storage, path: str, wanted: str | None, match: str | None) -> Response:
    """A file below `tiles/`, whole or the range that a header asks for. Raises ProblemError."""
    if not _NAME.fullmatch(path):
        raise ProblemError(404, "There is no such tile.")
    found = storage.stored_file(f"{TILES}/{path}")
    if found is None or (storage.is_local and not Path(storage.uri(found.name)).is_file()):
        raise ProblemError(404, "There is no such tile.")
    headers = {
        "ETag": f'"{found.size:x}-{int(found.modified * 1e6):x}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache" if found.name == TILES_INDEX else IMMUTABLE,
    }
    if match is not None and headers["ETag"] in match:
        return Response(status_code=304, headers=headers)
    kind = "application/json" if path.endswith(".json") else _kind(path)
    span = _span(wanted, found.size)
    if span is None:
        headers["Content-Length"] = str(found.size)
        return StreamingResponse(_pieces(storage, found.name, 0, found.size), 200, headers, kind)
    start, stop = span
    headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{found.size}", "Content-Length": str(stop - start)}
    return StreamingResponse(_pieces(storage, found.name, start, stop), 206, headers, kind)


def viewer_folder() -> Path | None:
    """Where the built viewer lies; None when it was not built."""
    folder = Path(str(resources.files("latent_assets"))) / "web" / "dist"
    return folder if (folder / "index.html").is_file() else None


def viewer_file(folder: Path | None, path: str) -> Response:
    """A file of the viewer; its page for the address without a path. Raises ProblemError."""
    headers = {"Content-Security-Policy": VIEWER_POLICY}
    if folder is None:
        if path:
            raise ProblemError(404, "There is nothing at this address: /api/openapi.json says what there is.")
        return HTMLResponse(_NO_VIEWER, headers=headers)
    name = path or "index.html"
    file = folder / name
    if not _NAME.fullmatch(name) or not file.is_file():
        raise ProblemError(404, "There is nothing at this address: /api/openapi.json says what there is.")
    # Vite names what it builds by content, below assets/
    headers["Cache-Control"] = IMMUTABLE if name.startswith("assets/") else "no-cache"
    return FileResponse(file, headers=headers, media_type=_kind(name))


def _kind(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _span(wanted: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a Range header asks for; None for the whole (several ranges are not served).

    Raises ProblemError for a range outside of the file.
    """
    found = _RANGE.fullmatch(wanted.strip()) if wanted else None
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        start, stop = int(found[1]), int(found[2]) + 1 if found[2] else size
        if found[2] and stop <= start:
            return None  # not a range: to be ignored (RFC 9110, 14.1.1)
    else:
        start, stop = max(0, size - int(found[2])), size
    if start >= size:
        raise ProblemError(416, "The file ends before that range.", {"Content-Range": f"bytes */{size}"})
    return start, min(stop, size)


def _pieces(storage: Storage, name: str, start: int, stop: int) -> Iterator[bytes]:
    with storage.open(name) as file:
        file.seek(start)
        left = stop - start
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece
