"""From coded images to pixels and back: decoded by what fits them best, upright, opaque 8-bit sRGB.

Pixels are uint8 arrays [height, width, 3]. Nothing is decoded before its size has been read from the header and found
acceptable. Which images come here at all is decided in `image`: the libraries are large, and a JPEG that is stored raw
needs none of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from latent_assets.images.decode import jpeg
from latent_assets.images.decode.bare import bare
from latent_assets.images.decode.limits import check_pixels, decoding
from latent_assets.images.decode.resize import target_size, upright
from latent_assets.images.outcome import FetchError, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

_LONGEST_WEBP, _LONGEST_JPEG = 16_383, 65_500  # pixels; libjpeg's limit is below that of its format
_REWRITTEN = frozenset({"tiff", "avif"})
_SRGB = ImageCms.createProfile("sRGB")

# Pillow's remarks about odd files; what is wrong with one is in its ledger row
warnings.filterwarnings("ignore", module=r"PIL\.")


# -- decoding ------------------------------------------------------------------------------------------


def decode(data: bytes, kind: str, settings: Fetch) -> tuple[np.ndarray, int, int]:
    """Upright pixels, perhaps already smaller, and the width and height of the original, upright.

    Raises FetchError for too many pixels, and whatever a decoder raises.
    """
    if kind == "jpeg":
        header = jpeg.read_header(data)
        check_pixels(header.width, header.height, 1, settings)
        if header.components in (1, 3) and header.icc is None:
            fast = _decode_scaled(data, header, settings)
            if fast is not None:
                return upright(fast, header.orientation), *header.upright_size
    with _opened(data, kind, settings) as (image, orientation):
        width, height = image.size
        with decoding(width, height):
            if kind == "jpeg":
                image.draft(None, target_size(width, height, settings))
            pixels = upright(_srgb(image), orientation)
    return pixels, *jpeg.upright_size(width, height, orientation)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of an image that somebody else opened, as `decode` gives those of a file."""
    orientation = _orientation(image)
    return upright(_srgb(image), orientation)


def checked(data: bytes, kind: str, settings: Fetch) -> tuple[int, int, bytes | None]:
    """Decode to see that it can be done: width and height, upright, and a PNG of the pixels where `data` cannot stay.

    That is so for formats that only a decoder can part from their metadata. Raises as `decode` does.
    """
    rewritten = None
    with _opened(data, kind, settings) as (image, orientation):
        width, height = image.size
        with decoding(width, height):
            image.load()
            if kind in _REWRITTEN:
                rewritten = png(upright(_srgb(image), orientation))
    return *jpeg.upright_size(width, height, orientation), rewritten


@contextmanager
def _opened(data: bytes, kind: str, settings: Fetch) -> Iterator[tuple[Image.Image, int]]:
    """Pillow's image, not decoded yet, and not larger than the profile allows; and its orientation."""
    file = bare(data, kind)
    try:
        with Image.open(io.BytesIO(file.data), formats=[kind.upper()]) as image:
            check_pixels(*image.size, file.frames or int(getattr(image, "n_frames", 1)), settings)
            if file.icc is not None:
                image.info["icc_profile"] = file.icc
            yield image, _orientation(image) if file.orientation is None else file.orientation
    except Image.DecompressionBombError as error:
        raise FetchError(Reason.TOO_MANY_PIXELS, str(error)) from error


def _orientation(image: Image.Image) -> int:
    """How the pixels that Pillow loads are to be turned; it turns those of a TIFF itself."""
    return 1 if image.format == "TIFF" else jpeg.tiff_orientation(image.info.get("exif", b""))


def _decode_scaled(data: bytes, header: jpeg.JpegHeader, settings: Fetch) -> np.ndarray | None:
    """Decode at the smallest DCT scale that is at least the stored size; None when the coder is not content.

    Scales between 1/2 and 1 cost more than they save (measured: 2.2 ms for 3/4 against 1.3 ms for all of it).
    """
    width, height = target_size(header.width, header.height, settings)
    try:
        with decoding(header.width, header.height):
            pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, min_factor=2.0)
    except ValueError:
        with decoding(header.width, header.height), suppress(ValueError):  # only its end may be missing
            completed: np.ndarray = simplejpeg.decode_jpeg(
                data + jpeg.END, "RGB", min_width=width, min_height=height, min_factor=2.0
            )
            return completed
        return None  # damaged or merely odd: Pillow decides
    return pixels


def ended(data: bytes) -> bytes:
    """A JPEG with the end that it lacks, if all of its pixels are there. Raises ValueError."""
    simplejpeg.decode_jpeg(data + jpeg.END, "CMYK" if jpeg.read_header(data).components == 4 else "RGB")
    return data + jpeg.END


def _srgb(image: Image.Image) -> np.ndarray:
    """Opaque 8-bit sRGB, uint8 [height, width, 3], of any mode Pillow decodes to."""
    image.load()
    return np.asarray(_to_srgb(image))


def _to_srgb(image: Image.Image) -> Image.Image:
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
    if profile and image.mode == "P":
        image = image.convert("RGB")
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


def encode(pixels: np.ndarray, settings: Fetch) -> tuple[bytes, str]:
    """The image file that the profile asks for, and its format: another one where that ends before the image does."""
    longest = max(pixels.shape[:2])
    if settings.format == "webp" and longest <= _LONGEST_WEBP:
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "WEBP", quality=settings.quality, method=4)
        return target.getvalue(), "webp"
    if settings.format != "png" and longest <= _LONGEST_JPEG:
        array = np.ascontiguousarray(pixels)
        return bytes(simplejpeg.encode_jpeg(array, quality=settings.quality, colorsubsampling="420")), "jpeg"
    return png(pixels), "png"


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of pixels."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()
