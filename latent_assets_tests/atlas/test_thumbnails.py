"""Thumbnails: small, faithful, from any image mode; a broken image names its row."""

import io

import numpy as np
import pytest
from PIL import Image

from latent_assets.atlas.thumbnails import thumbnail, thumbnails
from latent_assets.errors import DataError
from latent_assets.profile import Table


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (96, 72)), ((100, 900), (11, 96)), ((40, 30), (40, 30)), ((1, 5000), (1, 96)), ((96, 96), (96, 96))],
)
@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_fits_and_keeps_the_proportions(size: tuple[int, int], expected: tuple[int, int], kind: str) -> None:
    settings = Table.model_validate({"thumbnail_format": kind})
    found = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", size, (200, 30, 60))), settings)))
    assert found.format == kind.upper()
    assert found.size == expected
    np.testing.assert_allclose(np.asarray(found.convert("RGB")).mean(axis=(0, 1)), (200, 30, 60), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = Image.open(io.BytesIO(thumbnail(encoded(Image.new(mode, (120, 80)), kind), Table())))
    assert found.mode == "RGB" and found.size == (96, 64)


def test_transparent_becomes_white() -> None:
    found = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), Table())))
    assert np.asarray(found).min() > 250


def test_profile_decides_the_size() -> None:
    settings = Table(thumbnail_size=32)
    assert max(Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", (640, 480))), settings))).size) == 32


def test_order_is_kept_over_many() -> None:
    images = [(f"{i:032x}", encoded(Image.new("L", (20, 20), i % 256))) for i in range(200)]
    found = list(thumbnails(images, Table(), "00000"))
    assert [row_id for row_id, _ in found] == [row_id for row_id, _ in images]
    for i in (0, 77, 199):
        assert abs(int(np.asarray(Image.open(io.BytesIO(found[i][1])))[10, 10, 0]) - i) <= 3


@pytest.mark.parametrize("broken", [b"", b"not an image", encoded(Image.effect_noise((200, 200), 90))[:900]])
def test_a_broken_image_names_its_row_and_shard(broken: bytes) -> None:
    with pytest.raises(DataError, match=f"image {7:032x} of shard 00004 cannot be decoded"):
        list(thumbnails([(f"{1:032x}", encoded(Image.new("L", (9, 9)))), (f"{7:032x}", broken)], Table(), "00004"))
