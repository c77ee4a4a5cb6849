"""Fitting and projecting, on real files with real UMAP: what is written, what is reported, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import model_name
from latent_assets.progress import Progress, listening
from latent_assets.projection.fit import FitReport, fit_map
from latent_assets.projection.header import read_header
from latent_assets.projection.model import load_model
from latent_assets.projection.shard import project_shard, read_coords
from latent_assets.storage import Storage
from latent_assets_tests.projection import synthetic

FIRST, SECOND = "a" * 32, "b" * 32


@dataclasses.dataclass(frozen=True)
class Fitted:
    storage: Storage
    shards: list
    report: FitReport
    progress: list[Progress]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    root = tmp_path_factory.mktemp("fit")
    storage = Storage(str(root))
    shards = synthetic.write_shards(storage, 240, 3)
    seen: list[Progress] = []
    with listening(seen.append):
        report = fit_map(synthetic.profile(root), storage, shards, FIRST)
    return Fitted(storage, shards, report, seen)


def test_the_report_says_what_was_fitted(fitted: Fitted) -> None:
    report = fitted.report
    assert (report.rows, report.total_rows, report.unmatched) == (240, 240, 0)
    assert list(report.spaces) == ["clip", "vae", "joint"]
    assert [space.dims for space in report.spaces.values()] == [32, 16, 48]
    assert [space.metric for space in report.spaces.values()] == ["cosine", "euclidean", "euclidean"]
    assert (report.backend, report.device) == ("umap-learn", "cpu")
    assert list(report.features) == ["vae", "clip"] and report.features["clip"].chosen == "vector"
    assert report.features["vae"].chosen == "pooled" and set(report.features["vae"].recall) == {"pooled", "random"}
    clip = report.spaces["clip"].quality
    assert clip.trustworthiness is not None and clip.trustworthiness > 0.9
    assert clip.recall is not None and clip.recall > 0.2
    for space in report.spaces.values():
        assert all(low < 0 < high for low, high in zip(space.lower, space.upper, strict=True))
    json.dumps(dataclasses.asdict(report))


def test_progress_counts_spaces(fitted: Fitted) -> None:
    assert [(step.stage, step.done, step.total) for step in fitted.progress] == [
        ("umap_model", done, 3) for done in range(4)
    ]
    assert "clip: 240 rows, umap-learn" in fitted.progress[0].note


def test_clusters_are_apart_on_the_map(fitted: Fitted) -> None:
    model = load_model(fitted.storage, FIRST)
    labels = np.arange(240) % 6
    for space in ("clip", "joint"):
        coords = model.coords[space]
        centres = np.stack([coords[labels == label].mean(axis=0) for label in range(6)])
        nearest = np.linalg.norm(coords[:, None] - centres[None], axis=2).argmin(axis=1)
        assert (nearest == labels).mean() > 0.95, space


def test_the_model_holds_what_a_later_row_needs(fitted: Fitted) -> None:
    model = load_model(fitted.storage, FIRST)
    assert model.ids == synthetic.row_ids(240)
    np.testing.assert_array_equal(model.vectors["clip"], synthetic.clip_vectors(240)[0].astype(np.float16))
    np.testing.assert_array_equal(model.vectors["vae"], synthetic.vae_columns(240)["pooled"].astype(np.float16))
    header = read_header(fitted.storage, FIRST)
    assert header["dims"] == {"clip": 32, "vae": 16}
    assert header["settings"]["seed"] == 42 and header["versions"]["umap-learn"].startswith("0.5")
    assert model.version == fitted.report.version


def test_the_same_input_gives_the_same_version_and_another_seed_another(fitted: Fitted) -> None:
    again = fit_map(synthetic.profile(fitted.storage.root), fitted.storage, fitted.shards, SECOND)
    assert again.version == fitted.report.version
    other = fit_map(synthetic.profile(fitted.storage.root, seed=7), fitted.storage, fitted.shards, SECOND)
    assert other.version != fitted.report.version
    # what was loaded under the fingerprint is read anew
    assert load_model(fitted.storage, SECOND).version == other.version


def test_fitted_rows_keep_their_place(fitted: Fitted) -> None:
    profile = synthetic.profile(fitted.storage.root)
    model = load_model(fitted.storage, FIRST)
    report = project_shard(profile, fitted.storage, FIRST, fitted.shards[1])
    frame = read_coords(fitted.storage, FIRST, "00001")
    assert frame.schema == {
        "id": pl.String,
        **{f"xyz_{space}": pl.Array(pl.Float32, 3) for space in ("clip", "vae", "joint")},
        "fitted": pl.Boolean,
    }
    assert frame["id"].to_list() == synthetic.row_ids(240)[80:160]
    np.testing.assert_array_equal(frame["xyz_vae"].to_numpy(), model.coords["vae"][80:160])
    assert frame["fitted"].all()
    assert (report.rows, report.fitted, report.placed) == (80, 80, 0)
    assert report.version == project_shard(profile, fitted.storage, FIRST, fitted.shards[1]).version
    assert report.version != project_shard(profile, fitted.storage, FIRST, fitted.shards[2]).version
    assert report.bytes == fitted.storage.size(f"projection/{FIRST}/coords/00001.parquet")


def test_rows_beyond_the_sample_are_placed_among_their_own(fitted: Fitted) -> None:
    profile = synthetic.profile(fitted.storage.root, fit_rows=120)
    report = fit_map(profile, fitted.storage, fitted.shards, SECOND)
    assert (report.rows, report.total_rows) == (120, 240)
    reports = [project_shard(profile, fitted.storage, SECOND, shard) for shard in fitted.shards]
    assert sum(r.fitted for r in reports) == 120 and sum(r.placed for r in reports) == 120
    frame = pl.concat([read_coords(fitted.storage, SECOND, r.shard) for r in reports])
    coords, is_fitted = frame["xyz_clip"].to_numpy(), frame["fitted"].to_numpy()
    labels = np.arange(240) % 6
    centres = np.stack([coords[is_fitted & (labels == label)].mean(axis=0) for label in range(6)])
    nearest = np.linalg.norm(coords[~is_fitted][:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == labels[~is_fitted]).mean() > 0.95


def test_a_placed_row_has_the_same_bits_in_whatever_shard_it_comes(fitted: Fitted, tmp_path: Path) -> None:
    profile = synthetic.profile(fitted.storage.root)
    ids = synthetic.row_ids(70, start=5000)
    clip, vae = synthetic.clip_vectors(70, seed=11)[0], synthetic.vae_columns(70, seed=12)

    def places(rows: list[int], shard: str) -> dict[str, bytes]:
        columns = {name: values[rows] for name, values in vae.items()}
        written = synthetic.write_shard(fitted.storage, shard, [ids[i] for i in rows], clip[rows], columns)
        assert project_shard(profile, fitted.storage, FIRST, written).placed == len(rows)
        frame = read_coords(fitted.storage, FIRST, shard)
        spaces = [frame[f"xyz_{space}"].to_numpy() for space in ("clip", "vae", "joint")]
        return {row_id: b"".join(s[i].tobytes() for s in spaces) for i, row_id in enumerate(frame["id"])}

    whole = places(list(range(70)), "90000")
    assert len(set(whole.values())) == 70
    mixed = places([41, 3, 69, 12], "90001") | places([0], "90002")
    assert mixed == {row_id: whole[row_id] for row_id in mixed}


def test_rows_without_a_latent_are_left_out_and_counted(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    ids = synthetic.row_ids(80)
    clip, vae = synthetic.clip_vectors(80)[0], synthetic.vae_columns(80)
    shards = []
    for number, missing in enumerate(([3, 4, 5], [40, 79])):
        rows = list(range(40 * number, 40 * number + 40))
        kept = [i for i in rows if i not in missing]
        columns = {name: values[kept] for name, values in vae.items()}
        shards.append(
            synthetic.write_shard(
                storage, f"{number:05d}", [ids[i] for i in rows], clip[rows], columns, [ids[i] for i in kept]
            )
        )
    report = fit_map(synthetic.profile(tmp_path), storage, shards, FIRST)
    assert (report.rows, report.total_rows, report.unmatched) == (75, 75, 5)
    second = project_shard(synthetic.profile(tmp_path), storage, FIRST, shards[1])
    assert (second.rows, second.unmatched) == (38, 2)
    assert ids[79] not in read_coords(storage, FIRST, "00001")["id"].to_list()


@pytest.mark.parametrize("space", ["clip", "vae"])
def test_one_model_one_space(tmp_path: Path, space: str) -> None:
    storage = Storage(str(tmp_path))
    clip = synthetic.clip_vectors(40)[0] if space == "clip" else None
    vae = synthetic.vae_columns(40) if space == "vae" else None
    shard = synthetic.write_shard(storage, "00000", synthetic.row_ids(40), clip, vae)
    profile = synthetic.profile(tmp_path, spaces=(space,))
    report = fit_map(profile, storage, [shard], FIRST)
    assert list(report.spaces) == [space] and list(report.features) == [space]
    assert project_shard(profile, storage, FIRST, shard).rows == 40
    assert read_coords(storage, FIRST, "00000").columns == ["id", f"xyz_{space}", "fitted"]


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_tiny_atlases_have_a_map(tmp_path: Path, rows: int) -> None:
    storage = Storage(str(tmp_path))
    shards = synthetic.write_shards(storage, rows, 1)
    report = fit_map(synthetic.profile(tmp_path), storage, shards, FIRST)
    assert report.rows == rows
    assert project_shard(synthetic.profile(tmp_path), storage, FIRST, shards[0]).fitted == rows
    coords = read_coords(storage, FIRST, "00000")["xyz_joint"].to_numpy()
    assert coords.shape == (rows, 3) and np.isfinite(coords).all()


def test_identical_pictures_have_a_map(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    clip = np.repeat(synthetic.clip_vectors(1)[0], 50, axis=0)
    vae = {name: np.repeat(values, 50, axis=0) for name, values in synthetic.vae_columns(1).items()}
    shard = synthetic.write_shard(storage, "00000", synthetic.row_ids(50), clip, vae)
    report = fit_map(synthetic.profile(tmp_path), storage, [shard], FIRST)
    assert report.rows == 50
    assert all(np.isfinite(coords).all() for coords in load_model(storage, FIRST).coords.values())


def test_an_atlas_without_shards_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(DataError, match="no shards to project"):
        fit_map(synthetic.profile(tmp_path), storage, [], FIRST)
    assert not storage.exists(model_name(FIRST))


def test_an_atlas_without_rows_has_empty_maps(tmp_path: Path) -> None:
    storage, profile = Storage(str(tmp_path)), synthetic.profile(tmp_path)
    empty = synthetic.write_shard(storage, "00000", [], synthetic.clip_vectors(0)[0], synthetic.vae_columns(0))
    report = fit_map(profile, storage, [empty], FIRST)
    assert (report.rows, report.total_rows, list(report.spaces)) == (0, 0, ["clip", "vae", "joint"])
    assert report.spaces["joint"].dims == 48 and report.spaces["joint"].quality.trustworthiness is None
    model = load_model(storage, FIRST)
    assert model.ids == [] and model.vectors["vae"].shape == (0, 16)
    assert project_shard(profile, storage, FIRST, empty).rows == 0
    assert read_coords(storage, FIRST, "00000").columns == ["id", "xyz_clip", "xyz_vae", "xyz_joint", "fitted"]
    later = synthetic.write_shards(storage, 3, 1)
    with pytest.raises(DataError, match="fitted when the atlas had no rows, and shard 00000 has 3"):
        project_shard(profile, storage, FIRST, later[0])


def test_an_empty_shard_beside_others_is_projected(fitted: Fitted) -> None:
    empty = synthetic.write_shard(fitted.storage, "80000", [], synthetic.clip_vectors(0)[0], synthetic.vae_columns(0))
    report = project_shard(synthetic.profile(fitted.storage.root), fitted.storage, FIRST, empty)
    assert (report.rows, report.lower) == (0, {})
    assert read_coords(fitted.storage, FIRST, "80000").columns[0] == "id"


def test_a_broken_row_stops_the_fit_and_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    clip = synthetic.clip_vectors(30)[0]
    clip[17] = np.nan
    shard = synthetic.write_shard(storage, "00003", synthetic.row_ids(30), clip, synthetic.vae_columns(30))
    with pytest.raises(DataError, match=f"{synthetic.row_ids(30)[17]}") as refused:
        fit_map(synthetic.profile(tmp_path), storage, [shard], FIRST)
    assert "shard 00003" in str(refused.value)
    assert not storage.exists(model_name(FIRST))


def test_projecting_without_a_model_is_refused(fitted: Fitted) -> None:
    with pytest.raises(NotBuiltError, match="no map was fitted"):
        project_shard(synthetic.profile(fitted.storage.root), fitted.storage, "0" * 32, fitted.shards[0])


def test_a_model_of_other_spaces_is_refused(fitted: Fitted) -> None:
    profile = synthetic.profile(fitted.storage.root, spaces=("clip",))
    with pytest.raises(DataError, match="has the spaces clip, vae, joint, the profile clip"):
        project_shard(profile, fitted.storage, FIRST, fitted.shards[0])
