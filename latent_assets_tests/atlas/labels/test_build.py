"""Labels of a map as they are stored: named, stable from release to release, without what was taken out."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latent_assets.atlas.labels.build import describe_anew, make_labels, middle
from latent_assets.atlas.labels.checks import label_problems
from latent_assets.atlas.labels.removal import drop_rows
from latent_assets.atlas.labels.store import Label, SpaceLabels, ancestors, read_clusters, read_labels, write_clusters
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import catalog_name, coords_name, labels_name
from latent_assets.storage import Storage
from latent_assets_tests.atlas.labels.mapped import PROJECTION, TOWNS, Mapped, mapped, write_catalog

A, B = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """A map with its labels under A. Do not change it."""
    made = mapped(tmp_path_factory.mktemp("labels") / "root")
    make_labels(made.storage, A, PROJECTION, made.shards, ["clip"])
    return made


@pytest.fixture
def own(template: Mapped, tmp_path: Path) -> Mapped:
    """A copy of `template`."""
    root = tmp_path / "root"
    shutil.copytree(template.storage.root, root)
    return Mapped(
        Storage(str(root)), *(getattr(template, name) for name in ("ids", "places", "town", "captions", "shards"))
    )


def labels_of(made: Mapped, name: str = A) -> SpaceLabels:
    return read_labels(made.storage, name)["clip"]


def rows_of(made: Mapped, name: str = A) -> pl.DataFrame:
    return pl.concat([read_clusters(made.storage, name, shard) for shard in made.shards])


def of_town(made: Mapped, town: int, name: str = A) -> Label:
    """The finest cluster that most rows of a town are in."""
    rows = rows_of(made, name).with_columns(town=pl.Series(made.town[: rows_of(made, name).height]))
    cluster = rows.filter(pl.col("town") == town)["cluster_clip"].drop_nulls().mode().sort()[0]
    return next(label for label in labels_of(made, name).labels if label.id == cluster)


def test_clusters_are_named_by_their_captions(template: Mapped) -> None:
    assert label_problems(template.storage, A, template.shards, ["clip"]) == {}
    found = [of_town(template, town) for town in range(len(TOWNS))]
    said = [
        bool(label.words) and all(word in caption for term in label.words for word in term.split())
        for label, caption in zip(found, TOWNS, strict=True)
    ]
    # density parts one town of twelve: most of its rows are in the continent alone
    assert sum(said) >= len(TOWNS) - 1, [label.name for label in found]
    assert len({label.id for label in found}) == len(TOWNS)
    everything = " ".join(label.name for label in labels_of(template).labels).lower()
    assert not any(word in everything for word in ("stock", "photo", "jpg", "image"))


def test_labels_say_where_they_are(template: Mapped) -> None:
    place = dict(zip(template.ids, template.places, strict=True))
    labels = labels_of(template)
    assert {label.level for label in labels.labels} >= {1, 2}
    assert labels.rows == len(template.ids) and 0 < labels.loose < 0.1
    lines = ancestors(labels.labels)
    of = dict(rows_of(template)["id", "cluster_clip"].iter_rows())
    for label in labels.labels:
        mine = np.array([place[row] for row, cluster in of.items() if cluster and label.id in lines[cluster]])
        assert len(mine) == label.rows
        away = np.linalg.norm(mine - np.array(label.centre), axis=1)
        assert np.median(away) == pytest.approx(label.radius, rel=0.1)
        assert np.linalg.norm(place[label.representative] - np.array(label.centre)) == pytest.approx(
            away.min(), abs=1e-4
        )


def test_labels_are_the_same_when_they_are_made_again(own: Mapped) -> None:
    once = make_labels(own.storage, B, PROJECTION, own.shards, ["clip"])
    again = make_labels(own.storage, B, PROJECTION, own.shards, ["clip"], before=B)
    assert once.version == again.version and once.shards == again.shards
    assert again.kept["clip"] == sum(again.clusters["clip"])


def test_clusters_keep_their_ids_while_most_of_their_rows_do(own: Mapped, tmp_path: Path) -> None:
    """The next release: a tenth more rows, all of them moved a little, the map turned."""
    later = mapped(tmp_path / "later", each=66, loose=44, seed=2)
    shutil.copytree(Path(own.storage.root) / "labels", Path(later.storage.root) / "labels")
    report = make_labels(later.storage, B, PROJECTION, later.shards, ["clip"], before=A)
    same = [of_town(later, town, B).id == of_town(own, town).id for town in range(len(TOWNS))]
    assert sum(same) >= len(TOWNS) - 1
    assert report.kept["clip"] >= 12
    fresh = make_labels(later.storage, "c" * 32, PROJECTION, later.shards, ["clip"])
    assert fresh.kept["clip"] == 0 and fresh.clusters == report.clusters


def test_a_cluster_whose_rows_are_gone_gives_its_id_to_no_other(own: Mapped, tmp_path: Path) -> None:
    other = mapped(tmp_path / "other", first=100_000)
    shutil.copytree(Path(own.storage.root) / "labels", Path(other.storage.root) / "labels")
    report = make_labels(other.storage, B, PROJECTION, other.shards, ["clip"], before=A)
    assert report.kept["clip"] == 0
    assert not {label.id for label in labels_of(own).labels} & {label.id for label in labels_of(other, B).labels}


def test_labels_of_before_that_cannot_be_read_are_passed_over(own: Mapped) -> None:
    own.storage.write_bytes(labels_name(A), b"{")
    assert make_labels(own.storage, B, PROJECTION, own.shards, ["clip"], before=A).kept["clip"] == 0
    assert make_labels(own.storage, B, PROJECTION, own.shards, ["clip"], before="d" * 32).kept["clip"] == 0


def test_what_is_taken_out_stands_for_nothing_and_its_words_go(own: Mapped) -> None:
    before = of_town(own, 0)
    town = [row for row, at in zip(own.ids, own.town, strict=True) if at == 0]
    # a word that two of the images alone have, and that names their cluster
    secret = [before.representative, next(row for row in town if row != before.representative)]
    for shard in own.shards:
        catalog = own.storage.read_parquet(catalog_name(shard))
        captions = [
            "zanzibar" if row in town else caption for row, caption in catalog.select("id", "caption").iter_rows()
        ]
        write_catalog(own.storage, shard, catalog["id"].to_list(), captions)
    make_labels(own.storage, B, PROJECTION, own.shards, ["clip"], before=A)
    assert of_town(own, 0, B).name == "zanzibar"
    for shard in own.shards:
        catalog = own.storage.read_parquet(catalog_name(shard)).filter(~pl.col("id").is_in(town[5:] + secret))
        write_catalog(
            own.storage, shard, catalog["id"].to_list(), ["heron" if row in town else "x" for row in catalog["id"]]
        )
        coords = own.storage.read_parquet(coords_name(PROJECTION, shard))
        own.storage.write_parquet(
            coords_name(PROJECTION, shard), coords.filter(pl.col("id").is_in(catalog["id"].to_list()))
        )
    gone = set(town[5:] + secret)
    assert drop_rows(own.storage, gone) == 2 * len(gone), "out of the labels of every fingerprint"
    report = describe_anew(own.storage, B, PROJECTION, own.shards, ["clip"])
    text = own.storage.read_bytes(labels_name(B)).decode()
    assert "zanzibar" not in text and not any(row in text for row in gone)
    assert label_problems(own.storage, B, own.shards, ["clip"]) == {}
    assert report.rows == len(own.ids) - len(gone)
    left = next(label for label in labels_of(own, B).labels if label.id == before.id)
    assert left.name == "heron" and left.representative not in gone


def test_a_cluster_without_rows_goes(own: Mapped) -> None:
    town = [row for row, at in zip(own.ids, own.town, strict=True) if at in (0, 1, 2)]
    drop_rows(own.storage, town)
    for shard in own.shards:
        coords = own.storage.read_parquet(coords_name(PROJECTION, shard)).filter(~pl.col("id").is_in(town))
        own.storage.write_parquet(coords_name(PROJECTION, shard), coords)
    before = {label.id for label in labels_of(own).labels}
    describe_anew(own.storage, A, PROJECTION, own.shards, ["clip"])
    assert {label.id for label in labels_of(own).labels} < before
    assert label_problems(own.storage, A, own.shards, ["clip"]) == {}


def test_damage_is_found(own: Mapped) -> None:
    def problems() -> dict[str, str]:
        return label_problems(own.storage, A, own.shards, ["clip"])

    rows = read_clusters(own.storage, A, own.shards[0])
    write_clusters(own.storage, A, own.shards[0], rows.with_columns(cluster_clip=pl.lit("ffffffff")))
    assert "ffffffff" in problems()["rows"]
    write_clusters(own.storage, A, own.shards[0], rows.with_columns(cluster_clip=pl.lit(None, pl.String)))
    assert "rows, not" in problems()["rows"]
    write_clusters(own.storage, A, own.shards[0], rows[1:])
    assert "rows are listed" in problems()["rows"]
    write_clusters(own.storage, A, own.shards[0], rows)
    assert problems() == {}
    whole = own.storage.read_json(labels_name(A))
    for change in ({"parent": "ffffffff"}, {"name": ""}, {"rows": 0}):
        broken = own.storage.read_json(labels_name(A))
        broken["spaces"]["clip"]["labels"][-1] |= change
        own.storage.write_json(labels_name(A), broken)
        assert "labels" in problems(), change
    broken = {
        **whole,
        "spaces": {"clip": {**whole["spaces"]["clip"], "labels": whole["spaces"]["clip"]["labels"][:1] * 2}},
    }
    own.storage.write_json(labels_name(A), broken)
    assert "same id" in problems()["labels"]
    own.storage.write_bytes(labels_name(A), b"[]")
    assert "cannot be read" in problems()["labels"]
    with pytest.raises(DataError, match="run `latent-assets verify`"):
        read_labels(own.storage, A)
    own.storage.delete(labels_name(A))
    with pytest.raises(NotBuiltError, match="latent-assets build"):
        read_labels(own.storage, A)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_map_of_few_rows_has_no_labels(tmp_path: Path, rows: int) -> None:
    made = mapped(tmp_path, each=0, loose=rows)
    report = make_labels(made.storage, A, PROJECTION, made.shards, ["clip"])
    assert report.clusters["clip"] == [0, 0, 0] and report.rows == rows
    assert label_problems(made.storage, A, made.shards, ["clip"]) == {}


def test_images_without_captions_are_called_by_their_categories(own: Mapped) -> None:
    for shard in own.shards:
        catalog = own.storage.read_parquet(catalog_name(shard))
        town = dict(zip(own.ids, own.town.tolist(), strict=True))
        kinds = [("vehicles" if 3 <= town[row] < 6 else "others") for row in catalog["id"]]
        changed = catalog.with_columns(caption=pl.lit(" ", pl.String), category=pl.Series(kinds))
        own.storage.write_parquet(catalog_name(shard), changed)
    make_labels(own.storage, B, PROJECTION, own.shards, ["clip"])
    assert of_town(own, 4, B).name == "vehicles"


def test_the_middle_of_a_crescent_lies_in_it() -> None:
    angle = np.linspace(0, np.pi, 400)
    crescent = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(400)]) * 10
    centre, radius, nearest = middle(crescent.astype(np.float32))
    assert np.linalg.norm(crescent - centre, axis=1).min() < 2.5 and radius < 10 and len(nearest)
