"""The table on a real S3 server: written, checked, published and read with credentials from the environment only."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from latent_assets.atlas.checks import check, check_live
from latent_assets.atlas.fragments import table_files
from latent_assets.atlas.release import prune, publish, stage
from latent_assets.atlas.table import LIVE, open_table, tags
from latent_assets.client import Atlas
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.layout import coords_name
from latent_assets.object_store import PatientS3FileSystem
from latent_assets.projection.shard import read_coords
from latent_assets_tests.atlas.built import PROJECTION, Built, build
from latent_assets_tests.s3_server import BUCKET, SECRET, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def on_s3(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Built]:
    """The synthetic atlas below an s3:// root."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    PatientS3FileSystem.clear_instance_cache()
    yield build(f"s3://{BUCKET}/synthetic", n_epochs=20)
    PatientS3FileSystem.clear_instance_cache()


def test_an_atlas_lives_on_s3(on_s3: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    root = on_s3.storage.root
    with pytest.raises(NotBuiltError, match="no atlas table"):
        Atlas.open(root)
    for version in (2, 4):
        made = stage(on_s3.profile, on_s3.storage, on_s3.shards, on_s3.release)
        checks = check(on_s3.profile, on_s3.storage, made)
        assert all(found.passed for found in checks), checks
        assert publish(on_s3.storage, made, checks).version == version
        # the second release takes over all files of the first
        assert (made.rewritten, made.moved, made.written > 0) == ((3, 0, True) if version == 2 else (0, 0, False))
    assert tags(on_s3.storage.lance_uri) == {LIVE: 4, "release-00002": 2, "release-00004": 4}
    prune(on_s3.storage, keep=1, younger_than=timedelta(0))
    assert tags(on_s3.storage.lance_uri) == {LIVE: 4, "release-00004": 4}

    for address in (root, f"{root}/lance", f"{root}/lance/"):
        atlas = Atlas.open(address)
        assert (len(atlas), atlas.version, atlas.info) == (60, 4, made.release)
    cosines = on_s3.clip @ on_s3.clip[5]
    expected = [on_s3.ids[i] for i in np.argsort(-cosines) if i != 5][:4]
    assert [hit.id for hit in atlas.neighbors(on_s3.ids[5], k=4)] == expected
    assert atlas.row(on_s3.ids[5]).caption == "picture number 5 — фото"

    files = table_files(on_s3.storage)
    assert len(files) == 6 and all(file.sound and file.size == file.expected for file in files)
    assert all(found.passed for found in check_live(on_s3.profile, on_s3.storage))
    frame = read_coords(on_s3.storage, PROJECTION, "00001")
    moved = pl.Series(frame["xyz_vae"].to_numpy() + 1, dtype=pl.Array(pl.Float32, 3))
    on_s3.storage.write_parquet(coords_name(PROJECTION, "00001"), frame.with_columns(xyz_vae=moved))
    made = stage(on_s3.profile, on_s3.storage, on_s3.shards, on_s3.release)
    assert (made.version, made.rewritten, made.moved) == (6, 0, 1)
    places = np.array(open_table(on_s3.storage.lance_uri, made.version).to_arrow()["xyz_vae"].to_pylist(), np.float32)
    np.testing.assert_array_equal(places[20:40], np.asarray(moved.to_numpy(), np.float32))
    on_s3.storage.delete(f"lance/atlas.lance/data/{files[2].name}")
    damaged = {found.name: found for found in check_live(on_s3.profile, on_s3.storage)}
    assert damaged["data_files"].found == f"1 damaged: {files[2].name} is not there"
    again = stage(on_s3.profile, on_s3.storage, on_s3.shards, on_s3.release)
    assert (
        again.rewritten == 1
        and open_table(on_s3.storage.lance_uri, again.version).to_arrow()["id"].to_pylist() == on_s3.ids
    )

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageError, match=r"cannot be opened .*Check the address and the credentials") as refused:
        Atlas.open(root)
    assert SECRET not in str(refused.value) and "not-the-secret" not in str(refused.value)
    assert len(str(refused.value)) < 600
