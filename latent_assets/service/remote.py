"""Asking the service that runs for a root, instead of loading models: what `latent-assets search` does where it can.

Standard library only: this is imported by commands that have to be quick.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import fields
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from latent_assets.errors import NotBuiltError, QueryError
from latent_assets.service.record import Record, read_record

if TYPE_CHECKING:
    from latent_assets.client import Hit, Mode
    from latent_assets.generated.placement.placed import Placed, Placement

_CONNECT, _ANSWER = 2.0, 30.0  # seconds
_MOST_ANSWER = 64 << 20
LONGEST_QUERY = 1_000  # characters
# the client's words -> the API's
_MODES = {"clip": "meaning", "words": "words", "hybrid": "both"}


class UnavailableError(Exception):
    """The service cannot answer this now: ask without it."""


class RemoteAtlas:
    """A running service. Its answers are those of `client.Atlas` on the release it serves."""

    def __init__(self, record: Record, release: int) -> None:
        self._record, self.release = record, release
        self.notice = ""  # what the answer said of the atlas's models

    @property
    def url(self) -> str:
        """Where the service listens."""
        return self._record.url

    @classmethod
    def running(cls, root: str) -> RemoteAtlas | None:
        """The service of a root; None when none runs, or none that is ready."""
        record = read_record(root)
        if record is None:
            return None
        try:
            # the token goes to nobody who has not said first what only the service knows
            health = _request(record, "GET", "/api/health", timeout=_CONNECT, token=None)
        except (UnavailableError, QueryError, NotBuiltError):
            return None
        if health.get("instance") != record.instance or health.get("status") != "ready":
            return None
        return cls(record, int(health["release"]))

    def search_text(
        self, text: str, k: int, *, mode: Mode = "clip", offset: int = 0, where: str | None = None
    ) -> list[Hit]:
        """As `Atlas.search_text`. Raises UnavailableError besides."""
        from latent_assets.client import checked_text

        words = checked_text(text)
        if len(words) > LONGEST_QUERY or len(where or "") > LONGEST_QUERY:
            raise UnavailableError(f"it takes at most {LONGEST_QUERY:,} characters")
        among = {} if where is None else {"where": where}
        return self._hits(self._get("/api/search", q=words, k=k, mode=_MODES[mode], offset=offset, **among))

    def search_image(self, image: Path, k: int, space: str) -> list[Hit]:
        """As `Atlas.search_image` of a file. Raises UnavailableError besides."""
        return self._hits(self._post("/api/search", image, k=k, space=space))

    def neighbors(self, row_id: str, k: int, space: str) -> list[Hit]:
        """As `Atlas.neighbors`. Raises UnavailableError besides."""
        from latent_assets.client import checked_id

        return self._hits(self._get(f"/api/images/{checked_id(row_id)}/neighbours", k=k, space=space))

    def place(self, image: Path) -> Placed:
        """As `Atlas.place` of a file, without its vectors. Raises UnavailableError besides."""
        from latent_assets.generated.placement.placed import Neighbour, Placed, Placement, PossibleCopy, Share

        def of(kind: type[Any], values: dict[str, Any] | None, **others: Any) -> Any:
            """What the API says, without what it adds to it."""
            if values is None:
                return None
            known = {field.name for field in fields(kind)} - others.keys()
            return kind(**{name: value for name, value in values.items() if name in known}, **others)

        def judged(values: dict[str, Any]) -> dict[str, Any]:
            behind = tuple(of(Share, share) for share in values["behind"])
            return {"copy": of(PossibleCopy, values["copy"]), "behind": behind}

        def placement(values: dict[str, Any]) -> Placement:
            neighbours = tuple(of(Neighbour, item) for item in values["neighbours"])
            found: Placement = of(
                Placement, values, position=tuple(values["position"]), neighbours=neighbours, **judged(values)
            )
            return found

        answer = self._post("/api/place", image)
        self.release = answer["release"]
        placements = {space: placement(values) for space, values in answer["placements"].items()}
        found: Placed = of(Placed, answer, placements=placements, calibration="", vectors={}, **judged(answer))
        return found

    def _hits(self, answer: dict[str, Any]) -> list[Hit]:
        from latent_assets.client import Hit

        self.release, self.notice = answer["release"], answer.get("notice", "")
        return [
            Hit(
                id=hit["id"],
                score=hit["similarity"],
                measure=hit["measure"],
                caption=hit["caption"],
                category=hit["category"],
                url=hit["url"],
                source_url=hit["source_url"],
                xyz={space: (xyz[0], xyz[1], xyz[2]) for space, xyz in hit["positions"].items()},
            )
            for hit in answer["results"]
        ]

    def _get(self, path: str, **query: Any) -> dict[str, Any]:
        return _request(self._record, "GET", f"{path}?{urlencode(query)}", token=self._record.token)

    def _post(self, path: str, image: Path, **query: Any) -> dict[str, Any]:
        try:
            data = image.expanduser().read_bytes()
        except OSError as error:
            raise QueryError(f"{image} cannot be read as an image ({error}).") from error
        border = secrets.token_hex(16)
        head = (
            f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + data + f"\r\n--{border}--\r\n".encode()
        kind = f"multipart/form-data; boundary={border}"
        address = f"{path}?{urlencode(query)}"
        return _request(self._record, "POST", address, token=self._record.token, body=body, kind=kind)


def _request(
    record: Record,
    method: str,
    path: str,
    *,
    token: str | None,
    timeout: float = _ANSWER,
    body: bytes | None = None,
    kind: str = "",
) -> dict[str, Any]:
    """The JSON of an answer. Raises QueryError or NotBuiltError for what the question is to blame for."""
    address = urlsplit(record.url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    headers = {"Accept": "application/json", **({"Content-Type": kind} if body is not None else {})}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        found = json.loads(response.read(_MOST_ANSWER))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(f"{record.url} does not answer ({error})") from error
    finally:
        connection.close()
    if response.status == 200:
        return found
    detail = str(found.get("detail", response.reason))
    if response.status == 404:
        raise NotBuiltError(detail)
    if response.status == 422:
        raise QueryError(detail)
    # overloaded, an image too large for it, a token that has changed: all of this can be done without it
    raise UnavailableError(f"{record.url} answered {response.status}: {detail}")
