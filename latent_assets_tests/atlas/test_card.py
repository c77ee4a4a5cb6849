"""Release information: complete, readable from the table alone, paths that another machine understands."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

import latent_assets
from latent_assets.atlas.card import ModelInfo, ReleaseInfo, portable
from latent_assets.errors import DataError, NotBuiltError
from latent_assets_tests.atlas.built import PROJECTION, Built, release


def test_says_what_the_release_is_made_of(built: Built) -> None:
    info = built.release
    assert (info.profile, info.title, info.attribution) == ("synthetic", "Synthetic", "Made by a random generator")
    assert info.rows == 60 and info.shards == {"00000": 20, "00001": 20, "00002": 20}
    assert info.spaces == ("clip", "vae", "joint") and info.dims == {"clip": 32, "vae": 16}
    assert info.projection == PROJECTION and info.fingerprint == "a" * 32
    assert info.backend == "umap-learn" and info.umap["n_neighbors"] == 15 and info.umap["seed"] == 42
    assert info.features == {"clip": "vector", "vae": "pooled"}
    assert info.metrics == {"clip": "cosine", "vae": "euclidean"}
    assert set(info.feature_recall) == {"vae"} and set(info.feature_recall["vae"]) == {"pooled", "random"}
    assert 0.5 < info.quality["clip"]["trustworthiness"] <= 1.0
    assert info.created.endswith("+00:00")


def test_json_and_back(built: Built) -> None:
    assert ReleaseInfo.from_json(built.release.to_json()) == built.release
    later = json.loads(built.release.to_json()) | {"a_key_of_a_later_version": 1}
    assert ReleaseInfo.from_json(json.dumps(later)) == built.release


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"models": 3}', "\x00"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="release information cannot be read"):
        ReleaseInfo.from_json(text)


def test_a_card_of_the_first_format_is_read_as_if_it_were_written_today() -> None:
    """Written by the release of an emoji atlas before embeddings were named one by one and the models moved."""
    old = ReleaseInfo.from_json(Path(__file__).with_name("card_format_1.json").read_bytes())
    assert (old.format, old.profile, old.rows, len(old.shards)) == (1, "demo", 3953, 8)
    assert old.spaces == ("clip", "vae", "joint") and old.dims == {"clip": 384, "vae": 64}
    assert old.features == {"clip": "vector", "vae": "random"}
    assert old.metrics == {"clip": "cosine", "vae": "euclidean"}
    assert old.feature_recall == {"vae": {"pooled": 0.5492, "random": 0.6180666666666667}}
    clip = old.model_settings("clip")
    assert clip is not None and clip.config is not None and clip.weights is not None
    # the model is where the package keeps it now
    assert Path(clip.config).is_file() and Path(clip.weights).is_file()
    assert old.models["vae"].spec["model"] == "package:latent_assets/openmoji/models/vae"
    assert ReleaseInfo.from_json(old.to_json().replace('"format": 1', '"format": 2')).models == old.models


def test_a_card_of_the_first_format_without_a_vae() -> None:
    values = json.loads(Path(__file__).with_name("card_format_1.json").read_bytes())
    values |= {"dims": {"clip": 384}, "spaces": ["clip"], "vae_feature": None, "vae_recall": None}
    old = ReleaseInfo.from_json(json.dumps(values))
    assert (old.features, old.metrics, old.feature_recall) == ({"clip": "vector"}, {"clip": "cosine"}, {})


def test_a_table_that_is_no_atlas_is_refused() -> None:
    with pytest.raises(NotBuiltError, match="not an atlas"):
        ReleaseInfo.of_schema(pa.schema([("a", pa.int8())]), "somewhere")


def test_paths_inside_packages_are_portable() -> None:
    package = Path(latent_assets.__file__).parent
    spec = {"config": str(package / "openmoji/x.json"), "weights": "/elsewhere/w", "name": None, "batch_size": 3}
    assert portable(spec) == {
        "config": "package:latent_assets/openmoji/x.json",
        "weights": "/elsewhere/w",
        "name": None,
        "batch_size": 3,
    }


def test_the_clip_model_is_found_again_on_this_machine(built: Built) -> None:
    package = Path(latent_assets.__file__).parent
    spec = {"config": str(package / "openmoji/x.json"), "weights": "/elsewhere/w", "batch_size": 3}
    info = ReleaseInfo.from_json(
        json.dumps(
            json.loads(built.release.to_json())
            | {"models": {"clip": {"name": "m", "digest": "d", "spec": portable(spec)}}}
        )
    )
    found = info.model_settings("clip")
    assert found is not None
    assert (found.config, found.weights, found.batch_size) == (spec["config"], spec["weights"], 3)


def test_describing_without_maps_is_refused(built: Built) -> None:
    built.storage.delete(f"projection/{PROJECTION}")
    with pytest.raises(NotBuiltError, match="no map was fitted"):
        release(built.profile, built.storage, built.shards)


def test_model_info_is_part_of_the_release(built: Built) -> None:
    assert built.release.models["clip"] == ModelInfo("synthetic-clip", "1" * 32, built.release.models["clip"].spec)
