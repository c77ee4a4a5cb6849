"""From bytes of unknown origin to the image that is stored: sniffed, measured, decoded, upright, sRGB, resized.

Pure functions of the bytes and the profile; where the bytes come from is not known here. Nothing is decoded
before its size in pixels has been read from the header and found acceptable.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms

from latent_assets.fetch import jpeg
from latent_assets.fetch.formats import EXTENSIONS, sniff
from latent_assets.fetch.metadata import without_metadata
from latent_assets.fetch.outcome import FetchError, Reason
from latent_assets.fetch.resize import fitted, target_size, upright

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

_LARGE_PIXELS = 20_000_000
_large_image: AbstractContextManager[object] = threading.Lock()
_TRANSPOSED = frozenset({5, 6, 7, 8})
_REWRITTEN = frozenset({"tiff", "avif"})
_SRGB = ImageCms.createProfile("sRGB")

# Pillow's remarks about odd files; what is wrong with one is in its ledger row
warnings.filterwarnings("ignore", module=r"PIL\.")


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


def take_turns(turn: AbstractContextManager[object]) -> None:
    """Decode huge images in `turn` only: never two at once, in this process and others. Without, in this one."""
    global _large_image
    _large_image = turn


def store_image(data: bytes, settings: Fetch) -> StoredImage:
    """Check, decode, turn, convert, resize and encode as the profile says. Raises FetchError.

    Every stored image is opaque 8-bit sRGB without metadata; transparency is laid on white. With
    `format = "raw"` the coded pixels stay as they are: the image is checked and metadata is left out.
    """
    if not data:
        raise FetchError(Reason.EMPTY, "no bytes")
    kind = sniff(data)
    try:
        if settings.format == "raw":
            return _store_raw(data, kind, settings)
        pixels, width, height = _decode(data, kind, settings)
        pixels = fitted(pixels, settings)
        encoded = _encode(pixels, settings)
    except FetchError:
        raise
    except Image.DecompressionBombError as error:
        raise FetchError(Reason.TOO_MANY_PIXELS, str(error)) from error
    except MemoryError as error:
        raise FetchError(Reason.TOO_MANY_PIXELS, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise whatever they like on hostile input
        raise FetchError(Reason.CORRUPT, f"{kind}: {type(error).__name__}: {error}") from error
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


# -- decoding ------------------------------------------------------------------------------------------


def _decode(data: bytes, kind: str, settings: Fetch) -> tuple[np.ndarray, int, int]:
    """Upright pixels, perhaps already smaller, and the width and height of the original, upright."""
    if kind == "jpeg":
        header = jpeg.read_header(data)
        _check_pixels(header.width, header.height, 1, settings)
        turned = header.orientation in _TRANSPOSED
        size = (header.height, header.width) if turned else (header.width, header.height)
        if header.components in (1, 3) and header.icc is None:
            fast = _decode_scaled(data, header, settings)
            if fast is not None:
                return upright(fast, header.orientation), *size
    with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
        width, height = image.size
        _check_pixels(width, height, int(getattr(image, "n_frames", 1)), settings)
        with _large_image if width * height > _LARGE_PIXELS else nullcontext():
            if kind == "jpeg":
                image.draft(None, target_size(width, height, settings))
            orientation = _orientation(image)
            image.load()
            pixels = upright(np.asarray(_to_srgb(image)), orientation)
    return pixels, *((height, width) if orientation in _TRANSPOSED else (width, height))


def _orientation(image: Image.Image) -> int:
    """How the pixels that Pillow loads are to be turned; it turns those of a TIFF itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, SyntaxError, OSError, KeyError):
        return 1
    return value if 1 <= value <= 8 else 1


def _decode_scaled(data: bytes, header: jpeg.JpegHeader, settings: Fetch) -> np.ndarray | None:
    """Decode at the smallest DCT scale that is at least the stored size; None when the coder is not content.

    Scales between 1/2 and 1 cost more than they save (measured: 2.2 ms for 3/4 against 1.3 ms for all of it).
    """
    width, height = target_size(header.width, header.height, settings)
    large = header.width * header.height > _LARGE_PIXELS
    try:
        with _large_image if large else nullcontext():
            pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2.0)
    except ValueError:
        return None  # damaged or merely odd: Pillow decides
    return pixels


def _check_pixels(width: int, height: int, frames: int, settings: Fetch) -> None:
    if width * height > settings.max_pixels:
        raise FetchError(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {settings.max_pixels} in all"
        )
    if width * height * frames > 4 * settings.max_pixels:
        raise FetchError(Reason.ANIMATION_TOO_LARGE, f"{frames} frames of {width} x {height} pixels")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Opaque 8-bit sRGB of any mode Pillow decodes to."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        colours = _by_profile(image.convert("RGB"), profile)
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(colours, mask=alpha)
        return white
    return _by_profile(image, profile)


def _by_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert with the embedded profile when it fits the pixels, else as Pillow does."""
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "RGB" and "srgb" in (ImageCms.getProfileDescription(source) or "").lower():
                return image
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and float greys to 8 bits: Pillow's own conversion would clip them."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        top = float(values.max(initial=0.0))
        values = values * 255.0 if top <= 1.0 else values
    elif image.mode.startswith("I;16") or float(values.max(initial=0.0)) > 255.0:
        values = values / 257.0
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


# -- encoding ------------------------------------------------------------------------------------------


def _encode(pixels: np.ndarray, settings: Fetch) -> bytes:
    if settings.format == "jpeg":
        array = np.ascontiguousarray(pixels)
        return bytes(simplejpeg.encode_jpeg(array, quality=settings.quality, colorsubsampling="420"))
    if settings.format == "png":
        return _png(pixels)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "WEBP", quality=settings.quality, method=4)
    return target.getvalue()


def _png(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


# -- stored as it came ---------------------------------------------------------------------------------


def _store_raw(data: bytes, kind: str, settings: Fetch) -> StoredImage:
    """Check everything that can be checked without decoding a JPEG, and leave metadata out.

    What only a decoder can part from its metadata (TIFF, AVIF) is stored as a PNG of the same pixels.
    """
    extension = EXTENSIONS[kind]
    if kind == "jpeg":
        header = jpeg.read_header(data)
        width, height, orientation = header.width, header.height, header.orientation
        _check_pixels(width, height, 1, settings)
        stored = without_metadata(data, kind)
    else:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
            width, height = image.size
            _check_pixels(width, height, int(getattr(image, "n_frames", 1)), settings)
            orientation = _orientation(image)
            image.load()
            if kind in _REWRITTEN:
                stored, extension = _png(upright(np.asarray(_to_srgb(image)), orientation)), EXTENSIONS["png"]
            else:
                stored = without_metadata(data, kind)
    sha256 = hashlib.sha256(data).hexdigest()
    width, height = (height, width) if orientation in _TRANSPOSED else (width, height)
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
