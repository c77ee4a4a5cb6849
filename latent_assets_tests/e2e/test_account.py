"""The account that a build and `status` end with: every row, why it is lost, what the atlas was made with."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from latent_assets import cli
from latent_assets.client import Atlas
from latent_assets.defs.metadata import event_metadata
from latent_assets.pipeline.lineage import Lineage, Materialized
from latent_assets.pipeline.report import make_report
from latent_assets.profile import Profile, load_profile
from latent_assets.spaces import resolve
from latent_assets_tests.conftest import Gallery, drawing, profile_over, serving_gallery
from latent_assets_tests.e2e.small_atlas import small_atlas, write_profile
from latent_assets_tests.images.conftest import encoded

pytestmark = pytest.mark.slow
SIZE = 64


@dataclass(frozen=True)
class Command:
    """What the command line said."""

    code: int
    out: str
    err: str

    def line(self, label: str) -> str:
        """The text behind a label of the account, put together again."""
        found: list[str] = []
        for line in self.out.splitlines():
            if line.startswith(f"{label:<10}") or (found and line.startswith(" " * 10)):
                found.append(line[10:])
            elif found:
                break
        return " ".join(found)


def only_clip(models: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {"clip": models["clip"]}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory, small_models: dict[str, dict[str, Any]]) -> Iterator[Path]:
    """The file of a profile over 40 links of which some are of every bad kind; the atlas is built."""
    folder = tmp_path_factory.mktemp("account")
    with pytest.MonkeyPatch.context() as patch, serving_gallery(folder / "gallery") as gallery:
        patch.setenv("LATENT_ASSETS_HOME", str(folder / "home"))
        patch.delenv("DAGSTER_HOME", raising=False)
        gallery.files = {f"{n:03}.png": drawing(n, SIZE) for n in range(36)}
        gallery.files |= {"036.png": drawing(0, SIZE), "037.png": drawing(0, SIZE), "038.png": drawing(1, SIZE)}
        gallery.files |= {"big.png": encoded(Image.new("RGB", (200, 200)), "PNG"), "not.png": b"<html>"}
        gallery.statuses = {"003.png": 404, "004.png": 404}
        gallery.write([*sorted(gallery.files), "000.png"], lambda name: None if name == "005.png" else f"a {name}")
        profile = profile_over(
            gallery, only_clip(small_models), folder,
            shards={"rows": 25}, projection={"spaces": ["clip"]}, fetch={"max_pixels": 100 * 100},
        )  # fmt: skip
        with small_atlas(profile) as atlas:
            assert not any(result.failed for result in atlas.build().values())
        yield write_profile(profile, folder / "account.toml")


@pytest.fixture
def run(account: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Command]:
    monkeypatch.setenv("LATENT_ASSETS_HOME", str(account.parent / "home"))

    def call(*arguments: str, columns: int = 200, profile: Path = account) -> Command:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["latent-assets", *arguments, "-p", str(profile)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Command(code, printed.out, printed.err)

    return call


@pytest.mark.parametrize("command", ["build", "status"])
def test_every_row_is_accounted_for_in_words(run: Callable[..., Command], command: str) -> None:
    said = run(command)
    assert said.code == 0, said.err
    assert said.line("Rows") == "42 rows read, 40 in the catalog, 36 images, 36 in the atlas"
    assert said.line("Dropped") == "2 rows by the catalog: no_caption 1, duplicate_url 1"
    assert said.line("Lost") == "4 rows: http_not_found 2, not_an_image 1, too_many_pixels 1"
    assert said.line("Limit") == "1 row refused by fetch.max_pixels = 10,000"
    assert said.line("Copies") == "3 images of the atlas have the bytes (SHA-256) of another one"
    assert "its card does not say what it was trained on" in said.line("Model")


def test_the_figures_are_those_of_the_ledger_and_the_table(run: Callable[..., Command], account: Path) -> None:
    report = json.loads(run("build", "--json").out)["report"]
    assert report == json.loads(run("status", "--json").out)["report"]
    ledger = pl.read_parquet(report["ledger"])
    assert report["outcomes"] == dict(Counter(ledger["reason"].cast(pl.String).to_list()).most_common())
    assert report["rows_read"] == sum(report["dropped"].values()) + report["in_catalog"]
    assert report["in_catalog"] == sum(report["outcomes"].values()) + report["unfetched"] == ledger.height
    atlas = Atlas.open(load_profile(account).root)
    digests = atlas.to_polars(["sha256"])["sha256"]
    assert report["in_atlas"] == len(atlas) == report["images"] - report["undecodable"]
    assert report["copies"] == len(digests) - digests.n_unique() > 0
    assert Image.open(report["map"]).size[0] > 100
    assert atlas.info.models["clip"].digest == report["models"][0]["digest"]


def test_a_narrow_terminal_gets_the_same_words(run: Callable[..., Command]) -> None:
    wide, narrow = run("status"), run("status", columns=60)
    assert max(len(line) for line in narrow.out.splitlines() if "/" not in line) <= 90
    for label in ("Rows", "Dropped", "Lost", "Ledger", "Model", "Map"):
        assert narrow.line(label) == wide.line(label)
    for stage in Lineage(load_profile("demo")).stages:
        assert ("vae" in stage) or stage in narrow.out, "no name is cut"


def fresh(account: Path, folder: Path, **tables: Any) -> Profile:
    """The profile of the account on a root of its own."""
    values = load_profile(account).model_dump(mode="python")
    profile = load_profile(account).model_copy(update={"root": str(folder / "root")})
    for name, table in tables.items():
        section = getattr(profile, name)
        profile = profile.model_copy(update={name: section.model_copy(update=table)})
    assert values["name"] == profile.name
    return profile


def test_what_waits_for_a_failed_stage_is_not_shown_as_done(
    run: Callable[..., Command], account: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "gone list.parquet"
    profile = fresh(account, tmp_path, source={"path": str(missing)})
    pl.DataFrame({"nothing": [1]}).write_parquet(missing)
    file = write_profile(profile, tmp_path / "broken.toml")
    said = run("build", profile=file)
    assert said.code == 1
    marks = {line.split()[1]: line.split()[0] for line in said.err.splitlines() if line[:1] in "✓✗…"}
    stages = list(Lineage(profile).stages)
    assert marks == {"laion_metadata": "✗", **dict.fromkeys(stages[1:], "…")}
    assert "it has no column for `url`" in said.err and f"Waiting for that: {', '.join(stages[1:])}." in said.err
    shown = json.loads(run("build", "--json", profile=file).out)
    assert set(shown["failed"]) == set(stages) and set(shown["waiting"]) == set(stages[1:])
    assert "read" not in said.line("Rows"), "nothing is said of rows that nobody counted"


def test_a_failed_shard_is_named_beside_what_waits_and_the_account_says_what_is_there(
    run: Callable[..., Command], account: Path, tmp_path: Path, small_models: dict[str, dict[str, Any]]
) -> None:
    """The reason is printed whole, however narrow the terminal is."""
    profile = fresh(account, tmp_path, fetch={"min_success": 0.99})
    file = write_profile(profile, tmp_path / "strict.toml")
    said = run("build", profile=file)
    assert said.code == 1 and "there is no atlas yet" in said.line("Rows") and "✗ image_shards" in said.err
    assert "… atlas_table" in said.err and "✓ atlas_table" not in said.err
    statuses = Lineage(profile).status()
    wanted = [found.why for found in statuses["image_shards"] if found.why]
    assert wanted and all(len(why) > 100 for why in wanted)
    for columns in (50, 200):
        said = run("status", columns=columns, profile=file)
        words = " ".join(said.out.split())
        for why in [*wanted, statuses["atlas_table"][0].why]:
            assert " ".join(why.split()) in words, columns


def test_an_atlas_that_is_older_than_its_list_says_so(
    gallery: Gallery, small_models: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    gallery.write([f"{n:03}.png" for n in range(25)])
    profile = profile_over(gallery, only_clip(small_models), tmp_path, projection={"spaces": ["clip"]})
    with small_atlas(profile) as atlas:
        atlas.build()
        assert make_report(Lineage(profile)).release_current
        gallery.write([f"{n:03}.png" for n in range(30)])
        report = make_report(Lineage(profile))
        assert (report.in_atlas, report.release_current) == (25, False)
        gallery.statuses = {f"{n:03}.png": 404 for n in range(30)}
        assert atlas.build()["image_shards"].failed
        report = make_report(Lineage(profile), release_current=False)
    assert (report.rows_read, report.in_catalog, report.in_atlas, report.release_current) == (30, 30, 25, False)
    assert report.in_catalog == sum(report.outcomes.values()) + report.unfetched


def test_before_anything_is_built_nothing_is_claimed(account: Path, tmp_path: Path) -> None:
    report = make_report(Lineage(fresh(account, tmp_path)))
    assert (report.rows_read, report.in_atlas, report.ledger, report.map) == (0, None, None, None)
    assert [model.embedding for model in report.models] == ["clip"]


def test_an_event_tells_what_is_in_it_before_what_identifies_it(account: Path) -> None:
    lineage = Lineage(load_profile(account))
    for stage in lineage.stages:
        for manifest in lineage.manifests.all(stage).values():
            keys = list(event_metadata(lineage, Materialized(manifest, unchanged=True)))
            facts = resolve(lineage.stages[stage].describe)(lineage, manifest)
            assert keys[0] == "dagster/row_count" and keys[-1] == "fingerprint" and facts
            assert max(map(keys.index, facts)) < min(map(keys.index, ("work", "seconds", "fingerprint"))), stage
