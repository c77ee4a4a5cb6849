"""Thumbnails: small, faithful, from any image mode."""

import io

import numpy as np
import pytest
from PIL import Image

from latent_assets.embeddings.thumbnails import thumbnail, thumbnail_fingerprint
from latent_assets.images.decode.image import decode_image
from latent_assets.profile import Table


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def stored(image: Image.Image, kind: str = "PNG") -> Image.Image:
    """`image` as the pass decodes it from a file."""
    return decode_image(encoded(image, kind))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (96, 72)), ((100, 900), (11, 96)), ((40, 30), (40, 30)), ((1, 5000), (1, 96)), ((96, 96), (96, 96))],
)
@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_fits_and_keeps_the_proportions(size: tuple[int, int], expected: tuple[int, int], kind: str) -> None:
    settings = Table.model_validate({"thumbnail_format": kind})
    found = Image.open(io.BytesIO(thumbnail(stored(Image.new("RGB", size, (200, 30, 60))), settings)))
    assert found.format == kind.upper()
    assert found.size == expected
    np.testing.assert_allclose(np.asarray(found.convert("RGB")).mean(axis=(0, 1)), (200, 30, 60), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1", "I;16"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = Image.open(io.BytesIO(thumbnail(stored(Image.new(mode, (120, 80)), kind), Table())))
    assert found.mode == "RGB" and found.size == (96, 64)


def test_transparent_becomes_white() -> None:
    found = Image.open(io.BytesIO(thumbnail(stored(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), Table())))
    assert np.asarray(found).min() > 250


def test_profile_decides_the_size() -> None:
    settings = Table(thumbnail_size=32)
    assert max(Image.open(io.BytesIO(thumbnail(stored(Image.new("RGB", (640, 480))), settings))).size) == 32


def test_the_image_stays_as_the_encoders_see_it() -> None:
    image = stored(Image.effect_noise((300, 200), 90))
    before = image.tobytes()
    thumbnail(image, Table())
    assert image.size == (300, 200) and image.tobytes() == before


def test_settings_of_the_thumbnail_decide_its_fingerprint_and_no_others() -> None:
    fingerprints = [
        thumbnail_fingerprint(Table.model_validate(values))
        for values in ({}, {"thumbnail_size": 48}, {"thumbnail_quality": 70}, {"thumbnail_format": "jpeg"})
    ]
    assert len(set(fingerprints)) == 4
    assert thumbnail_fingerprint(Table(index_above_rows=7)) == fingerprints[0]
