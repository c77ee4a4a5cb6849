"""The files of a generated image: a PNG that tells its parameters, and a JSON beside it that tells its path.

The same image, parameters and path give the same bytes: an image that is made twice is one image in the inbox.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.PngImagePlugin import PngInfo

from latent_assets.generated.metadata.reading import write_parameters, write_sidecar
from latent_assets.layout import INBOX

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.generated.metadata.generation import Generation
    from latent_assets.storage import Storage

Steps = Sequence[tuple[int, Mapping[str, tuple[float, float, float]]]]


@dataclass(frozen=True)
class WrittenImage:
    """id: SHA-256 of the PNG. name: without suffix, of the prompt's words and the id. png, sidecar: the files."""

    id: str
    name: str
    png: bytes
    sidecar: bytes

    @classmethod
    def of(cls, png: bytes, generation: Generation, path: Steps, release: int | None, latents: str) -> WrittenImage:
        """The files of an image; `path` in map units of `release`, `latents`: how its steps came onto the maps."""
        words = re.sub(r"[^a-z0-9]+", "-", (generation.prompt or "").lower()).strip("-")[:40].strip("-")
        digest = hashlib.sha256(png).hexdigest()
        values: dict[str, Any] = json.loads(write_sidecar(generation))
        values |= {
            "release": release,
            "path_latents": latents,
            "path": [{"step": step, "places": {space: list(xyz) for space, xyz in xyz.items()}} for step, xyz in path],
        }
        text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
        return cls(digest, f"{words or 'image'}-{digest[:12]}", png, text.encode())

    def drop(self, storage: Storage) -> str:
        """Put the files into the inbox, the image last; its name there. Raises StorageError when that is not possible.

        Each file appears whole: the inbox never sees half of one.
        """
        storage.write_bytes(f"{INBOX}/{self.name}.json", self.sidecar)
        storage.write_bytes(f"{INBOX}/{self.name}.png", self.png)
        return f"{INBOX}/{self.name}.png"


def write_image(image: Image.Image, generation: Generation) -> bytes:
    """A PNG whose chunk `parameters` says how it was generated, as AUTOMATIC1111 and its like write and read it."""
    info = PngInfo()
    info.add_text("parameters", write_parameters(generation))
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=info)
    return file.getvalue()
