"""From bytes of unknown origin to the image that is stored: sniffed, measured, decoded, upright, sRGB, resized.

Pure functions of the bytes and the profile; where the bytes come from is not known here. Whatever a decoder makes of
hostile input is a reason for that row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from latent_assets.errors import StorageError
from latent_assets.images.decode import jpeg
from latent_assets.images.decode.formats import EXTENSIONS, sniff
from latent_assets.images.decode.limits import check_pixels
from latent_assets.images.decode.metadata import without_metadata
from latent_assets.images.outcome import FetchError, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch


@dataclass(frozen=True)
class StoredImage:
    """An image as it goes into the tar, and what it was: sizes in pixels, upright; hashes in hexadecimal."""

    data: bytes
    extension: str
    bytes: int
    width: int
    height: int
    stored_width: int
    stored_height: int
    sha256: str
    stored_sha256: str


def store_image(data: bytes, settings: Fetch) -> StoredImage:
    """Check, decode, turn, convert, resize and encode as the profile says.

    Raises FetchError, and StorageError where a library cannot be loaded.

    Every stored image is opaque 8-bit sRGB without metadata; transparency is laid on white. With
    `format = "raw"` the coded pixels stay as they are: the image is checked and metadata is left out.
    """
    if not data:
        raise FetchError(Reason.EMPTY, "no bytes")
    kind = sniff(data)
    try:
        return (_raw if settings.format == "raw" else _encoded)(data, kind, settings)
    except FetchError:
        raise
    except ImportError as error:  # says nothing of the image
        raise _no_library(error) from error
    except MemoryError as error:
        raise FetchError(Reason.TOO_MANY_PIXELS, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise whatever they like on hostile input
        raise FetchError(Reason.CORRUPT, f"{kind}: {type(error).__name__}: {error}") from error


def load_decoders() -> None:
    """Load what all but raw JPEGs need, before one comes. Raises StorageError where that cannot be done."""
    try:
        import_module("latent_assets.images.decode.pixels")
    except ImportError as error:
        raise _no_library(error) from error


def _no_library(error: ImportError) -> StorageError:
    return StorageError(
        f"Images cannot be decoded: {error}. Install Pillow, simplejpeg, OpenCV and NumPy again. What is stored stays."
    )


def _encoded(data: bytes, kind: str, settings: Fetch) -> StoredImage:
    from latent_assets.images.decode.pixels import decode, encode
    from latent_assets.images.decode.resize import fitted

    pixels, width, height = decode(data, kind, settings)
    pixels = fitted(pixels, settings)
    encoded = encode(pixels, settings)
    return StoredImage(
        data=encoded,
        extension=EXTENSIONS[settings.format],
        bytes=len(data),
        width=width,
        height=height,
        stored_width=pixels.shape[1],
        stored_height=pixels.shape[0],
        sha256=hashlib.sha256(data).hexdigest(),
        stored_sha256=hashlib.sha256(encoded).hexdigest(),
    )


def _raw(data: bytes, kind: str, settings: Fetch) -> StoredImage:
    """Check everything that can be checked without decoding a JPEG, and leave metadata out.

    What only a decoder can part from its metadata (TIFF, AVIF) is stored as a PNG of the same pixels.
    """
    extension = EXTENSIONS[kind]
    if kind == "jpeg":
        header = jpeg.read_header(data)
        check_pixels(header.width, header.height, 1, settings)
        (width, height), stored = header.upright_size, without_metadata(data, kind)
    else:
        from latent_assets.images.decode.pixels import checked

        width, height, rewritten = checked(data, kind, settings)
        stored = rewritten or without_metadata(data, kind)
        extension = EXTENSIONS["png"] if rewritten else extension
    sha256 = hashlib.sha256(data).hexdigest()
    return StoredImage(
        data=stored,
        extension=extension,
        bytes=len(data),
        width=width,
        height=height,
        stored_width=width,
        stored_height=height,
        sha256=sha256,
        stored_sha256=sha256 if stored is data else hashlib.sha256(stored).hexdigest(),
    )
