"""A picture as a question: whatever file of the atlas is asked for, the answer is itself, in every space."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_assets import cli
from latent_assets.client import Atlas
from latent_assets_tests.conftest import drawing, profile_over, serving_gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.images.conftest import encoded
from latent_assets_tests.images.decode.test_extras import swapped_profile

pytestmark = pytest.mark.slow


def scene(seed: int) -> Image.Image:
    """Unlike itself when it is turned, mirrored or in other colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((300, 220), Image.Resampling.BICUBIC)


def odd_files() -> dict[str, bytes]:
    """Files whose pixels are not what a plain decoder gives, by what is odd about them."""

    def turned(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return exif.tobytes()

    deep = (np.asarray(scene(20).convert("L")).astype(np.uint16) << 8) + 77
    clear, veiled = scene(21).convert("RGBA"), scene(29).convert("RGBA")
    clear.putalpha(scene(22).convert("L"))
    veiled.putalpha(scene(30).convert("L"))
    return {
        **{f"orientation {n}": encoded(scene(n), quality=95, exif=turned(n)) for n in range(2, 9)},
        "orientation of a PNG": encoded(scene(9), "PNG", exif=turned(6)),
        "orientation of a TIFF": encoded(scene(10), "TIFF", exif=turned(8)),
        "16 bits": encoded(Image.fromarray(deep), "PNG"),
        "alpha": encoded(clear, "PNG"),
        "alpha of a WebP": encoded(veiled, "WEBP", lossless=True),
        "profile": encoded(scene(23), "PNG", icc_profile=swapped_profile()),
        "profile of a JPEG": encoded(scene(24), quality=90, icc_profile=swapped_profile()),
        "CMYK": encoded(scene(25).convert("CMYK"), quality=90),
        "palette": encoded(scene(26).quantize(16), "PNG"),
        "AVIF": encoded(scene(27), "AVIF"),
        "long": encoded(scene(28).resize((40, 700)), "PNG"),
    }


FILES = odd_files()


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]
) -> Iterator[tuple[Atlas, Path, dict[str, str]]]:
    """The atlas, its profile's file, and the URL of each odd file."""
    folder = tmp_path_factory.mktemp(f"questions-{request.param}")
    with pytest.MonkeyPatch.context() as patch, serving_gallery(folder / "gallery") as gallery:
        patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
        patch.delenv("DAGSTER_HOME", raising=False)
        gallery.files = {f"{n:03}.png": data for n, data in enumerate(FILES.values())}
        gallery.files |= {f"{n:03}.png": drawing(n) for n in range(len(FILES), 40)}
        gallery.write(sorted(gallery.files))
        fetch = {"format": request.param, "resize": "shortest", "size": 64}
        profile = profile_over(gallery, small_models, folder, fetch=fetch)
        with small_atlas(profile) as atlas:
            assert not any(result.failed for result in atlas.build().values())
        urls = {name: gallery.url(f"{n:03}.png") for n, name in enumerate(FILES)}
        yield Atlas.open(profile.root), write_profile(profile, folder / "asked.toml"), urls


def test_the_very_file_is_found_and_scores_one(asked: tuple[Atlas, Path, dict[str, str]], tmp_path: Path) -> None:
    atlas, _, urls = asked
    for name, data in FILES.items():
        path = tmp_path / f"{name}.bin"
        path.write_bytes(data)
        for question in (data, path, str(path), Image.open(io.BytesIO(data))):
            (hit,) = atlas.search_image(question, k=1)
            assert hit.url == urls[name] and hit.score == pytest.approx(1.0, abs=1e-3), (name, type(question))
            (hit,) = atlas.search_image(question, k=1, space="vae")
            assert hit.url == urls[name] and hit.measure == "L2 distance", (name, type(question))
            # what Pillow opened was not decoded at a smaller scale
            assert hit.score < (0.02 if not isinstance(question, Image.Image) else 0.3), (name, type(question))


def test_the_command_takes_a_picture(
    asked: tuple[Atlas, Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, profile, urls = asked
    path = tmp_path / "a photo [1].jpg"
    path.write_bytes(FILES["orientation 6"])
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latent-assets", "search", *arguments, "-p", str(profile)])
        try:
            cli.main()
        except SystemExit as stop:
            printed = capsys.readouterr()
            return int(stop.code or 0), printed.out, " ".join(printed.err.split())
        raise AssertionError("a command ends")

    for arguments in (["--image", str(path)], ["--image", path.name, "--space", "vae"], [path.name], [str(path)]):
        code, text, said = run(*arguments, "--json")
        hits = json.loads(text)
        assert code == 0 and hits[0]["url"] == urls["orientation 6"], said
        assert hits[0]["measure"] == ("L2 distance" if "vae" in arguments else "cosine similarity")
        assert ("is a file" in said) == ("--image" not in arguments)
    for arguments, sentence in {
        (): "in words, or --image",
        ("a dog", "--image", str(path)): "not both",
        ("a dog", "--space", "vae"): "words are compared by CLIP only",
        ("--image", "nosuch.jpg"): "nosuch.jpg cannot be read",
        ("--image", str(profile)): "cannot be read as an image",
        ("./nosuch.jpg",): "no file ./nosuch.jpg",
        ("--image", str(path), "--space", "joint"): "found in the space clip or vae",
    }.items():
        code, text, said = run(*arguments)
        assert code == 2 and sentence in said and not text, (arguments, said)
