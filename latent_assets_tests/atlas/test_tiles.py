"""Tiles: every point once, where it is on the map; every thumbnail its image's; what cannot be read is said."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latent_assets.atlas.table import open_table
from latent_assets.atlas.tiles import octree
from latent_assets.atlas.tiles.octree import LEAF, SAMPLE, Cube, build_octree, morton
from latent_assets.atlas.tiles.read import Tiles, problem_of_points, problem_of_sprites
from latent_assets.atlas.tiles.rows import Codes, TileRows, read_thumbnails_of, read_tile_rows
from latent_assets.atlas.tiles.write import list_releases, write_tiles
from latent_assets.errors import DataError
from latent_assets.storage import Storage
from latent_assets_tests.atlas.built import Built, published


def rows_of(places: np.ndarray, shards: int = 3, **numbers: np.ndarray) -> TileRows:
    """Rows with ids of their own, three categories (one row in four has none) and `places` in two spaces."""
    count = len(places)
    ids = np.random.default_rng(1).integers(0, 256, (count, 16)).astype(np.uint8)
    codes = np.arange(count) % 4
    cuts = [len(part) for part in np.array_split(np.arange(count), shards) if len(part)]
    runs = [(f"{number:05d}", size) for number, size in enumerate(cuts)]
    values = [
        (name, int((codes == code).sum())) for code, name in enumerate(["dog", "cat", "fish"], 1) if code in codes
    ]
    return TileRows(
        ids,
        {"clip": places, "vae": places[::-1] * 3 + 1},
        numbers,
        {
            "category": Codes(codes, values if count else []),
            "shard": Codes(np.repeat(np.arange(len(runs)) + 1, cuts), runs),
        },
        runs,
    )


def write(storage: Storage, rows: TileRows, info: Any, release: str = "1", version: str = "1") -> Tiles:
    """A set whose thumbnails are texts that name their row."""
    versions = {shard: version for shard, _ in rows.shards}

    def pictures(first: int, count: int) -> list[bytes]:
        return [b"picture %d" % row for row in range(first, first + count)]

    write_tiles(storage, release, info, rows, pictures, versions)
    return Tiles.open(storage, release)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "tiles-root"))


def cloud(count: int) -> np.ndarray:
    """A dense and a sparse cluster and a few far away: float32 [count, 3]."""
    draw = np.random.default_rng(7)
    places = draw.normal(0, 0.2, (count, 3))
    places[: count // 5] = draw.normal(6, 2.0, (count // 5, 3))
    far = np.array([[-40.0, 0, 0], [0, 60, 0], [0, 0, 9]])[:count]
    places[: len(far)] = far
    return places.astype(np.float32)


def test_tiles_of_a_release_hold_the_table(built: Built) -> None:
    release = published(built)
    info, rows = read_tile_rows(built.storage.lance_uri, release.version)
    versions = dict.fromkeys(info.shards, "1")
    made = write_tiles(
        built.storage,
        str(release.version),
        info,
        rows,
        lambda first, count: read_thumbnails_of(built.storage.lance_uri, release.version, first, count),
        versions,
    )
    assert all(built.storage.exists(name) for name in made.files)
    tiles = Tiles.open(built.storage, str(release.version))
    table = open_table(built.storage.lance_uri, release.version).to_arrow().to_pylist()
    assert [row.tobytes().hex() for row in tiles.ids] == [row["id"] for row in table]
    assert (problem_of_points(tiles), problem_of_sprites(tiles)) == ("", "")
    for space in info.spaces:
        found = tiles.space(space)
        expected = np.array([row[f"xyz_{space}"] for row in table])
        assert np.abs(found.places() - expected).max() <= found.cube.edge / 65_535
    names = tiles.about["categories"]
    points = tiles.space("clip").points
    assert [names[code - 1] for code in points["category"]] == [table[row]["category"] for row in points["row"]]
    assert tiles.column("category") == [row["category"] for row in table]
    assert tiles.column("domain") == ["example.org"] * len(table)
    assert tiles.column("shard") == [row["shard"] for row in table]
    assert tiles.column("aesthetic") == pytest.approx([row["aesthetic"] for row in table], abs=1e-4)
    assert tiles.sprites() == [row["thumbnail"] for row in table]
    assert Image.open(io.BytesIO(tiles.sprites()[7] or b"")).size == (96, 72)
    assert {column["name"] for column in tiles.about["columns"]} == {"category", "domain", "shard", "aesthetic"}


def test_a_label_stands_where_most_of_its_category_are(storage: Storage, template: Built) -> None:
    places = np.concatenate([np.zeros((40, 3)), np.full((20, 3), 8.0), [[90.0, 0, 0]]]).astype(np.float32)
    rows = rows_of(places)
    category = Codes(np.array([1] * 30 + [2] * 10 + [2] * 20 + [1]), [("cat", 31), ("dog", 30)])
    tiles = write(storage, replace(rows, codes={**rows.codes, "category": category}), template.release)
    labels = {label["text"]: label for label in tiles.labels("clip")}
    assert labels["cat"] == {"text": "cat", "level": 1, "position": [0, 0, 0], "radius": 0, "rows": 31}
    assert labels["dog"]["position"] == [8, 8, 8]


def test_a_camera_knows_where_most_points_are(storage: Storage, template: Built) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(20.0)] * 3), axis=-1).reshape(-1, 3) * 0.5
    places = np.concatenate([grid, [[400.0, 0, 0]]]).astype(np.float32)
    space = write(storage, rows_of(places), template.release).about["spaces"]["clip"]
    assert space["spacing"] == pytest.approx(0.5, rel=0.01)
    assert space["middle"] == pytest.approx([4.75] * 3, abs=0.3)
    assert 4.75 < space["reach"] < 4.75 * 3**0.5
    alone = write(storage, rows_of(places[:1]), template.release, "2").about["spaces"]["clip"]
    assert alone["spacing"] > 0 and alone["reach"] > 0 and alone["middle"] == places[0].tolist()


@pytest.mark.parametrize("count", [0, 1, 2, LEAF, LEAF + 1, 60_000])
def test_every_point_is_there_once(storage: Storage, template: Built, count: int) -> None:
    rows = rows_of(cloud(count))
    tiles = write(storage, rows, template.release)
    assert len(tiles) == count
    assert (problem_of_points(tiles), problem_of_sprites(tiles)) == ("", "")
    for space in tiles.spaces:
        found = tiles.space(space)
        if count:
            error = np.abs(found.places() - rows.places[space])
            assert error.max() <= found.cube.edge / 65_535
        assert (len(found.nodes) > 1) == (count > LEAF)
    size = storage.size("tiles/1/clip/points.bin")
    assert size == 12 * count


def test_points_at_one_place_end_in_one_node(storage: Storage, template: Built) -> None:
    tiles = write(storage, rows_of(np.full((3 * LEAF, 3), 2.5, np.float32)), template.release)
    assert problem_of_points(tiles) == ""
    nodes = tiles.space("clip").nodes
    assert nodes["level"].max() == octree.DEPTH or len(nodes) <= 6


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e5]))
def test_codes_and_cells_belong_together(count: int, seed: int, scale: float) -> None:
    places = (np.random.default_rng(seed).standard_cauchy((count, 3)) * scale).astype(np.float32)
    cube = Cube.around(places)
    quantized = cube.quantize(places)
    code = morton(quantized)
    back = np.zeros_like(quantized)
    for axis in range(3):
        for bit in range(16):
            back[:, axis] |= ((code >> np.uint64(3 * bit + axis)) & np.uint64(1)).astype(np.uint16) << bit
    assert (back == quantized).all()
    assert np.abs(cube.places(quantized) - places).max() <= cube.edge / 65_535 + 1e-3 * cube.edge / 65_535


def test_an_inner_node_keeps_an_even_sample_and_the_order_is_one_of_samples() -> None:
    places = cloud(60_000)
    cube = Cube.around(places)
    chance = np.random.default_rng(3).uniform(1e-9, 1, len(places))
    tree = build_octree(cube.quantize(places), chance)
    root = tree.order[:SAMPLE]
    assert tree.nodes["points"][0] == SAMPLE
    # the sparse cluster has a fifth of the points, and more of a sample that keeps outlines
    sparse = (root < 12_000).mean()
    assert 0.25 < sparse < 0.9
    # the far ones are alone in their cells: weighted by one they come before those of crowded cells
    first = (tree.order[: SAMPLE // 4] < 12_000).mean()
    assert abs(first - sparse) < 0.1


def test_a_point_stays_on_its_level_when_others_go() -> None:
    places = cloud(40_000)
    chance = np.random.default_rng(3).uniform(1e-9, 1, len(places))
    cube = Cube.around(places)
    keep = np.arange(len(places)) % 50 != 7
    keep[:3] = True
    whole = build_octree(cube.quantize(places), chance)
    part = build_octree(cube.quantize(places[keep]), chance[keep])
    before, after = set(whole.order[:SAMPLE]), set(np.flatnonzero(keep)[part.order[:SAMPLE]])
    assert len(before & after) > 0.9 * SAMPLE


def test_thumbnails_of_shards_that_did_not_change_are_used_again(storage: Storage, template: Built) -> None:
    places = cloud(300)
    write(storage, rows_of(places), template.release)
    packs = {name: (Path(storage.uri("tiles/sprites")) / name).stat().st_mtime_ns for name in packs_of(storage)}
    rows = rows_of(places + 3)
    shards = {shard: "1" for shard, _ in rows.shards} | {"00001": "2"}
    made = write_tiles(storage, "2", template.release, rows, lambda first, count: [b"new"] * count, shards)
    assert (made.written, made.reused) == (1, 2)
    assert all((Path(storage.uri("tiles/sprites")) / n).stat().st_mtime_ns == packs[n] for n in packs)
    tiles = Tiles.open(storage, "2")
    assert tiles.sprites() == [b"new" if 100 <= row < 200 else b"picture %d" % row for row in range(300)]


def packs_of(storage: Storage) -> list[str]:
    return list(storage.list("tiles/sprites", ".bin"))


def test_sets_that_are_not_kept_go_with_what_only_they_had(storage: Storage, template: Built) -> None:
    places = cloud(90)
    write(storage, rows_of(places), template.release, "1", "old")
    write(storage, rows_of(places), template.release, "2", "new")
    assert len(packs_of(storage)) == 6
    assert list_releases(storage, ["3", "2"]) == 1
    listed = json.loads(storage.read_bytes("tiles/releases.json"))["releases"]
    assert [(one["release"], one["rows"]) for one in listed] == [("2", 90)]
    assert not storage.exists("tiles/1")
    assert len(packs_of(storage)) == 3
    assert problem_of_sprites(Tiles.open(storage, "2")) == ""


def test_many_rows_have_thumbnails_in_the_upper_levels_only(
    storage: Storage, template: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_assets.atlas.tiles.write.ALL_WITH_SPRITES", 2 * SAMPLE + 10)
    tiles = write(storage, rows_of(cloud(20_000)), template.release)
    found = tiles.sprites()
    upper = {int(row) for space in tiles.spaces for row in tiles.space(space).points["row"][:SAMPLE]}
    assert {row for row, sprite in enumerate(found) if sprite is not None} == upper
    assert all(found[row] == b"picture %d" % row for row in upper)


DAMAGES = {
    "a row twice": ("clip/points.bin", lambda data: data[:-12] + data[:12], "exactly once"),
    "cut in a record": ("clip/points.bin", lambda data: data[:-5], "cut off"),
    "cut between": ("clip/points.bin", lambda data: data[:-12], "points for"),
    "a point elsewhere": ("clip/points.bin", lambda data: data[:-12] + b"\1\2\3\4\5\6" + data[-6:], "outside"),
    "a node gone": ("vae/nodes.bin", lambda data: data[:-24], "part the points"),
    "a node's mask": ("vae/nodes.bin", lambda data: data[:16] + b"\0" + data[17:], "reached|below"),
    "counts": ("vae/nodes.bin", lambda data: data[:8] + b"\1\0\0\0" + data[12:], "count wrongly"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_points_are_found(storage: Storage, template: Built, damage: str) -> None:
    name, change, expected = DAMAGES[damage]
    tiles = write(storage, rows_of(cloud(20_000)), template.release)
    full = f"tiles/1/{name}"
    storage.write_bytes(full, change(storage.read_bytes(full)))
    assert re.search(expected, problem_of_points(tiles))


def test_thumbnails_of_another_image_are_found(storage: Storage, template: Built) -> None:
    tiles = write(storage, rows_of(cloud(30)), template.release)
    pack = f"tiles/sprites/{tiles.about['shards'][1]['sprites']}.bin"
    data = bytearray(storage.read_bytes(pack))
    at = 16 + 4 * 11
    data[at : at + 16] = tiles.ids[3].tobytes()
    storage.write_bytes(pack, bytes(data))
    assert tiles.ids[3].tobytes().hex() in problem_of_sprites(tiles)
    storage.write_bytes(pack, bytes(data[:-1]))
    assert "cut off" in problem_of_sprites(tiles)


def test_another_format_is_refused(storage: Storage, template: Built) -> None:
    write(storage, rows_of(cloud(30)), template.release)
    name = "tiles/1/tiles.json"
    storage.write_json(name, {**storage.read_json(name), "format": 2})
    with pytest.raises(DataError, match="format 2"):
        Tiles.open(storage, "1")


def test_the_same_release_gives_the_same_bytes(storage: Storage, tmp_path: Path, template: Built) -> None:
    other = Storage(str(tmp_path / "other"))
    for where in (storage, other):
        write(where, rows_of(cloud(20_000), aesthetic=np.linspace(4, 7, 20_000)), template.release)
    names = [file.name for file in storage.files("tiles")]
    assert len(names) == 16
    assert all(storage.read_bytes(name) == other.read_bytes(name) for name in names)
