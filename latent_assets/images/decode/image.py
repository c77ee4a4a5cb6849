"""From bytes of unknown origin to the image that is stored: sniffed, measured, decoded, upright, sRGB, resized.

And from there to the pixels that an encoder is shown: whatever shows an image to one decodes it here. Pure functions
of the bytes and the profile; where the bytes come from is not known here. Whatever a decoder makes of hostile input is
a reason for that row.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from latent_assets.errors import StorageError
from latent_assets.images.decode import jpeg
from latent_assets.images.decode.formats import EXTENSIONS, sniff
from latent_assets.images.decode.limits import check_pixels
from latent_assets.images.decode.metadata import without_metadata
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.limits import MEMORY, resource_error, shortage

if TYPE_CHECKING:
    from PIL import Image

    from latent_assets.profile import Fetch

_BYTES_A_PIXEL = 16  # four channels, decoded, turned, converted and resized
_ROOM = 32 << 20
# what Pillow, libjpeg and OpenCV say
_OUT_OF_MEMORY = ("out of memory error", "Insufficient memory")


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

    Raises FetchError, StorageError where a library cannot be loaded, ResourceError where memory or files are short.

    Every stored image is opaque 8-bit sRGB without metadata; transparency is laid on white. With
    `format = "raw"` the coded pixels stay as they are: the image is checked and metadata is left out. An image that is
    too long for `format` (WebP ends at 16,383 pixels, JPEG at 65,500) is stored as JPEG or PNG; `extension` tells.
    """
    with _reasons(data) as kind:
        return (_raw if settings.format == "raw" else _encoded)(data, kind, settings)


def decode_image(data: bytes, limits: Fetch | None = None) -> Image.Image:
    """What encoders and thumbnails are shown of an image file: RGB (uint8 [height, width, 3]), upright, opaque sRGB.

    Nothing is resized: what of it a model sees is the model's to choose. Without the `limits` of a profile for files of
    our own only. Raises FetchError for what is no image, or beyond the limits.
    """
    with _reasons(data) as kind:
        from PIL import Image

        from latent_assets.images.decode.pixels import decode

        return Image.fromarray(decode(data, kind, _as_is() if limits is None else _whole(limits))[0])


def decode_as_stored(image: bytes | Image.Image, settings: Fetch) -> Image.Image:
    """What encoders would be shown of an image that was stored as `settings` say: as `decode_image` gives it.

    The very file that is in an atlas gives the very pixels that its vectors were made from. `image` is a file's bytes
    or what Pillow opened of one. Raises as `store_image` does.
    """
    return decode_image(stored_like(image, settings).data)


def stored_like(image: bytes | Image.Image, settings: Fetch) -> StoredImage:
    """`store_image` of a file's bytes, or of what Pillow opened of one."""
    if not isinstance(image, bytes):
        from latent_assets.images.decode.pixels import pixels_of, png

        image = png(pixels_of(image))
    return store_image(image, settings)


def _whole(limits: Fetch) -> Fetch:
    return limits.model_copy(update={"resize": "none"})


@cache
def _as_is() -> Fetch:
    from latent_assets.profile import Fetch

    return Fetch(resize="none", max_pixels=2**62)


@contextmanager
def _reasons(data: bytes) -> Iterator[str]:
    """The format of an image; whatever the block raises over it becomes a FetchError that says what is wrong."""
    if not data:
        raise FetchError(Reason.EMPTY, "no bytes")
    kind = sniff(data)
    try:
        yield kind
    except FetchError:
        raise
    except ImportError as error:  # says nothing of the image
        raise _no_library(error) from error
    except Exception as error:  # decoders raise whatever they like on hostile input
        fault = shortage(error)
        if fault is None and any(text in str(error) for text in _OUT_OF_MEMORY):
            fault = resource_error(MEMORY, error)
        if fault is not None and (fault.resource != MEMORY or not _fits(data)):
            raise fault from error
        raise FetchError(Reason.CORRUPT, f"{kind}: {type(error).__name__}: {error}") from error


def _fits(data: bytes) -> bool:
    """Whether there is the memory that an image's pixels take: a decoder that asks for more was led to it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.width * image.height
    except MemoryError:
        return False
    except Exception:
        pixels = 0
    try:
        bytearray(_BYTES_A_PIXEL * pixels + _ROOM)
    except (MemoryError, OverflowError):
        return False
    return True


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
    encoded, format = encode(pixels, settings)
    return StoredImage(
        data=encoded,
        extension=EXTENSIONS[format],
        bytes=len(data),
        width=width,
        height=height,
        stored_width=pixels.shape[1],
        stored_height=pixels.shape[0],
        sha256=hashlib.sha256(data).hexdigest(),
        stored_sha256=hashlib.sha256(encoded).hexdigest(),
    )


def _raw_jpeg(data: bytes) -> bytes:
    """Without metadata; with the end that some lack behind all of their pixels. Raises ValueError."""
    try:
        return without_metadata(data, "jpeg")
    except jpeg.NoEndError:
        from latent_assets.images.decode.pixels import ended

        return without_metadata(ended(data), "jpeg")


def _raw(data: bytes, kind: str, settings: Fetch) -> StoredImage:
    """Check everything that can be checked without decoding a JPEG, and leave metadata out.

    What only a decoder can part from its metadata (TIFF, AVIF) is stored as a PNG of the same pixels.
    """
    extension = EXTENSIONS[kind]
    if kind == "jpeg":
        header = jpeg.read_header(data)
        check_pixels(header.width, header.height, 1, settings)
        (width, height), stored = header.upright_size, _raw_jpeg(data)
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
