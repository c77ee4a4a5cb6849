"""What is stored: upright, sRGB, resized, without metadata, whatever came in."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from latent_assets.images.decode.image import StoredImage, store_image
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.profile import Fetch
from latent_assets_tests.images.conftest import JPEG, encoded, picture


def stored(data: bytes, **settings: Any) -> StoredImage:
    return store_image(data, Fetch(**{"resize": "none", "format": "png", **settings}))


def pixels(image: StoredImage) -> np.ndarray:
    """uint8 [height, width, 3]"""
    with Image.open(io.BytesIO(image.data)) as opened:
        assert opened.mode == "RGB"
        return np.asarray(opened)


def assert_picture(image: StoredImage, tolerance: int = 14) -> None:
    """The test picture is there: green at the top left, red below it, blue at the right."""
    array = pixels(image).astype(int)
    height, width = array.shape[:2]
    for (x, y), colour in {
        (width // 16, height // 16): (30, 200, 30),
        (width // 4, 3 * height // 4): (200, 30, 30),
        (3 * width // 4, height // 2): (30, 30, 200),
    }.items():
        assert np.abs(array[y, x] - colour).max() <= tolerance, (x, y, array[y, x], colour)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF"])
def test_formats(format: str) -> None:
    image = stored(encoded(picture(), format))
    assert (image.width, image.height) == (96, 64)
    assert_picture(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    sideways = picture() if orientation == 1 else picture().transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = stored(encoded(sideways, format, exif=exif))
    assert (image.width, image.height, image.stored_width, image.stored_height) == (96, 64, 96, 64)
    assert_picture(image)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "RGBA", "I;16"])
def test_modes(mode: str) -> None:
    source = picture()
    if mode == "I;16":
        values = np.asarray(source.convert("L")).astype(np.uint16) * 257
        data = encoded(Image.fromarray(values), "PNG")
        expected = source.convert("L").convert("RGB")
    else:
        converted = source.convert(mode)
        data = encoded(converted, "JPEG" if mode == "CMYK" else "PNG", **({"quality": 95} if mode == "CMYK" else {}))
        expected = converted.convert("RGB")
    difference = np.abs(pixels(stored(data)).astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < 4, mode


def test_sixteen_bit_colour_png() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0xFFFF, 0x8080, 0) * 8 for _ in range(8))
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert pixels(stored(png))[4, 4].tolist() == [255, 128, 0]


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    array = pixels(stored(encoded(image, "PNG")))
    assert array[4, 4].tolist() == [255, 255, 255]
    assert array[0, 0].tolist() == [0, 0, 0]


def test_colour_profile_is_converted() -> None:
    """Lab coordinates through an embedded profile: a TIFF in Lab becomes the colour it means."""
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), (200, 30, 30)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    array = pixels(stored(encoded(lab, "TIFF", icc_profile=profile))).astype(int)
    assert np.abs(array[4, 4] - (200, 30, 30)).max() <= 6


def test_broken_profile_is_ignored() -> None:
    assert_picture(stored(encoded(picture(), "JPEG", quality=95, icc_profile=b"not a profile at all")))


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_metadata_is_left_out(format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = encoded(picture(), "JPEG", exif=exif, comment=b"SECRET comment", icc_profile=srgb, quality=95)
    assert source.count(b"SECRET") == 2
    image = stored(source, format=format)
    assert b"SECRET" not in image.data
    with Image.open(io.BytesIO(image.data)) as opened:
        assert not opened.getexif()
        assert "icc_profile" not in opened.info and "comment" not in opened.info
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "SECRET")
    assert b"SECRET" not in stored(encoded(picture(), "PNG", pnginfo=info), format=format).data


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        ("none", 32, (200, 100)), ("longest", 50, (50, 25)), ("shortest", 50, (100, 50)),
        ("center_crop", 50, (50, 50)), ("longest", 500, (200, 100)), ("shortest", 500, (200, 100)),
        ("center_crop", 500, (100, 100)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["JPEG", "PNG"])
def test_resize(resize: str, size: int, expected: tuple[int, int], source: str) -> None:
    image = stored(encoded(picture(200, 100), source), resize=resize, size=size)
    assert (image.stored_width, image.stored_height) == expected
    assert pixels(image).shape == (expected[1], expected[0], 3)
    assert (image.width, image.height) == (200, 100)


def test_scaled_decode_looks_like_a_full_one() -> None:
    generator = np.random.default_rng(1)
    smooth = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((1024, 768))
    data = encoded(smooth, quality=95)
    image = stored(data, resize="shortest", size=256)
    with Image.open(io.BytesIO(data)) as full:
        reference = full.convert("RGB").resize((341, 256), Image.Resampling.LANCZOS)
    error = np.asarray(reference).astype(float) - pixels(image)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 40


@pytest.mark.parametrize("size", [24, 100, 190, 260, 333, 380, 490, 511])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_smaller_images_do_not_alias(size: int, format: str) -> None:
    """Rings that get finer than the smaller image can hold must fade to grey, not come back as other rings.

    What is allowed is the error of Pillow's bilinear filter, which is a triangle as wide as the reduction, and a little
    more for JPEG, whose decoder takes the first step by leaving out coefficients.
    """
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    rings = (127.5 + 127.5 * np.cos(128 * np.pi * (x**2 + y**2))).astype(np.uint8)
    source = Image.fromarray(np.repeat(rings[..., None], 3, 2))
    reference = np.asarray(source.resize((size, size), Image.Resampling.LANCZOS)).astype(float)
    bilinear = np.asarray(source.resize((size, size), Image.Resampling.BILINEAR))
    nearest = np.asarray(source.resize((size, size), Image.Resampling.NEAREST))
    options = {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    image = pixels(stored(encoded(source, format, **options), resize="longest", size=size))

    def error(array: np.ndarray) -> float:
        return float(np.sqrt(np.mean((array - reference) ** 2)))

    assert error(image) < 1.2 * error(bilinear) + (9 if format == "JPEG" else 3)
    assert error(image) < 0.6 * error(nearest)


@pytest.mark.parametrize("shape", [(40_000, 60), (60, 40_000)])
def test_very_long_images(shape: tuple[int, int]) -> None:
    image = stored(encoded(Image.new("RGB", shape, (200, 30, 30)), "PNG"), resize="shortest", size=32)
    assert min(image.stored_width, image.stored_height) == 32
    assert np.abs(pixels(image).astype(int) - (200, 30, 30)).max() <= 1


def test_orientation_and_scaled_decode_together() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(960, 640).transpose(Image.Transpose.ROTATE_90)
    image = stored(encoded(turned, quality=95, exif=exif), resize="longest", size=96)
    assert (image.width, image.height, image.stored_width, image.stored_height) == (960, 640, 96, 64)
    assert_picture(image)


def test_hashes_and_sizes() -> None:
    image = stored(JPEG, format="jpeg", quality=90)
    assert image.sha256 == hashlib.sha256(JPEG).hexdigest()
    assert image.stored_sha256 == hashlib.sha256(image.data).hexdigest()
    assert (image.bytes, image.extension) == (len(JPEG), "jpg")


def test_same_bytes_give_the_same_image() -> None:
    for format in ("jpeg", "webp", "png"):
        assert stored(JPEG, format=format).data == stored(JPEG, format=format).data


def test_harmless_oddities_are_accepted() -> None:
    """Bytes before a marker or after the end of a JPEG are common and harm nothing."""
    assert_picture(stored(JPEG + b"trailing bytes"))
    at = JPEG.index(b"\xff\xdb")
    assert_picture(stored(JPEG[:at] + b"\xff\xff" + JPEG[at:]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (JPEG[: len(JPEG) // 2], Reason.CORRUPT),
        (encoded(picture(), "PNG")[:120], Reason.CORRUPT),
        (encoded(picture(), "WEBP")[:60], Reason.CORRUPT),
        (encoded(picture(), "GIF")[:80], Reason.CORRUPT),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.CORRUPT),
        (b"RIFF\0\0\0\0WEBP", Reason.CORRUPT),
        (b"plain text", Reason.NOT_AN_IMAGE),
        (b"  <!-- x --> <svg xmlns='http://www.w3.org/2000/svg'></svg>", Reason.VECTOR_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF", Reason.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic", Reason.UNSUPPORTED_FORMAT),
    ],
)
@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_what_is_no_image(data: bytes, reason: Reason, format: str) -> None:
    with pytest.raises(FetchError) as caught:
        stored(data, format=format)
    assert caught.value.reason == reason


def test_pixel_limit_counts_before_decoding() -> None:
    for source in ("JPEG", "PNG", "WEBP", "GIF"):
        with pytest.raises(FetchError) as caught:
            stored(encoded(picture(200, 100), source), max_pixels=19_999)
        assert caught.value.reason == Reason.TOO_MANY_PIXELS
        stored(encoded(picture(200, 100), source), max_pixels=20_000)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animation_gives_its_first_frame_within_limits(format: str) -> None:
    later = [Image.new("RGB", (96, 64), (shade, shade, 0)) for shade in range(0, 200, 10)]
    data = encoded(picture(), format, save_all=True, append_images=later, duration=50)
    assert_picture(stored(data), tolerance=40)
    with pytest.raises(FetchError) as caught:
        stored(data, max_pixels=96 * 64)
    assert caught.value.reason == Reason.ANIMATION_TOO_LARGE


def test_raw_keeps_the_coded_pixels_and_drops_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "SECRET"
    source = encoded(picture(), exif=exif, comment=b"SECRET", quality=91)
    image = stored(source, format="raw")
    assert b"SECRET" not in image.data
    assert (image.width, image.height, image.extension) == (64, 96, "jpg")
    assert image.sha256 == hashlib.sha256(source).hexdigest()
    with Image.open(io.BytesIO(image.data)) as kept, Image.open(io.BytesIO(source)) as original:
        assert kept.getexif() == {0x0112: 6}
        assert np.array_equal(np.asarray(kept), np.asarray(original))


@pytest.mark.parametrize("progressive", [False, True])
def test_raw_drops_what_stands_behind_the_image(progressive: bool) -> None:
    """Phones append a film or a second picture, with its own EXIF and place."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    noise = np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    source = encoded(Image.fromarray(noise), progressive=progressive, restart_marker_rows=1, quality=95)
    for trailer in (encoded(picture(), exif=exif), b"ftypmp42 SECRET"):
        image = stored(source + trailer, format="raw")
        assert image.data == source
        assert image.sha256 == hashlib.sha256(source + trailer).hexdigest()
    assert stored(source, format="raw").data == source


def test_raw_drops_metadata_wherever_it_stands() -> None:
    """Behind a stray byte, between the scans of a progressive image, in thumbnails: decoders read on, so do we."""
    source = encoded(picture(), progressive=True, quality=95)
    secret = b"\xff\xe1\x00\x0eExif\0\0SECRET"
    frame = source.index(b"\xff\xc2")
    second_scan = source.index(b"\xff\xda", source.index(b"\xff\xda") + 2)
    for name, data in {
        "behind a stray byte": source[:frame] + b"\x17" + secret + source[frame:],
        "between scans": source[:second_scan] + secret + b"\xff\xfe\x00\x08SECRET" + source[second_scan:],
        "in a JFIF extension": source[:20] + b"\xff\xe0\x00\x0eJFXX\0\x13SECRET"[:16] + source[20:],
        "behind Adobe's transform": source[:20] + b"\xff\xee\x00\x14Adobe\0\x64\0\0\0\0\x01SECRET" + source[20:],
    }.items():
        assert b"SECRET" in data, name
        image = stored(data, format="raw")
        assert b"SECRET" not in image.data, name
        with Image.open(io.BytesIO(image.data)) as kept, Image.open(io.BytesIO(data)) as original:
            assert np.array_equal(np.asarray(kept), np.asarray(original)), name


def test_raw_drops_the_thumbnail_of_jfif() -> None:
    source = encoded(picture(), quality=95)
    thumbnail = b"\xff\xe0\x00\x16JFIF\0\x01\x01\0\0\x01\0\x01\x02\x01SECRET"
    image = stored(source[:2] + thumbnail + source[20:], format="raw")
    assert image.data == source


@pytest.mark.timeout(30)
@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xd0", b"\xff\x00"])
def test_raw_takes_no_longer_for_hostile_markers(filler: bytes) -> None:
    """Millions of marker bytes in one image: time must grow with its length, not with the square of it."""
    source = encoded(picture(), quality=95)
    data = source[:-2] + filler * (4_000_000 // len(filler)) + b"\x00" + source[-2:] + b"x"
    assert len(stored(data, format="raw").data) < len(data)


@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
def test_raw_stores_what_cannot_be_cleaned_as_png(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "SECRET"
    source = encoded(picture().transpose(Image.Transpose.ROTATE_90), format, exif=exif)
    assert b"SECRET" in source
    image = stored(source, format="raw")
    assert b"SECRET" not in image.data
    assert (image.extension, image.width, image.height) == ("png", 96, 64)
    assert_picture(image)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_raw_drops_metadata_of_other_formats(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    exif[0x010E] = "SECRET"
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "SECRET")
    options: dict[str, Any] = {"pnginfo": info} if format == "PNG" else {"xmp": b"<x>SECRET</x>", "lossless": True}
    source = encoded(picture(), format, exif=exif, **options)
    image = stored(source, format="raw")
    assert source.count(b"SECRET") == 2
    assert b"SECRET" not in image.data
    assert (image.width, image.height) == (64, 96)
    with Image.open(io.BytesIO(image.data)) as kept, Image.open(io.BytesIO(source)) as original:
        assert kept.getexif() == {0x0112: 8}
        assert np.array_equal(np.asarray(kept), np.asarray(original))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_raw_without_metadata_is_kept_byte_for_byte(format: str) -> None:
    data = encoded(picture(), format)
    assert stored(data, format="raw").data == data


def test_raw_jpeg_is_stored_without_the_libraries_that_decode(tmp_path: Path) -> None:
    """Each worker would load them, for as long as hundreds of raw images take to store."""
    (tmp_path / "a.jpg").write_bytes(JPEG)
    code = (
        "import sys; from types import SimpleNamespace; from latent_assets.images.decode.image import store_image;"
        "settings = SimpleNamespace(format='raw', max_pixels=10**6);"
        "stored = store_image(open(sys.argv[1], 'rb').read(), settings);"
        "print(stored.width, stored.height, {'numpy', 'PIL', 'simplejpeg', 'cv2'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["96", "64", "set()"]


@pytest.mark.parametrize("settings", [{"format": "raw"}, {"format": "png"}])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_huge_images_are_decoded_in_turn(
    format: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []

    @contextmanager
    def lock() -> Iterator[None]:
        turns.append("taken")
        yield
        turns.append("given back")

    huge = encoded(Image.new("L", (5000, 4100)), format)
    monkeypatch.setattr("latent_assets.images.decode.limits._decode_lock", lock())
    assert stored(huge, **{"resize": "longest", "size": 64, **settings}).width == 5000
    assert turns == ([] if (format, settings["format"]) == ("JPEG", "raw") else ["taken", "given back"])
    assert stored(encoded(picture(), format), **settings).width == 96, "others do not wait"


@pytest.mark.parametrize("fill", [b"\xff\x00", b"\xff"])
def test_raw_jpeg_of_millions_of_marker_bytes(fill: bytes) -> None:
    """Coded pixels may hold them; they are passed in one search, and what is behind them is found."""
    end = JPEG.rindex(b"\xff\xd9")
    comment = b"\xff\xfe\x00\x08secret"
    crowded = JPEG[:end] + fill * 2_000_000 + comment + b"\xff\x00" * 2000 + b"\xff\xd9" + b"trailer"
    image = store_image(crowded, Fetch(format="raw"))
    assert image.data == JPEG[:end] + fill * 2_000_000 + b"\xff\x00" * 2000 + b"\xff\xd9"


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("format", ["raw", "jpeg"])
def test_jpeg_of_millions_of_segments_is_corrupt_at_once(place: str, format: str) -> None:
    at = 2 if place == "before" else JPEG.rindex(b"\xff\xd9")
    crowded = JPEG[:at] + b"\xff\xe1\x00\x02" * 5_000_000 + JPEG[at:]
    began = time.process_time()
    if (place, format) == ("behind", "jpeg"):
        assert store_image(crowded, Fetch(format="jpeg")).width == 96, "whoever decodes stops at the last pixel"
    else:
        with pytest.raises(FetchError, match="more than 10000 segments") as refused:
            stored(crowded, format=format)
        assert refused.value.reason is Reason.CORRUPT
    assert time.process_time() - began < 2, "all of them took seconds and gigabytes"
