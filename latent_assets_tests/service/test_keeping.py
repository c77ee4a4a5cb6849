"""What is accepted goes through the inbox, and the asset holds the same coordinates, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_assets.generated import inbox
from latent_assets.generated.intake import take_in
from latent_assets.generated.known_vectors import known_ids, read_vectors, write_vectors
from latent_assets.generated.placement.placing import ImagePlacer
from latent_assets.generated.projecting import encoder_fingerprint, project
from latent_assets.generated.table import GeneratedTable
from latent_assets.layout import SERVICE_INBOX, vectors_name
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.generated.tagged import png
from latent_assets_tests.service.conftest import Running, picture, running


def rows(profile: Profile) -> dict[str, dict[str, Any]]:
    table = GeneratedTable(Storage(profile.root).lance_uri).open()
    return {row["id"]: row for row in table.search().limit(None).to_arrow().to_pylist()} if table else {}


def take(profile: Profile) -> None:
    """What the Dagster assets do, once the files in the inbox have settled."""
    storage = Storage(profile.root)
    for file in Path(profile.root, SERVICE_INBOX).glob("*"):
        os.utime(file, (time.time() - 60,) * 2)
    take_in(profile, storage, inbox.ready(storage))


def keep(service: Running, data: bytes) -> dict[str, Any]:
    answer = service.http.post("/api/place", params={"keep": "true"}, files={"image": data})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["generated_id"] == hashlib.sha256(data).hexdigest() and found["kept"]
    return found


def test_the_asset_holds_the_coordinates_that_were_shown(own_profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model gives other bits on another machine, or with another number of threads."""
    pictures = [picture(seed, kind=kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP", "AVIF"))]
    with running(own_profile) as service:
        shown = {found["generated_id"]: found for found in (keep(service, data) for data in pictures)}
    storage = Storage(own_profile.root)
    assert known_ids(storage) == set(shown) and rows(own_profile) == {}
    encode = ImagePlacer.encode

    def elsewhere(placer: ImagePlacer, images: Any) -> Any:
        return [{name: vector + np.float16(0.01) for name, vector in made.items()} for made in encode(placer, images)]

    monkeypatch.setattr(ImagePlacer, "encode", elsewhere)
    take(own_profile)
    project(own_profile, storage)
    placed = rows(own_profile)
    assert set(placed) == set(shown) and known_ids(storage) == set()
    for row_id, found in shown.items():
        for space, where in found["placements"].items():
            # every float32 is a float64, and JSON has all of its digits
            assert tuple(placed[row_id][f"xyz_{space}"]) == tuple(where["position"])
            assert placed[row_id][f"spread_{space}"] == where["uncertainty"]
            assert placed[row_id][f"jitter_{space}"] == where["jitter"]
            assert placed[row_id][f"trust_{space}"] == where["trust"]
        assert placed[row_id]["verdict"] == found["verdict"] and placed[row_id]["explanation"] == found["sentence"]
        assert placed[row_id]["release"] == found["release"]


def test_vectors_of_other_models_or_broken_ones_are_made_anew(own_profile: Profile) -> None:
    data = [picture(seed) for seed in range(4)]
    ids = [hashlib.sha256(item).hexdigest() for item in data]
    with running(own_profile) as service:
        for item in data:
            keep(service, item)
    storage = Storage(own_profile.root)
    right = read_vectors(storage, ids[0], _encoder(own_profile))
    assert right is not None
    wrong = {name: np.ones_like(vector) for name, vector in right.items()}
    write_vectors(storage, ids[0], "another encoder", wrong)
    storage.write_bytes(vectors_name(ids[1]), b"\x00" * 100)
    write_vectors(storage, ids[2], _encoder(own_profile), {name: vector * np.nan for name, vector in right.items()})
    write_vectors(storage, ids[3], _encoder(own_profile), {"clip": right["clip"]})
    take(own_profile)
    project(own_profile, storage)
    placed = rows(own_profile)
    assert set(placed) == set(ids) and known_ids(storage) == set()
    assert np.allclose(placed[ids[0]]["clip"], right["clip"], atol=0.01)
    assert all(np.isfinite(row["clip"]).all() for row in placed.values())


def _encoder(profile: Profile) -> str:
    return encoder_fingerprint(ImagePlacer.open(Storage(profile.root)))


def test_what_was_kept_is_there_before_and_after_it_is_placed(own_profile: Profile) -> None:
    tagged = png({"parameters": "a red fox\nNegative prompt: blurry\nSteps: 20, CFG scale: 7, Seed: 42"}, size=(40, 40))
    others = [picture(seed) for seed in range(3)]
    with running(own_profile) as service:
        get = service.http.get
        assert get("/api/generated").json() == {"release": service.service.current.version, "generated": []}
        shown = keep(service, tagged)
        row_id = shown["generated_id"]

        def check(pending: bool) -> None:
            told = get(f"/api/generated/{row_id}").json()
            assert told["pending"] is pending and (told["prompt"], told["negative"]) == ("a red fox", "blurry")
            assert (told["seed"], told["steps"], told["guidance"], told["width"]) == (42, 20, 7.0, 40)
            assert told["placements"] == shown["placements"] and told["agreement"] == shown["agreement"]
            original = get(told["image"])
            assert original.content == tagged and original.headers["content-type"] == "image/png"
            assert "sandbox" in original.headers["content-security-policy"]
            assert get(told["image"], headers={"If-None-Match": original.headers["etag"]}).status_code == 304

        check(pending=True)
        # the same again is the same image
        assert keep(service, tagged)["placements"] == shown["placements"]
        for data in others:
            keep(service, data)
        listed = get("/api/generated").json()["generated"]
        assert [item["generated_id"] for item in listed][-1] == row_id and len(listed) == 4
        assert all(item["pending"] and set(item["positions"]) == {"clip", "vae", "joint"} for item in listed)
        assert get("/api/generated", params={"after": row_id}).json()["generated"] == listed[:3]
        assert get("/api/generated", params={"limit": 2}).json()["generated"] == listed[:2]
        # taken out of the inbox, not placed yet
        take(own_profile)
        check(pending=True)
        assert len(get("/api/generated").json()["generated"]) == 4
        project(own_profile, Storage(own_profile.root))
        check(pending=False)
        after = get("/api/generated").json()["generated"]
        assert {item["generated_id"]: item["positions"] for item in after} == {
            item["generated_id"]: item["positions"] for item in listed
        }
        assert not any(item["pending"] for item in after)
        # kept once more: it is in the table, nothing goes into the inbox
        keep(service, tagged)
        assert list(Path(own_profile.root, SERVICE_INBOX).glob("*")) == []
        assert get(f"/api/generated/{'0' * 64}").status_code == 404
        assert get(f"/api/generated/{'0' * 64}/image").status_code == 404


def test_another_service_finds_what_was_kept(own_profile: Profile) -> None:
    with running(own_profile) as service:
        shown = keep(service, picture(5))
    with running(own_profile) as service:
        listed = service.http.get("/api/generated").json()["generated"]
    assert [item["generated_id"] for item in listed] == [shown["generated_id"]]
    assert listed[0]["positions"] == {space: where["position"] for space, where in shown["placements"].items()}


def test_nothing_is_kept_unasked_and_not_more_than_is_allowed(own_profile: Profile) -> None:
    limited = own_profile.model_copy(update={"service": own_profile.service.model_copy(update={"inbox": 2})})
    with running(limited) as service:
        assert not service.http.post("/api/place", files={"image": picture(1)}).json()["kept"]
        assert service.http.get("/api/generated").json()["generated"] == []
        keep(service, picture(1))
        keep(service, picture(2))
        keep(service, picture(2))
        refused = service.http.post("/api/place", params={"keep": "true"}, files={"image": picture(3)})
        assert (
            refused.status_code == 503 and "inbox take" in refused.json()["detail"] and refused.headers["retry-after"]
        )
        # it is placed all the same
        assert service.http.post("/api/place", files={"image": picture(3)}).status_code == 200
    assert len(list(Path(own_profile.root, SERVICE_INBOX).glob("*"))) == 2


def test_a_sidecar_lies_there_before_its_image(own_profile: Profile) -> None:
    storage = Storage(own_profile.root)
    with running(own_profile) as service:
        release = service.service.current
        placed = release.placer.place_file(picture(9))
        order: list[str] = []
        xyz = {space: list(found.position) for space, found in placed.placements.items()}
        path = [{"step": 1, "places": {"clip": [1.0, 2.0, 3.0]}}, {"step": 2, "places": xyz}]
        sidecar = json.dumps({"prompt": "a lamp", "seed": 3, "path": path, "release": release.version}).encode()
        writing = Storage.write_bytes

        def noting(self: Storage, name: str, data: bytes) -> None:
            order.append(name.rpartition(".")[2])
            writing(self, name, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Storage, "write_bytes", noting)
            service.service.keeper.keep(release, picture(9), placed, sidecar)
        assert order == ["safetensors", "json", "png"]
        told = service.http.get(f"/api/generated/{placed.generated_id}").json()
        assert told["prompt"] == "a lamp" and told["seed"] == 3
        assert told["path"]["clip"] == [[1.0, 2.0, 3.0], told["placements"]["clip"]["position"]]
        take(own_profile)
        project(own_profile, storage)
        again = service.http.get(f"/api/generated/{placed.generated_id}").json()
    changing = ("pending", "created", "name")
    assert {**again, **dict.fromkeys(changing)} == {**told, **dict.fromkeys(changing)} and not again["pending"]
    (row,) = rows(own_profile).values()
    assert row["prompt"] == "a lamp" and json.loads(row["parameters"])["seed"] == 3
