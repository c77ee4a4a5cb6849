"""What a file of fitted maps says of itself, read without the maps and without what places rows on them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from latent_assets.errors import NotBuiltError
from latent_assets.layout import model_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage


def read_header(storage: Storage, fingerprint: str) -> dict[str, Any]:
    """The JSON of a model file, without its arrays. Raises NotBuiltError when the model is not there."""
    name = model_name(fingerprint)
    if not storage.exists(name):
        raise NotBuiltError(f"{storage.uri(name)} is not there: no map was fitted. Run `latent-assets build`.")
    with storage.open(name) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(json.loads(file.read(length))["__metadata__"]["model"])
    return header
