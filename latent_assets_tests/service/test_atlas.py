"""Searches, images and thumbnails over HTTP are those of the client, and every refusal is a problem that helps."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from latent_assets.client import Atlas, Hit
from latent_assets_tests.conftest import Built, drawing
from latent_assets_tests.service.conftest import Running, picture


@pytest.fixture(scope="session")
def atlas(built: Built) -> Atlas:
    return Atlas.open(built.profile.root)


def same(result: dict[str, Any], hit: Hit) -> bool:
    told = (result["id"], result["measure"], result["caption"], result["url"])
    alike = result["similarity"] == pytest.approx(hit.score, abs=1e-5)  # the client has the text tower alone
    places = {space: tuple(xyz) for space, xyz in result["positions"].items()}
    return alike and told == (hit.id, hit.measure, hit.caption, hit.url) and places == hit.xyz


def problem(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status and found["title"] and found["type"] == "about:blank"
    return str(found["detail"])


def test_the_release_is_described(served: Running, atlas: Atlas) -> None:
    found = served.http.get("/api/release").json()
    assert (found["release"], found["rows"], found["spaces"]) == (atlas.version, 60, ["clip", "vae", "joint"])
    assert (found["writes"], found["generation"], found["profile"]) == (False, False, "small")
    assert found["published"] == atlas.info.created and found["tiles"] == f"tiles/{atlas.version}/"
    listed = served.http.get("/api/releases").json()
    assert listed["live"] == atlas.version
    assert listed["releases"] == [
        {"release": atlas.version, "published": atlas.info.created, "rows": 60, "tiles": found["tiles"]}
    ]


def test_a_search_by_meaning_is_the_clients(served: Running, atlas: Atlas) -> None:
    found = served.http.get("/api/search", params={"q": "a picture", "k": 7}).json()
    hits = atlas.search_text("a picture", 7)
    assert found["mode"] == "meaning" and found["query"] == "a picture" and found["release"] == atlas.version
    assert len(hits) == 7 and all(map(same, found["results"], hits))
    rest = served.http.get("/api/search", params={"q": "a picture", "k": 4, "offset": 3}).json()["results"]
    assert rest == found["results"][3:]
    least = found["results"][2]["similarity"]
    some = served.http.get("/api/search", params={"q": "a picture", "k": 7, "min_score": least}).json()["results"]
    assert [hit["id"] for hit in some] == [hit.id for hit in hits if hit.score >= least - 1e-6]


def test_words_find_captions(served: Running, atlas: Atlas) -> None:
    found = served.http.get("/api/search", params={"q": "of 013.PNG", "mode": "words"}).json()["results"]
    assert found[0]["caption"] == "a picture of 013.png" and found[0]["measure"] == "BM25"
    assert found[0]["similarity"] > found[1]["similarity"] == found[-1]["similarity"]
    assert served.http.get("/api/search", params={"q": "absent", "mode": "words"}).json()["results"] == []
    both = served.http.get("/api/search", params={"q": "013", "mode": "both", "k": 60}).json()["results"]
    ids = [hit["id"] for hit in both]
    assert len(set(ids)) == 60
    # first by words and somewhere by meaning is before all that are found by meaning only, but for its first
    assert ids.index(found[0]["id"]) <= 1


def test_a_filter_over_columns_is_the_clients(served: Running, atlas: Atlas) -> None:
    where = "contains(caption, '.png') AND aesthetic >= 6 AND width > 10 AND NOT caption LIKE '%013%'"
    for mode, named in (("meaning", "clip"), ("words", "words"), ("both", "hybrid")):
        asked = {"q": "picture", "mode": mode, "k": 7, "offset": 3, "where": where}
        found = served.http.get("/api/search", params=asked).json()["results"]
        hits = atlas.search_text("picture", 7, mode=named, offset=3, where=where)
        assert [hit["id"] for hit in found] == [hit.id for hit in hits] and len(found) == 7
        assert not any("013" in hit["caption"] for hit in found)
    for odd in ("1 = 1", "width = 1; DROP TABLE atlas", "repeat(caption, 100000000) = ''", "thumbnail IS NULL"):
        answer = served.http.get("/api/search", params={"q": "picture", "where": odd})
        assert answer.status_code == 422 and "There are" in answer.text + " There are"


def test_filters_leave_the_others_out(served: Running, atlas: Atlas) -> None:
    for mode in ("meaning", "words", "both"):
        asked = {"q": "picture", "mode": mode, "k": 100}
        here = served.http.get("/api/search", params={**asked, "domain": "127.0.0.1"}).json()["results"]
        assert len(here) == 60
        for other in ({"domain": "27.0.0.1"}, {"domain": "example.org"}, {"category": "x' OR '1'='1"}):
            assert served.http.get("/api/search", params={**asked, **other}).json()["results"] == []


def test_a_picture_is_a_question(served: Running, atlas: Atlas) -> None:
    for space in ("clip", "vae"):
        answer = served.http.post("/api/search", params={"space": space, "k": 3}, files={"image": drawing(5)})
        hits = atlas.search_image(drawing(5), 3, space)
        assert all(map(same, answer.json()["results"], hits)) and hits[0].url.endswith("005.png")
    detail = problem(served.http.post("/api/search", params={"space": "joint"}, files={"image": drawing(5)}), 422)
    assert "clip or vae" in detail


def test_an_image_and_what_is_near_it(served: Running, atlas: Atlas) -> None:
    row = atlas.row(atlas.search_image(drawing(7), 1)[0].id)
    found = served.http.get(f"/api/images/{row.id}").json()
    assert (found["caption"], found["url"], found["width"], found["shard"]) == (row.caption, row.url, 96, row.shard)
    assert found["scores"]["aesthetic"] == row.aesthetic and "punsafe" in found["scores"]
    assert {space: tuple(xyz) for space, xyz in found["positions"].items()} == row.xyz
    for space in ("clip", "vae"):
        hits = atlas.neighbors(row.id, 8, space)
        listed = served.http.get(f"/api/images/{row.id}/neighbours", params={"space": space, "k": 8}).json()
        assert len(hits) == 8 and all(map(same, listed["results"], hits))
        assert found["neighbours"][space][0]["id"] == hits[0].id
    for near in found["neighbours"].values():
        distances = [item["distance"] for item in near]
        assert near and row.id not in {item["id"] for item in near} and distances == sorted(distances)
    assert "no row" in problem(served.http.get(f"/api/images/{'0' * 32}"), 404)
    problem(served.http.get("/api/images/x"), 422)


def test_labels_are_the_clients(served: Running, atlas: Atlas) -> None:
    for space in atlas.info.spaces:
        answer = served.http.get("/api/labels", params={"space": space}).json()
        assert (answer["release"], answer["space"], answer["rows"]) == (atlas.version, space, len(atlas))
        found = [(label["id"], label["text"], label["rows"], label["image"]) for label in answer["labels"]]
        expected = atlas.labels(space)
        assert found == [(label.id, label.name, label.rows, label.representative) for label in expected]
    coarse = served.http.get("/api/labels", params={"level": 1}).json()["labels"]
    assert [label["id"] for label in coarse] == [label.id for label in atlas.labels("clip", level=1)]
    assert served.http.get("/api/labels", params={"space": "nowhere"}).status_code == 422
    assert served.http.get("/api/labels", params={"level": 4}).status_code == 422


def test_a_thumbnail_is_kept_by_browsers(served: Running, atlas: Atlas) -> None:
    row = atlas.row(atlas.to_polars(["id"], 1)["id"][0])
    address = served.http.get(f"/api/images/{row.id}").json()["thumbnail"]
    answer = served.http.get(address)
    assert answer.content == row.thumbnail and "immutable" in answer.headers["cache-control"]
    assert Image.open(io.BytesIO(answer.content)).format == answer.headers["content-type"].partition("/")[2].upper()
    again = served.http.get(address, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    assert "immutable" not in served.http.get(f"/api/images/{row.id}/thumbnail").headers["cache-control"]
    problem(served.http.get(f"/api/images/{'f' * 32}/thumbnail"), 404)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": " \t"}, "q"),
        ({"q": "x" * 1001}, "q"),
        ({"q": "x", "k": "0"}, "k"),
        ({"q": "x", "k": "1001"}, "k"),
        ({"q": "x", "k": "ten"}, "k"),
        ({"q": "x", "offset": "-1"}, "offset"),
        ({"q": "x", "min_score": "nan"}, "min_score"),
        ({"q": "x", "mode": "smell"}, "mode"),
        ({"q": "x", "domain": "a b"}, "domain"),
        ({"q": "x", "domain": "('.*')"}, "domain"),
        ({"q": "x", "category": ""}, "category"),
    ],
)
def test_a_wrong_question_says_which_value(served: Running, query: dict[str, str], named: str) -> None:
    answer = served.http.get("/api/search", params=query)
    assert f"query.{named}" in problem(answer, 422)
    assert [item["where"] for item in answer.json()["errors"]] == [f"query.{named}"]


def test_odd_texts_are_only_texts(served: Running) -> None:
    for text in ("\x00", "'; DROP TABLE atlas; --", "\N{FOX FACE}", "<script>", "a" * 1000, "%F0%28%8C", "\u202e"):
        for mode in ("meaning", "words", "both"):
            answer = served.http.get("/api/search", params={"q": text, "mode": mode, "category": text})
            assert answer.status_code in (200, 422) and "Traceback" not in answer.text
    assert served.http.get("/api/search?q=%ff%fe").status_code == 200


def test_what_is_not_there_is_a_problem(served: Running) -> None:
    problem(served.http.get("/api/nothing"), 404)
    answer = served.http.delete("/api/search")
    problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}


def test_openapi_has_examples(served: Running) -> None:
    found = served.http.get("/api/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    operations = [(path, method) for path, methods in found["paths"].items() for method in methods]
    assert ("/api/place", "post") in operations and ("/api/search", "post") in operations
    text = json.dumps(found)
    assert '"hot drink"' in text and '"example"' in text and "HTTPValidationError" not in text
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"] and operation["description"], (path, method)
            for status, response in operation["responses"].items():
                assert status == "200" or "application/problem+json" in response["content"], (path, method, status)


def test_what_is_no_upload_is_refused(served: Running) -> None:
    post = served.http.post
    assert "multipart" in problem(post("/api/place", content=picture(1), headers={"Content-Type": "image/png"}), 415)
    assert "one file" in problem(post("/api/place", files={"picture": picture(1)}), 422)
    assert "one file" in problem(post("/api/place", files={"a": b""}, data={"image": "text"}), 422)
    problem(post("/api/place", files=[("image", picture(1)), ("image", picture(2))]), 400)
    headers = {"Content-Type": "multipart/form-data"}
    problem(post("/api/place", content=b"x", headers=headers), 400)
    problem(post("/api/place", content=b"\x00" * 100, headers={"Content-Type": "multipart/form-data; boundary=x"}), 400)
    for data in (
        b"",
        b"no image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        picture(1)[:100],
        b"GIF89a" + bytes(99),
    ):
        problem(post("/api/place", files={"image": data}), 422)
    assert "keeps no images" in problem(post("/api/place?keep=true", files={"image": picture(1)}), 403)
