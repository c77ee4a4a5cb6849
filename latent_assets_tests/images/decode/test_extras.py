"""What an image file holds besides its pixels: however broken or large that is, the image is the same without it."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from latent_assets.images.decode.bare import bare
from latent_assets.images.decode.image import decode_image, store_image
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.profile import Fetch
from latent_assets_tests.images.conftest import encoded, picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = ("jpeg", "png", "webp", "raw")


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes().removeprefix(b"Exif\0\0")


# empty, cut within the header, a directory that is not there, entries that are not there, garbage
BROKEN_EXIF = (b"", b"II", b"MM\0*\0\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff", b"\0garbage" * 20)


def stored_pixels(data: bytes, format: str = "png") -> np.ndarray:
    """uint8 [height, width, 3] of an image as the encoders see it after it was stored."""
    settings = Fetch.model_validate({"resize": "none", "format": format, "quality": 100})
    return np.asarray(decode_image(store_image(data, settings).data))


# -- PNG -----------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes = b"", damage: int = 0) -> bytes:
    """A PNG chunk; its checksum is wrong where `damage` is not 0."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content) ^ damage)


def chunks(data: bytes) -> Iterator[bytes]:
    at = len(SIGNATURE)
    while at < len(data):
        size = 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at : at + size]
        at += size


PNG = encoded(picture(), "PNG")
PALETTE = encoded(picture().quantize(8), "PNG")
CLEAR = encoded(picture(mode="RGBA").quantize(8), "PNG", transparency=0)

EXTRAS = {
    "two megabytes of text": chunk(b"tEXt", b"workflow\0" + b"{" * 2_000_000),
    "a hundred megabytes of text, deflated": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(100_000_000))),
    "megabytes of text in UTF-8": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
    "text without a key": chunk(b"tEXt"),
    "text that is not deflated": chunk(b"zTXt", b"key\0\0no zlib"),
    "text by an unknown method": chunk(b"zTXt", b"key\0\7data"),
    "a profile of megabytes": chunk(b"iCCP", b"icc\0\0" + zlib.compress(SRGB + bytes(2_000_000))),
    "a profile of a hundred megabytes": chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(100_000_000))),
    "a profile that is not deflated": chunk(b"iCCP", b"icc\0\0no zlib at all"),
    "a profile by an unknown method": chunk(b"iCCP", b"icc\0\7"),
    "an empty profile": chunk(b"iCCP"),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short chromaticities": chunk(b"cHRM", b"\0\0\0"),
    "short rendering intent": chunk(b"sRGB"),
    "short size of a pixel": chunk(b"pHYs", b"\0\0"),
    "a short count of frames": chunk(b"acTL", b"\0"),
    "frames that are none": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", b"\0" * 26),
    "a private chunk": chunk(b"prVt", b"\0" * 100),
    "a chunk whose name is none": chunk(b"a\0b!", b"x"),
    **{f"broken EXIF {number}": chunk(b"eXIf", content) for number, content in enumerate(BROKEN_EXIF)},
    **{
        f"a wrong checksum of {name.decode()}": chunk(name, content, damage=1)
        for name, content in {
            b"tEXt": b"a\0b", b"iCCP": b"icc\0\0" + zlib.compress(WIDE), b"eXIf": exif(6), b"tIME": bytes(7),
            b"gAMA": bytes(4), b"pHYs": bytes(9), b"prVt": b"x", b"acTL": struct.pack(">II", 4_000_000, 0),
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("place", ["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("name", EXTRAS)
def test_png_extras_decide_nothing(name: str, place: str) -> None:
    header, pixels, *rest = chunks(PNG)
    extra = EXTRAS[name]
    pieces = [header, extra, pixels] if place == "before the pixels" else [header, pixels, extra]
    data = SIGNATURE + b"".join([*pieces, *rest])
    for format in ("png", "raw"):
        assert np.array_equal(stored_pixels(data, format), np.asarray(picture()))
    assert np.array_equal(np.asarray(decode_image(data)), np.asarray(picture()))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([PNG, PALETTE, CLEAR]),
    st.lists(
        st.tuples(
            st.integers(0, 6),
            st.one_of(
                st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"sBIT",
                                 b"bKGD", b"hIST", b"pHYs", b"sPLT", b"tIME", b"acTL", b"fcTL", b"fdAT", b"cICP"]),
                st.binary(min_size=4, max_size=4).map(lambda name: bytes([name[0] | 0x20]) + name[1:]),
            ),
            st.binary(max_size=40),
            st.integers(0, 1),
        ).filter(lambda extra: extra[1] != b"tRNS"),
        max_size=5,
    ),
)  # fmt: skip
def test_no_order_of_extras_makes_a_png_another_image(data: bytes, extras: list[tuple[int, bytes, bytes, int]]) -> None:
    pieces = list(chunks(data))
    for place, name, content, damage in extras:
        # a sound chunk that has a meaning of its own is another test's
        damage = 1 if name in (b"acTL", b"eXIf") else damage
        pieces.insert(1 + place % (len(pieces) - 1), chunk(name, content, damage))
    with_extras = SIGNATURE + b"".join(pieces)
    assert bare(with_extras, "png").data == data
    assert np.array_equal(stored_pixels(with_extras), stored_pixels(data))


def test_pixels_of_a_png_are_no_extras() -> None:
    """What decides the pixels and is broken still makes the image corrupt."""
    header, pixels, end = chunks(PNG)
    for pieces in (
        [chunk(b"IHDR", header[8:-4], damage=1), pixels, end],
        [header, chunk(b"IDAT", pixels[8:-40]), end],
        [header, pixels[:-60]],
        [header, end],
    ):
        with pytest.raises(FetchError) as refused:
            stored_pixels(SIGNATURE + b"".join(pieces))
        assert refused.value.reason is Reason.CORRUPT


def test_a_png_may_end_behind_its_pixels() -> None:
    """Cut within a text that follows, or before the end was written: all pixels are there."""
    header, pixels, _ = chunks(PNG)
    for tail in (b"", chunk(b"tEXt", b"key\0" + b"a" * 1000)[:500], b"\0\0"):
        assert np.array_equal(stored_pixels(SIGNATURE + header + pixels + tail), np.asarray(picture()))


LISTED, CLEARED = list(chunks(PALETTE)), list(chunks(CLEAR))
HEADER, PIXELS, END = chunks(PNG)
UNFIT = {
    "a suggested palette with a wrong checksum": (PNG, [HEADER, chunk(b"PLTE", bytes(30), 1), PIXELS, END]),
    "a suggested palette of odd length": (PNG, [HEADER, chunk(b"PLTE", bytes(31)), PIXELS, END]),
    "a palette behind the pixels": (PNG, [HEADER, PIXELS, chunk(b"PLTE", bytes(30)), END]),
    "a short clear colour": (PNG, [HEADER, chunk(b"tRNS", b"\0\1"), PIXELS, END]),
    "no clear colour": (PNG, [HEADER, chunk(b"tRNS"), PIXELS, END]),
    "a clear colour with a wrong checksum": (PNG, [HEADER, chunk(b"tRNS", bytes(6), 1), PIXELS, END]),
    "more clear colours than there are": (PALETTE, [*LISTED[:2], chunk(b"tRNS", bytes(300)), *LISTED[2:]]),
    "clear colours with a wrong checksum": (PALETTE, [*LISTED[:2], chunk(b"tRNS", bytes(8), 1), *LISTED[2:]]),
    "clear colours before the palette": (PALETTE, [LISTED[0], chunk(b"tRNS", bytes(8)), *LISTED[1:]]),
    "clear colours behind the pixels": (PALETTE, [*LISTED[:-1], chunk(b"tRNS", bytes(8)), LISTED[-1]]),
    "a second set of clear colours, broken": (CLEAR, [*CLEARED[:3], chunk(b"tRNS", bytes(300)), *CLEARED[3:]]),
    "an end with content and a wrong checksum": (PNG, [HEADER, PIXELS, chunk(b"IEND", b"abc", 1)]),
    "empty pixels": (PNG, [HEADER, chunk(b"IDAT"), PIXELS, chunk(b"IDAT"), END]),
    "a length beyond the file": (PNG, [HEADER, PIXELS, struct.pack(">I", 2**31 - 1) + b"tEXtabc"]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_palettes_and_transparency_that_do_not_fit_decide_nothing(name: str) -> None:
    plain, pieces = UNFIT[name]
    for format in ("png", "raw"):
        assert np.array_equal(stored_pixels(SIGNATURE + b"".join(pieces), format), stored_pixels(plain))


def test_a_clear_colour_that_fits_decides() -> None:
    pixels = Image.new("RGB", (8, 8), (200, 0, 0))
    header, coded, end = chunks(encoded(pixels, "PNG"))
    clear = SIGNATURE + header + chunk(b"tRNS", struct.pack(">HHH", 200, 0, 0)) + coded + end
    assert (stored_pixels(clear) == 255).all() and (
        stored_pixels(SIGNATURE + header + coded + end)[0, 0] == (200, 0, 0)
    ).all()


def test_sound_extras_still_decide() -> None:
    header, *rest = chunks(PNG)

    def with_extra(extra: bytes) -> bytes:
        return SIGNATURE + header + extra + b"".join(rest)

    for content in (exif(6), b"Exif\0\0" + exif(6)):
        turned = np.rot90(np.asarray(picture()), -1)
        assert np.array_equal(np.asarray(decode_image(with_extra(chunk(b"eXIf", content)))), turned)
    frames = chunk(b"acTL", struct.pack(">II", 4_000_000, 0))
    with pytest.raises(FetchError) as refused:
        store_image(with_extra(frames), Fetch())
    assert refused.value.reason is Reason.ANIMATION_TOO_LARGE


# -- profiles ------------------------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """sRGB whose red and blue primaries are exchanged: a picture with it is recognised at once."""
    data = bytearray(SRGB)
    places = {SRGB[at : at + 4]: at for at in range(132, 132 + 12 * data[131], 12)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    return bytes(data).replace(b"sRGB", b"odd ").replace("sRGB".encode("utf-16-be"), "odd ".encode("utf-16-be"))


@pytest.mark.parametrize("filler", [0, 3_000_000])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "palette PNG"])
def test_the_colour_profile_decides_whatever_its_size(kind: str, filler: int) -> None:
    """Profiles of printers are megabytes. Red primaries that are blue make the red half blue."""
    profile = swapped_profile() + bytes(filler)
    image = picture().quantize(8) if kind == "palette PNG" else picture()
    options = {"lossless": True} if kind == "WEBP" else {} if "PNG" in kind else {"quality": 95}
    for format in ("png", "raw"):
        data = encoded(image, kind.removeprefix("palette "), icc_profile=profile, **options)
        red, green, blue = stored_pixels(data, format)[48, 24].astype(int)
        assert blue > 150 and red < 100 and green < 100, (red, green, blue)


# -- the others ----------------------------------------------------------------------------------------


def jpeg_with(segment: bytes) -> bytes:
    source = encoded(picture(mode="CMYK"), quality=95)  # decoded by Pillow, as one with a profile is
    return source[:2] + segment + source[2:]


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


JPEG_EXTRAS = {
    "a short JFIF": segment(0xE0, b"JFIF\0"),
    "a short Adobe": segment(0xEE, b"Adobe\0"),
    "a broken Photoshop block": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\xff\xff"),
    "a broken index of pictures": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x02\xb0\x07\0\x10\0\0\0\xff\xff\xff\x7f"),
    "half of a profile": segment(0xE2, b"ICC_PROFILE\0\x02\x07" + b"x" * 100),
    "a profile without number": segment(0xE2, b"ICC_PROFILE\0"),
    **{f"broken EXIF {number}": segment(0xE1, b"Exif\0\0" + content) for number, content in enumerate(BROKEN_EXIF)},
}


@pytest.mark.parametrize("name", JPEG_EXTRAS)
def test_jpeg_extras_decide_nothing(name: str) -> None:
    data = jpeg_with(JPEG_EXTRAS[name])
    for format in ("png", "raw"):
        assert np.array_equal(stored_pixels(data, format), stored_pixels(jpeg_with(b""), format))


def riff(*pieces: tuple[bytes, bytes], flags: int) -> bytes:
    """A WebP with an extended header."""
    header = struct.pack("<II", flags, 0)[:4] + (95).to_bytes(3, "little") + (63).to_bytes(3, "little")
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1)
        for name, data in ((b"VP8X", header), *pieces)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8l() -> bytes:
    data = encoded(picture(), "WEBP", lossless=True)
    return data[20 : 20 + int.from_bytes(data[16:20], "little")]


@pytest.mark.parametrize("content", BROKEN_EXIF)
@pytest.mark.parametrize("name", [b"EXIF", b"XMP ", b"ICCP", b"junk"])
def test_webp_extras_decide_nothing(name: bytes, content: bytes) -> None:
    flag = {b"EXIF": 0x08, b"XMP ": 0x04, b"ICCP": 0x20, b"junk": 0}[name]
    pieces = [(name, content), (b"VP8L", vp8l())] if name == b"ICCP" else [(b"VP8L", vp8l()), (name, content)]
    data = riff(*pieces, flags=flag)
    for variant in (data, riff((b"VP8L", vp8l()), flags=flag), data + b"trailer", data[:-1]):
        assert np.array_equal(stored_pixels(variant), np.asarray(picture()))
    assert np.array_equal(stored_pixels(data, "raw"), np.asarray(picture()))


SIZE = struct.pack("<I", 0) + (95).to_bytes(3, "little") + (63).to_bytes(3, "little")
STILL = {
    "flags of what is not there": riff((b"VP8L", vp8l()), flags=0x3E),
    "another canvas": riff((b"VP8L", vp8l()), flags=0).replace(SIZE, SIZE[:4] + b"\xff" * 6),
    "a second header": riff((b"VP8X", SIZE), (b"VP8L", vp8l()), flags=0),
    "a short header": b"RIFF\0\0\0\0WEBPVP8X\4\0\0\0\0\0\0\0" + riff((b"VP8L", vp8l()), flags=0)[30:],
    "a second picture": riff((b"VP8L", vp8l()), (b"VP8L", b"/garbage"), flags=0),
    "a length that is none": b"RIFF\xff\xff\xff\xff" + riff((b"VP8L", vp8l()), flags=0)[8:],
    "a profile behind the picture": riff((b"VP8L", vp8l()), (b"ICCP", b"x" * 9), flags=0x20),
    "extras without the header for them": encoded(picture(), "WEBP", lossless=True) + b"EXIF\4\0\0\0abcd",
    "an extra that is longer than the file": riff((b"VP8L", vp8l()), flags=0) + b"EXIF\xff\xff\xff\x7fab",
}


@pytest.mark.parametrize("name", STILL)
def test_the_container_of_a_webp_decides_nothing(name: str) -> None:
    assert np.array_equal(stored_pixels(STILL[name]), np.asarray(picture()))


def test_transparency_of_a_webp_stays() -> None:
    image = picture(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for lossless in (False, True):
        data = encoded(image, "WEBP", lossless=lossless, quality=100)
        white = Image.new("RGBA", image.size, "white")
        with Image.open(io.BytesIO(data)) as opened:
            white.alpha_composite(opened.convert("RGBA"))
        assert np.abs(stored_pixels(data).astype(int) - np.asarray(white.convert("RGB"))).max() <= 2


def animation(format: str) -> bytes:
    target = io.BytesIO()
    rest = [Image.new("RGB", picture().size, colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    picture().save(target, format, save_all=True, append_images=rest, **options)
    return target.getvalue()


@pytest.mark.parametrize("format", ["WEBP", "GIF", "PNG"])
@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_later_frame_that_is_cut_short_decides_nothing(format: str, lost: int) -> None:
    whole = animation(format)
    for stored in ("png", "raw"):
        assert np.array_equal(stored_pixels(whole[:-lost], stored), stored_pixels(whole))


GIF = encoded(picture().quantize(16), "GIF")
GIF_EXTRAS = {
    "no loop": b"\x21\xff\x0bNETSCAPE2.0\0",
    "a short loop": b"\x21\xff\x0bNETSCAPE2.0\x01\x01\0",
    "a short application": b"\x21\xff\x02ab\0",
    "a profile": b"\x21\xff\x0bICCRGBG1012\x03abc\0",
    "XMP": b"\x21\xff\x0bXMP DataXMP<x/>\1" + bytes(range(255, -1, -1)) + b"\0",
    "a short graphic control": b"\x21\xf9\x01\0\0",
    "an empty graphic control": b"\x21\xf9\0",
    "a plain text": b"\x21\x01\x0c" + bytes(12) + b"\x02hi\0",
    "megabytes of comments": b"\x21\xfe" + (b"\xff" + b"a" * 255) * 20_000 + b"\0",
    "an unknown extension": b"\x21\x99\x03abc\0",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", GIF_EXTRAS)
def test_gif_extras_decide_nothing(name: str) -> None:
    begin = 13 + (3 << ((GIF[10] & 7) + 1))
    for data in (GIF[:begin] + GIF_EXTRAS[name] + GIF[begin:], GIF[:-1] + GIF_EXTRAS[name], GIF + GIF_EXTRAS[name]):
        for format in ("png", "raw"):
            assert np.array_equal(stored_pixels(data, format), stored_pixels(GIF))


def tiff(*extras: tuple[int, int, int, int], following: int = 0) -> bytes:
    """An uncompressed TIFF with further tags (number, type, count, value or place); where its next page should be."""
    pixels, (width, height) = picture().tobytes(), picture().size
    tags = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
            (278, 4, 1, height), (279, 4, 1, len(pixels)), *extras]  # fmt: skip
    behind = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = sorted([*tags, (258, 3, 3, behind), (273, 4, 1, behind + 6)])
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<IHHH", following, 8, 8, 8) + pixels


FAR = 2**31 - 1
TIFF_EXTRAS = {
    "no EXIF where it should be": tiff((34665, 4, 1, FAR)), "EXIF that leads back": tiff((34665, 4, 1, 8)),
    "no places": tiff((34853, 4, 1, FAR)), "a profile beyond the file": tiff((34675, 7, 1000, FAR)),
    "a profile that is none": tiff((34675, 7, 20, 8)), "XMP beyond the file": tiff((700, 1, 10_000, FAR)),
    "texts beyond the file": tiff((305, 2, 100, FAR), (270, 2, 50, FAR)),
    "a maker beyond the file": tiff((271, 2, 90, FAR)),
    "an early tag of no type": tiff((254, 77, 1, 0)),
    "an unknown type": tiff((40000, 99, 1, 5)),
    "a count that is none": tiff((40001, 1, 2**32 - 1, 8)), "a resolution of none": tiff((282, 5, 1, FAR)),
    "an orientation that is none": tiff((274, 3, 1, 9)), "an orientation in words": tiff((274, 2, 4, 99)),
    "pages that lead nowhere": tiff(following=FAR), "pages in a circle": tiff(following=8),
    "a page that is none": tiff(following=200), "something behind it": tiff() + b"x" * 500,
}  # fmt: skip


@pytest.mark.parametrize("name", TIFF_EXTRAS)
def test_tiff_extras_decide_nothing(name: str) -> None:
    for format in ("png", "raw"):
        assert np.array_equal(stored_pixels(TIFF_EXTRAS[name], format), np.asarray(picture()))


def test_pages_of_a_tiff_count() -> None:
    target = io.BytesIO()
    picture().save(target, "TIFF", save_all=True, append_images=[picture()] * 9)
    assert bare(target.getvalue(), "tiff").frames == 10
    pixels = picture().width * picture().height
    with pytest.raises(FetchError) as refused:
        store_image(target.getvalue(), Fetch(max_pixels=pixels))
    assert refused.value.reason is Reason.ANIMATION_TOO_LARGE
    assert np.array_equal(stored_pixels(target.getvalue()), np.asarray(picture()))


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(8_000_000),
        b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\0" * 3_000_000,
        b"GIF89a\1\0\1\0\0\0\0\x21\xfe" + b"\1a" * 4_000_000,
        b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HI", 0, 8 + 6 * n) for n in range(1, 1_000_000)),
    ],
    ids=["nothing", "extensions", "blocks", "pages"],
)
def test_files_of_millions_of_pieces_are_told_soon(data: bytes) -> None:
    began = time.perf_counter()
    bare(data, "gif" if data.startswith(b"GIF") else "tiff")
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_may_lack_its_end_and_no_pixel(mode: str, progressive: bool) -> None:
    data = encoded(picture(mode=mode), quality=95, progressive=progressive)
    for format in ("png", "raw"):
        assert np.array_equal(stored_pixels(data[:-2], format), stored_pixels(data))
        for lost in (12, 100):
            with pytest.raises(FetchError) as refused:
                stored_pixels(data[:-lost], format)
            assert refused.value.reason is Reason.CORRUPT


def avif_with_exif() -> tuple[bytes, int, int]:
    """An AVIF, and where in it how many bytes of EXIF lie."""
    described = Image.Exif()
    described[0x010E] = "described " * 20
    content = described.tobytes()
    data = encoded(picture(), "AVIF", exif=described, xmp=b"<x/>", quality=95)
    return data, data.index(content) - 4, 4 + len(content)


@pytest.mark.parametrize("content", [b"\0\0\0\0" + broken for broken in BROKEN_EXIF] + [b"", b"\xff\xff\xff\xff"])
def test_avif_extras_decide_nothing(content: bytes) -> None:
    source, at, size = avif_with_exif()
    data = source[:at] + content.ljust(size, b"\xee")[:size] + source[at + size :]
    plain = stored_pixels(encoded(picture(), "AVIF", quality=95))
    assert np.array_equal(stored_pixels(data), plain)
    assert np.array_equal(stored_pixels(data, "raw"), plain)


def test_avif_extras_may_lie_outside_of_the_file() -> None:
    source, at, size = avif_with_exif()
    place = struct.pack(">II", at, size)
    assert source.count(place) == 1
    data = source.replace(place, struct.pack(">II", len(source) - 5, 2_000_000_000))
    assert np.array_equal(stored_pixels(data), stored_pixels(source))


@pytest.mark.parametrize(
    ("brands", "is_avif"),
    [
        ([b"mif1", b"\0\0\0\0", b"mif1", b"avif", b"miaf"], True),
        ([b"msf1", b"\0\0\0\0", b"iso8", b"avif"], True),
        ([b"miaf", b"\0\0\0\0", b"MA1B", b"avif"], True),
        ([b"avif", b"\0\0\0\0"], True),
        ([b"mif1", b"\0\0\0\0", b"heic"], False),
        ([b"mif1", b"avif", b"heic"], False),  # the version is no brand
        ([b"heic", b"\0\0\0\0", b"mif1", b"heic"], False),
    ],
)
def test_avif_is_known_by_any_of_its_brands(brands: list[bytes], is_avif: bool) -> None:
    source = encoded(picture(), "AVIF", quality=95)
    head = int.from_bytes(source[:4], "big")
    content = b"".join(brands).ljust(head - 8, b"\0")  # the places in the file stay
    data = struct.pack(">I", head) + b"ftyp" + content + source[head:]
    assert len(content) == head - 8
    if is_avif:
        assert np.array_equal(stored_pixels(data), stored_pixels(source))
    else:
        with pytest.raises(FetchError) as refused:
            stored_pixels(data)
        assert refused.value.reason is Reason.UNSUPPORTED_FORMAT


# -- evidence, and images that are too long ------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"RIFF\0\0\0\0WEBP", b"GIF89a", b"II*\0" + bytes(8)]
)
def test_evidence_names_no_addresses(data: bytes) -> None:
    found = []
    for _ in range(2):
        with pytest.raises(FetchError) as refused:
            store_image(bytes(bytearray(data)), Fetch())
        found.append(refused.value.evidence)
    assert found[0] == found[1] and "0x" not in found[0]


@pytest.mark.parametrize(
    ("format", "length", "extension"),
    [
        ("webp", 16_383, "webp"), ("webp", 16_384, "jpg"), ("webp", 65_501, "png"),
        ("jpeg", 65_500, "jpg"), ("jpeg", 65_501, "png"), ("png", 70_000, "png"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("upright", [True, False])
def test_an_image_too_long_for_the_format_is_stored_in_another(
    format: str, length: int, extension: str, upright: bool
) -> None:
    size = (20, length) if upright else (length, 20)
    source = encoded(Image.new("RGB", size, (200, 30, 30)), "PNG")
    image = store_image(source, Fetch.model_validate({"resize": "none", "format": format}))
    assert (image.stored_width, image.stored_height, image.extension) == (*size, extension)
    pixels = np.asarray(decode_image(image.data))
    assert pixels.shape == (size[1], size[0], 3)
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() <= 4
