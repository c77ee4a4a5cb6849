"""Pixels decide whether a picture shows another: every alteration is found and named, other pictures are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from latent_assets.generated.placement.copies import best_copies, views
from latent_assets.generated.placement.correlation import Picture
from latent_assets.images.decode.image import decode_image
from latent_assets_tests.generated.placement.calibrated import file_of, scene


def cropped(image: Image.Image, side: float, left: float = 0.5, top: float = 0.5) -> Image.Image:
    """The part of `side` of a picture, at a place between its left and right, top and bottom."""
    width, height = (round(length * side) for length in image.size)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def turned(image: Image.Image, degrees: float) -> Image.Image:
    return cropped(image.rotate(degrees, Image.Resampling.BICUBIC), 0.85)


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same": lambda image: image,
    "larger": lambda image: image.resize((150, 150), Image.Resampling.LANCZOS),
    "smaller": lambda image: image.resize((40, 40), Image.Resampling.LANCZOS),
    "another shape": lambda image: image.resize((96, 64), Image.Resampling.LANCZOS),
    "JPEG 50": lambda image: decode_image(file_of(image, "JPEG", quality=50)),
    "mirrored": ImageOps.mirror,
    "80 %": lambda image: cropped(image, 0.8, 0.2, 0.9),
    "60 %": lambda image: cropped(image, 0.6, 0.9, 0.1),
    "60 %, mirrored": lambda image: ImageOps.mirror(cropped(image, 0.6, 0.3, 0.7)),
    "turned left": lambda image: turned(image, 5),
    "turned right": lambda image: turned(image, -5),
    "border": lambda image: ImageOps.expand(image, 8, (250, 250, 250)),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_picture_is_recognised_among_others(name: str) -> None:
    found = []
    for seed in range(0, 60, 6):
        original = scene(seed, 96)
        others = {f"{other:02}": Picture(scene(other, 96)) for other in range(60)}
        pictures = {view.inside: Picture(view.image) for view in views(ALTERED[name](original))}
        (first, match), *_ = best_copies(pictures, others)
        found.append((first == f"{seed:02}", match.correlation))
    assert all(right for right, _ in found) and min(value for _, value in found) > 0.95, found


def test_the_alteration_is_named() -> None:
    original = Picture(scene(3, 96))

    def alteration(image: Image.Image) -> tuple[bool, int, float]:
        match = Picture(image).best_match(original)
        return match.alteration.mirrored, int(np.sign(round(match.alteration.turn))), match.alteration.scale

    assert alteration(scene(3, 96)) == (False, 0, 1.0)
    assert alteration(ImageOps.mirror(scene(3, 96))) == (True, 0, 1.0)
    assert alteration(cropped(scene(3, 96), 0.6)) == (False, 0, pytest.approx(0.6, abs=0.06))
    assert alteration(ImageOps.expand(scene(3, 96), 12)) == (False, 0, pytest.approx(-0.8, abs=0.06))
    assert alteration(turned(scene(3, 96), 6)) == (False, -1, pytest.approx(0.85, abs=0.03))


def test_other_pictures_and_plain_areas_are_no_copies() -> None:
    others = [Picture(scene(seed, 96)) for seed in range(40)]
    best = [Picture(scene(seed, 96)).best_match(other).correlation for seed in range(40, 50) for other in others]
    assert np.quantile(best, 0.95) < 0.9
    plain = Picture(Image.new("RGB", (64, 64), (10, 200, 30)))
    assert plain.best_match(plain).correlation == 0.0 and plain.best_match(others[0]).correlation == 0.0
    assert best_copies({1.0: plain}, {}) == []


def test_detail_tells_blanks_gradients_and_noise_apart() -> None:
    gradient = Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    scenes = [Picture(scene(seed)).detail for seed in range(20)]
    assert Picture(Image.new("RGB", (64, 64))).detail == 0.0
    assert Picture(gradient).detail < min(scenes) < max(scenes) < Picture(noise).detail


def test_a_border_is_taken_off_and_said() -> None:
    picture = scene(3, 96)
    whole, inner = views(ImageOps.expand(picture, 8, (20, 90, 220)))
    assert whole.inside == 1.0 and inner.inside == pytest.approx(96 / 112)
    assert np.array_equal(np.asarray(inner.image), np.asarray(picture))
    pictures = {view.inside: Picture(view.image) for view in (whole, inner)}
    ((_, match),) = best_copies(pictures, {"": Picture(picture)})
    assert match.correlation > 0.99 and match.alteration.scale == pytest.approx(-96 / 112)


def test_a_motif_on_a_plain_ground_has_no_border() -> None:
    motif = Image.new("RGB", (96, 96), (255, 255, 255))
    motif.paste((200, 30, 30), (30, 20, 60, 50))
    motif.paste((30, 30, 200), (20, 60, 80, 70))
    for image in (motif, Image.new("RGB", (96, 96), (9, 9, 9)), scene(3, 96)):
        assert [view.inside for view in views(image)] == [1.0]


def test_many_are_compared_as_one_alone() -> None:
    picture, others = Picture(cropped(scene(3, 96), 0.7, 0.1, 0.8)), [Picture(scene(seed, 96)) for seed in range(30)]
    best = picture.best_matches(others, 8)
    assert best[0][0] == 3 and len(best) == 8
    assert best[0][1] == picture.best_match(others[3])
