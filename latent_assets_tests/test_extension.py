"""A third embedding, registered in a file of its own, goes through profile, encoding, checks, fit and placement."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_assets import spaces
from latent_assets.embeddings.quality import embedding_problems, thumbnail_problems
from latent_assets.embeddings.shard import ThumbnailOutput, VectorOutput, embed_shard
from latent_assets.embeddings.store import ShardEmbeddings, read_column, read_ids
from latent_assets.embeddings.thumbnails import thumbnail_fingerprint
from latent_assets.errors import ProfileError
from latent_assets.layout import embedding_name, thumbnail_name
from latent_assets.profile import Profile, load_profile, parse_profile
from latent_assets.projection.checks import coordinate_problems
from latent_assets.projection.features import choose_features
from latent_assets.projection.fit import fit_map
from latent_assets.projection.model import load_model
from latent_assets.projection.shard import project_shard, read_coords
from latent_assets.storage import Storage
from latent_assets_tests.conftest import drawing

EXTENSION = "latent_assets_tests.colour_histogram"
SPACES = ("clip", "vae", "joint", "histogram", "meaning_and_colour")


def profile(folder: Path, sections: dict[str, Any], **changes: Any) -> Profile:
    values: dict[str, Any] = {
        "name": "colours",
        "root": str(folder / "root"),
        "extensions": [EXTENSION],
        "source": {"path": "rows.parquet"},
        "models": {**{name: dict(spec) for name, spec in sections.items()}, "histogram": {"bins": 4}},
        "projection": {"spaces": list(SPACES), "n_neighbors": 5, "n_epochs": 20, "backend": "umap-learn"},
    }
    return parse_profile({**values, **changes}, folder / "colours.toml", folder)


def test_a_third_embedding_becomes_vectors_and_maps(tmp_path: Path, small_models: dict[str, dict[str, Any]]) -> None:
    mine = profile(tmp_path, small_models)
    assert [row.name for row in mine.embeddings] == ["vae", "clip", "histogram"]
    assert [space.name for space in mine.spaces] == list(SPACES)
    assert mine.models.of("histogram").bins == 4 and mine.models.clip is not None
    storage = Storage(mine.root)
    shards = [embed(mine, storage, "00000", range(40)), embed(mine, storage, "00001", range(0))]
    counts = read_column(storage, shards[0].files["histogram"], "counts")
    # by hand: the ground of a drawing, whose colour its seed decides, is most of it
    seeds = np.arange(40)
    red, green, blue = (seeds * factor % 256 // 64 for factor in (37, 91, 53))
    assert counts.shape == (40, 64)
    np.testing.assert_array_equal(counts.argmax(axis=1), 16 * red + 4 * green + blue)
    features = choose_features(mine, storage, shards)
    assert {name: choice.chosen for name, choice in features.items()} == {
        "vae": features["vae"].chosen,
        "clip": "vector",
        "histogram": "counts",
    }
    report = fit_map(mine, storage, shards, "f" * 32, {name: choice.chosen for name, choice in features.items()})
    assert {name: fit.dims for name, fit in report.spaces.items()} == {
        "clip": 32,
        "vae": 16,
        "joint": 48,
        "histogram": 64,
        "meaning_and_colour": 96,
    }
    model = load_model(storage, "f" * 32)
    np.testing.assert_array_equal(model.vectors["histogram"], counts)
    for shard in shards:
        rows = project_shard(mine, storage, "f" * 32, shard).rows
        ids = read_ids(storage, shard.files["clip"])
        assert rows == len(ids)
        assert coordinate_problems(storage, "f" * 32, shard.shard, SPACES, rows, ids) == {}
    np.testing.assert_array_equal(
        read_coords(storage, "f" * 32, "00000")["xyz_meaning_and_colour"].to_numpy(), model.coords["meaning_and_colour"]
    )
    # the weights of the space are those of its row
    joined = next(recipe for recipe in model.recipes if recipe.space == "meaning_and_colour").features(model.vectors)
    shares = [2 * joined[:, part].astype(float).var(axis=0).sum() for part in (slice(0, 32), slice(32, 96))]
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=1e-3)


def embed(mine: Profile, storage: Storage, shard: str, seeds: range) -> ShardEmbeddings:
    """Every embedding of the profile and the thumbnails of a shard of drawings, in one pass."""
    digests = {row.name: spaces.resolve(row.files)(mine.models.of(row.name)).digest for row in mine.embeddings}
    files = {name: embedding_name(digest, shard) for name, digest in digests.items()}
    thumbnails = thumbnail_name(thumbnail_fingerprint(mine.table), shard)
    outputs: list[VectorOutput | ThumbnailOutput] = [ThumbnailOutput(thumbnails, mine.table)]
    for row in mine.embeddings:
        settings = mine.models.of(row.name)
        outputs.append(
            VectorOutput(spaces.resolve(row.load)(settings), files[row.name], settings.batch_size, row.whole)
        )
    images = [(f"{seed:032x}", drawing(seed)) for seed in seeds]
    embed_shard(storage, images, len(images), outputs)
    ids = [row_id for row_id, _ in images]
    for row in mine.embeddings:
        assert embedding_problems(storage, row, files[row.name], len(ids), ids)[0] == {}
    assert thumbnail_problems(storage, thumbnails, mine.table, len(ids), ids, deep=True) == {}
    return ShardEmbeddings(shard, files, thumbnails)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": {"histogram": {"bins": "4"}}}, ["models.histogram.bins", "valid integer"]),
        ({"models": {"histogram": {"bin": 4}}}, ["models.histogram.bin", "no such key", "batch_size, bins"]),
        ({"models": {"histogran": {}}}, ["models.histogran", "no such key", "clip, diffusion, histogram, vae"]),
        ({"models": {"histogram": {"bins": 3}}}, ["models.histogram.bins: 3 does not divide 256"]),
        ({"projection": {"spaces": ["histogram", "clip"]}}, ["`clip`", "[models.clip]", "leave"]),
        ({"projection": {"spaces": ["hue"]}}, ["projection.spaces", "no space `hue`", "histogram"]),
        ({"extensions": ["missing.py"]}, ["`extensions`", "missing.py is not there", "correct the path"]),
        ({"extensions": ["no_such_package.module"]}, ["`extensions`", "no_such_package.module is not there"]),
        ({"extensions": "a.py"}, ["extensions", "tuple"]),
        ({"extensions": [3]}, ["extensions.0", "string"]),
    ],
)
def test_refusals_name_key_and_remedy(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    values = {"projection": {"spaces": ["histogram"]}, **changes}
    with pytest.raises(ProfileError) as refused:
        profile(tmp_path, {}, **values)
    for words in (*said, "colours.toml"):
        assert words in str(refused.value)


EXTENDED = textwrap.dedent(
    """
    from dataclasses import replace
    from latent_assets.spaces import Space, embeddings, register
    register(
        replace(embeddings()["clip"], name="other", stage="other_vectors", source="other_model"),
        Space("other", ("other",), "cosine", "something else"),
    )
    """
)
OTHER = 'name = "o"\nextensions = ["./other.py"]\n[source]\npath = "x"\n[projection]\nspaces = ["other"]\n'
OTHER += '[models.other]\nconfig = "clip/config.json"\nweights = "/there/w.safetensors"\n'


def load_elsewhere(file: Path) -> str:
    """What a new process says of a profile: fingerprint, path, or the refusal."""
    code = """
import sys
from latent_assets.profile import ProfileError, load_profile
try:
    found = load_profile(sys.argv[1])
    print(found.fingerprint, found.models.of("other").config, found.extensions[0], "torch" in sys.modules)
except ProfileError as error:
    print("refused", error)
"""
    root = Path(spaces.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_a_file_beside_the_profile_is_found_and_counts_for_its_fingerprint(tmp_path: Path) -> None:
    file, extension = tmp_path / "o.toml", tmp_path / "other.py"
    file.write_text(OTHER)
    extension.write_text(EXTENDED)
    first = load_elsewhere(file).split()
    assert first[1:] == [str(tmp_path / "clip/config.json"), str(extension), "False"], "paths start at the profile"
    assert len(first[0]) == 16 and int(first[0], 16)
    assert load_elsewhere(file).split() == first
    extension.write_text(EXTENDED + "# another version\n")
    assert load_elsewhere(file).split()[0] != first[0]
    file.write_text(OTHER.replace('"/there/w', '"/there/v'))
    extension.write_text(EXTENDED)
    assert load_elsewhere(file).split()[0] != first[0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('nonsense')", "cannot be imported (ValueError: nonsense)"),
        ("import no_such_thing", "cannot be imported (ModuleNotFoundError: No module named 'no_such_thing')"),
        ("open('/nowhere/at/all')", "cannot be imported (FileNotFoundError"),
        (EXTENDED.replace('"other", stage', '"clip", stage'), "`clip` is registered already, with other values"),
        (EXTENDED.replace('("other",)', '("another",)'), "`another`, which is no registered embedding"),
    ],
)
def test_an_extension_that_fails_is_named(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "o.toml").write_text(OTHER)
    (tmp_path / "other.py").write_text(code)
    found = load_elsewhere(tmp_path / "o.toml")
    assert found.startswith("refused") and said in found and "other.py" in found and "o.toml" in found


def test_profiles_without_extensions_have_a_fingerprint_too() -> None:
    first = load_profile("demo")
    assert first.fingerprint == load_profile("demo").fingerprint
    assert first.model_copy(update={"title": "another"}).fingerprint != first.fingerprint
