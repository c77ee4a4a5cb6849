"""Labels of a release: in its table, in its tiles, as the client reads them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from latent_assets.atlas.checks import check
from latent_assets.atlas.labels.store import Label, SpaceLabels, read_labels, write_clusters, write_labels
from latent_assets.atlas.release import publish, stage
from latent_assets.atlas.removal import drop_rows
from latent_assets.atlas.table import LIVE, open_table
from latent_assets.atlas.tiles.read import Tiles
from latent_assets.atlas.tiles.rows import read_thumbnails_of, read_tile_rows
from latent_assets.atlas.tiles.write import write_tiles
from latent_assets.client import Atlas, QueryError
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import clusters_name
from latent_assets_tests.atlas.built import Built, data_files, live

MADE = "e" * 32
WHOLE, PART, OTHER = "00000001", "00000002", "00000003"
SPACES = ("clip", "vae", "joint")


def label(identity: str, level: int, parent: str | None, rows: int, representative: str) -> Label:
    return Label(identity, level, parent, f"name of {identity}", ("name",), rows, (0.5, 1.0, 2.0), 0.25, representative)


def cluster_of(row: int) -> str | None:
    """A third in a part, a sixth in its whole alone, a third in a cluster of level 2, the others in none."""
    return [PART, PART, WHOLE, OTHER, OTHER, None][row % 6]


def write(built: Built, other: str | None = OTHER) -> None:
    """Labels of the 60 rows; those of level 2 are in `other`."""
    labels = (
        label(WHOLE, 1, None, 30, built.ids[0]),
        label(OTHER, 2, None, 20, built.ids[3]),
        label(PART, 3, WHOLE, 20, built.ids[1]),
    )
    write_labels(built.storage, MADE, {space: SpaceLabels(60, (30, 40, 40), labels) for space in SPACES})
    of = {row_id: cluster_of(row) for row, row_id in enumerate(built.ids)}
    for content in built.embeddings:
        ids = built.storage.read_parquet(f"catalog/{content.shard}.parquet")["id"].to_list()
        mine = [row_id for row_id in reversed(ids) if row_id in of]  # in another order than the coordinates
        found = pl.Series([other if of[row_id] == OTHER else of[row_id] for row_id in mine], dtype=pl.String)
        frame = pl.DataFrame({"id": mine, **{f"cluster_{space}": found for space in SPACES}})
        write_clusters(built.storage, MADE, content.shard, frame)


def released(built: Built, key: str = "") -> int:
    shards = [replace(shard, coords_key=shard.coords_key + key) for shard in built.shards]
    made = stage(built.profile, built.storage, shards, replace(built.release, labels=MADE))
    return publish(built.storage, made, check(built.profile, built.storage, made)).version


def test_the_table_has_the_cluster_of_every_row(built: Built) -> None:
    write(built)
    released(built)
    rows = {row["id"]: row for row in live(built).to_arrow().to_pylist()}
    assert len(rows) == 60
    for number, row_id in enumerate(built.ids):
        assert {rows[row_id][f"cluster_{space}"] for space in SPACES} == {cluster_of(number)}
    assert live(built).count_rows(f"cluster_clip = '{PART}'") == 20


def test_other_labels_rewrite_places_and_no_rows(built: Built) -> None:
    write(built)
    released(built)
    before = data_files(built)
    write(built, other=None)
    released(built, key="other labels")
    new = set(data_files(built)) - set(before)
    assert len(new) == 3 and {name.split(".")[1] for name in new} == {"coords"}
    assert live(built).count_rows(f"cluster_vae = '{OTHER}'") == 0


def test_a_row_that_has_no_labels_is_a_table_out_of_step(built: Built) -> None:
    write(built)
    name = clusters_name(MADE, "00001")
    built.storage.write_parquet(name, built.storage.read_parquet(name)[1:])
    with pytest.raises(DataError, match="not in the labels"):
        released(built)


def test_a_release_without_labels_has_no_clusters(built: Built) -> None:
    made = stage(built.profile, built.storage, built.shards, built.release)
    publish(built.storage, made, check(built.profile, built.storage, made))
    assert not any(name.startswith("cluster_") for name in live(built).schema.names)
    atlas = Atlas.open(built.storage.root)
    assert atlas.row(built.ids[0]).clusters == {}
    with pytest.raises(NotBuiltError, match="no labels"):
        atlas.labels()
    _, rows = read_tile_rows(built.storage.lance_uri, made.version)
    assert rows.clusters == {}


def test_the_client_reads_labels(built: Built, tmp_path: Path) -> None:
    write(built)
    released(built)
    atlas = Atlas.open(built.storage.root)
    assert [each.id for each in atlas.labels("vae")] == [WHOLE, OTHER, PART]
    assert [each.id for each in atlas.labels("clip", level=3)] == [PART]
    assert atlas.labels()[2].parent == WHOLE and atlas.labels()[0].centre == (0.5, 1.0, 2.0)
    assert atlas.row(built.ids[1]).clusters == dict.fromkeys(SPACES, PART)
    assert atlas.row(built.ids[5]).clusters == dict.fromkeys(SPACES)
    for wrong in ({"space": "nowhere"}, {"level": 0}, {"level": 4}):
        with pytest.raises(QueryError):
            atlas.labels(**wrong)  # type: ignore[arg-type]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(Path(built.storage.root) / "lance")
    with pytest.raises(NotBuiltError, match="root of an atlas"):
        Atlas.open(elsewhere).labels()


def test_tiles_have_a_column_for_each_level(built: Built) -> None:
    write(built)
    version = released(built)
    info, rows = read_tile_rows(built.storage.lance_uri, version)
    write_tiles(
        built.storage,
        str(version),
        info,
        rows,
        lambda first, count: read_thumbnails_of(built.storage.lance_uri, version, first, count),
        dict.fromkeys(info.shards, "1"),
        read_labels(built.storage, info.labels),
    )
    tiles = Tiles.open(built.storage, str(version))
    of = {row_id: cluster_of(row) for row, row_id in enumerate(built.ids)}
    expected = [of[row.tobytes().hex()] for row in tiles.ids]
    upto = {
        1: {PART: WHOLE, OTHER: None, WHOLE: WHOLE, None: None},
        2: {PART: WHOLE, OTHER: OTHER, WHOLE: WHOLE, None: None},
        3: {PART: PART, OTHER: OTHER, WHOLE: WHOLE, None: None},
    }
    for space in SPACES:
        for level, found in upto.items():
            assert tiles.column(f"cluster_{space}_{level}") == [found[each] for each in expected]
        labels = tiles.labels(space)
        assert [(each["id"], each["level"], each["parent"], each["rows"]) for each in labels] == [
            (WHOLE, 1, None, 30),
            (OTHER, 2, None, 20),
            (PART, 3, WHOLE, 20),
        ]
        for each in labels:
            codes = np.frombuffer(
                built.storage.read_bytes(f"tiles/{version}/columns/cluster_{space}_{each['level']}.bin"), "<u2"
            )
            mine = [upto[each["level"]][cluster] == each["id"] for cluster in expected]
            assert_array_equal(codes == each["code"], mine)
    assert {column["kind"] for column in tiles.about["columns"] if column["name"].startswith("cluster_")} == {"cluster"}
    assert tiles.space("clip").points.itemsize == 12, "clusters cost no byte of a point"


def test_rows_taken_out_of_the_table_leave_the_others_in_their_clusters(built: Built) -> None:
    write(built)
    released(built)
    drop_rows(built.profile, built.storage, built.ids[:2], lambda card: card)
    table = open_table(built.storage.lance_uri, LIVE)
    found = dict(zip(*table.to_arrow().select(["id", "cluster_joint"]).to_pydict().values(), strict=True))
    assert found == {row_id: cluster_of(row) for row, row_id in enumerate(built.ids) if row > 1}
