"""Walks, what a place stands for, colours over all rows, releases compared: in a real Chromium over a real atlas."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from latent_assets.atlas.tiles.read import Tiles
from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.service.conftest import Running, running
from latent_assets_tests.web.conftest import Open, build
from latent_assets_tests.web.test_accessibility import violations

pytestmark = pytest.mark.slow

WALK = "() => window.latentAtlas.store.state.walk"


@pytest.fixture(scope="module")
def drawing(atlas: Running) -> None:
    """The service has loaded what draws."""
    assert atlas.http.get("/api/release").json()["synthesis"] is True


def pick(page: Page, words: str, button: str) -> None:
    page.fill("#search", words)
    page.keyboard.press("Enter")
    page.locator(".result").first.click()
    page.click(button)


def test_a_walk_between_two_images_is_a_film_and_a_path(visit: Open, drawing: None) -> None:
    seen = visit()
    page = seen.page
    pick(page, "red apple", "#walk-from-here")
    expect(page.locator("#walk .chip").first).to_be_visible()
    page.locator("#image-panel").get_by_role("button", name="Close").click()
    pick(page, "sad face", "#walk-to-here")
    page.keyboard.press("Escape")
    page.click("#walk-go")
    page.wait_for_function(f"{WALK}?.done", timeout=60_000)
    walk = page.evaluate(WALK)
    assert [round(frame["share"], 3) for frame in walk["frames"]] == [each / 8 for each in range(9)]
    expect(page.locator("#walk-status")).to_contain_text("syntheses")
    paths = "() => window.latentAtlas.context.map.marks.rest.children.filter((one) => one.type === 'Mesh').length"
    assert page.evaluate(paths) == 1
    # the film plays by itself, there and back, until it is stopped
    page.wait_for_function(f"{WALK}.at === 3")
    page.click("#walk-play")
    at = page.evaluate(WALK)["at"]
    page.wait_for_timeout(700)
    assert page.evaluate(WALK)["at"] == at
    page.locator("#walk-frame").focus()
    page.keyboard.press("Home")
    expect(page.locator(".film .film-frame")).to_have_attribute("src", walk["frames"][0]["preview"])
    expect(page.locator(".labels img")).to_have_attribute("src", walk["frames"][0]["preview"])
    names = page.locator(".regions button").all_text_contents()
    assert names and all(one != other for one, other in pairwise(names))
    page.locator(".regions button").last.click()
    assert (page.evaluate(WALK)["at"] > 0) == (len(names) > 1)
    assert violations(page) == []
    page.locator(".film").get_by_role("button", name="Remove").click()
    expect(page.locator(".labels img")).to_have_count(0)


def test_a_walk_between_words_needs_both_ends(visit: Open, drawing: None) -> None:
    page = visit().page
    page.click("#walk > summary")
    page.fill("#walk-start", "a red apple")
    page.click("#walk-go")
    expect(page.get_by_role("alert").filter(has_text="two ends")).to_be_visible()
    page.fill("#walk-end", "a sad face")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{WALK}?.done", timeout=120_000)
    expect(page.locator("#walk")).to_contain_text("spherically")


def test_an_empty_place_says_what_it_stands_for(visit: Open, drawing: None) -> None:
    seen = visit()
    page = seen.page
    box = page.locator("canvas.map").bounding_box()
    assert box
    page.mouse.click(box["x"] + 60, box["y"] + 80)
    page.click("#ask-here")
    here = page.locator("#here")
    expect(here).to_contain_text("A synthesis.")
    expect(here.locator(".strip button")).to_have_count(8)
    found = page.evaluate("() => window.latentAtlas.store.state.here")
    assert found["found"]["mean_of"][0]["distance"] > 0
    expect(page.locator(".labels img")).to_have_attribute("src", found["found"]["frame"]["preview"])
    assert violations(page) == []
    here.locator(".strip button").first.click()
    expect(page.locator("#image-panel")).to_be_visible()
    assert page.evaluate("() => window.latentAtlas.store.state.selected") == found["found"]["mean_of"][0]["id"]
    page.keyboard.press("Escape")
    expect(here).to_be_hidden()
    # by keyboard: the middle of the view
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    expect(here).to_contain_text("A synthesis.")


def test_every_image_is_coloured_by_how_well_it_fits(visit: Open, atlas: Running) -> None:
    page = visit().page
    page.click(".looks summary")
    page.select_option("#colour", "similarity to the search")
    expect(page.locator("#legend")).to_contain_text("Search for something")
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    page.wait_for_function("() => window.latentAtlas.context.map.material.uniforms.by_row.value")
    expect(page.locator("#legend .bar")).to_be_visible()
    colours = page.evaluate("() => [...window.latentAtlas.context.map.material.uniforms.row_colour.value.image.data]")
    known = Atlas.open(atlas.profile.root)
    best, second = (hit.id for hit in known.search_text("hot drink", k=2))
    tiles = Tiles.open(Storage(atlas.profile.root), str(atlas.service.current.version))
    rows = [row.tobytes().hex() for row in tiles.ids]
    assert colours[rows.index(best)] == 255 and 128 < colours[rows.index(second)] <= 255
    assert page.evaluate("() => window.latentAtlas.context.map.material.uniforms.faded.value") == 0


def test_what_no_generated_image_has_reached_stands_out(visit: Open, emoji: Profile) -> None:
    with running(emoji, writes=False, generation=False) as service:
        seen = visit(url=service.url)
        page = seen.page
        known = Atlas.open(emoji.root)
        first = known.to_polars([f"xyz_{space}" for space in known.info.spaces], 1).row(0, named=True)
        positions = {name.removeprefix("xyz_"): list(place) for name, place in first.items()}
        made = {"release": known.version, "generated": [{"positions": positions}]}
        page.route("**/api/generated?*", lambda route: route.fulfill(json=made))
        page.click(".looks summary")
        page.check("#unreached")
        expect(page.locator("#unreached-note")).to_contain_text("1 generated image")
        cube = page.evaluate(
            """() => { const { reached } = window.latentAtlas.context.map.material.uniforms;
                return [...reached.value.image.data]; }"""
        )
        assert max(cube) == 255 and cube.count(0) > len(cube) // 2
        page.uncheck("#unreached")
        page.wait_for_function("() => !window.latentAtlas.context.map.material.uniforms.has_reached.value")
        page.close()


@pytest.fixture(scope="module")
def two_releases(emoji: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The emoji with a second release: other maps, and some images less."""
    root = tmp_path_factory.mktemp("two") / "root"
    shutil.copytree(emoji.root, root)
    profile = emoji.model_copy(
        update={
            "root": str(root),
            "filters": emoji.filters.model_copy(update={"sample": 360}),
            "projection": emoji.projection.model_copy(update={"n_epochs": 30}),
        }
    )
    with ThreadPoolExecutor(1) as thread:
        thread.submit(build, profile).result()
    with running(profile, writes=False) as service:
        yield service


def first_of(served: Running) -> str:
    """The tag of the release before."""
    return Atlas.open(served.profile.root).releases()[-1].tag


def test_releases_are_compared_and_points_fly(visit: Open, two_releases: Running) -> None:
    seen = visit(url=two_releases.url)
    page = seen.page
    now, before = (Atlas.open(two_releases.profile.root, release) for release in ("live", first_of(two_releases)))
    new, old = (set(atlas.to_polars(["id"])["id"]) for atlas in (now, before))
    page.click("#releases > summary")
    page.click("#compare")
    page.wait_for_function(
        "() => { const { comparison, share } = window.latentAtlas.store.state; return comparison && share === 1; }"
    )
    found = page.evaluate(
        "() => { const { kinds, origins, ...rest } = window.latentAtlas.store.state.comparison; return rest; }"
    )
    assert (found["stayed"], found["came"], found["went"]) == (len(new & old), len(new - old), len(old - new))
    assert found["went"] > 0 and len(found["gone"]) == found["went"]
    expect(page.locator(".comparison")).to_contain_text(f"{found['went']} went")
    # half of the way, points are between their places
    page.locator("#comparison-share").fill("0.5")
    page.wait_for_function("() => window.latentAtlas.context.map.material.uniforms.morph.value === 0.5")
    row = page.evaluate(
        """async () => {
            const { tiles } = window.latentAtlas.context;
            const { comparison } = window.latentAtlas.store.state;
            for (let row = 0; row < tiles.info.rows; row++) {
                const from = comparison.origins.get(row); if (from) return [await tiles.id(row), from]; } }"""
    )
    info = page.evaluate("() => window.latentAtlas.context.tiles.info.spaces.clip")
    was = before.row(row[0]).xyz["clip"]
    expected = [(value - origin) / info["edge"] for value, origin in zip(was, info["origin"], strict=True)]
    assert row[1] == pytest.approx(expected, abs=1e-3)
    assert violations(page) == []
    page.keyboard.press("2")
    page.wait_for_function("() => window.latentAtlas.store.state.comparison === null")
    page.close()


def test_a_link_to_a_release_before_opens_it(visit: Open, two_releases: Running) -> None:
    before = Atlas.open(two_releases.profile.root, first_of(two_releases))
    now = set(Atlas.open(two_releases.profile.root).to_polars(["id"])["id"])
    gone = next(row_id for row_id in before.to_polars(["id"])["id"] if row_id not in now)
    seen = visit(f"#release={before.version}&image={gone}", url=two_releases.url)
    page = seen.page
    expect(page.locator("#summary")).to_contain_text(f"of {len(before):,} images shown")
    expect(page.locator(".yours")).to_contain_text(f"This is release {before.version}")
    expect(page.locator("#image-panel h2")).to_have_text(before.row(gone).caption or "")
    wide = page.locator("#image-panel img.large").evaluate("(image) => image.decode().then(() => image.naturalWidth)")
    assert wide > 30
    assert page.locator("#prompt").count() == 0
    page.click("#releases > summary")
    page.click("#open-release")
    page.wait_for_function("() => window.latentAtlas?.context.live")
    expect(page.locator("#image-panel")).to_contain_text("not in this release")
    seen.errors.clear()
    page.close()


def test_two_fingers_zoom_and_move(visit: Open) -> None:
    seen = visit(width=390, height=844, has_touch=True, is_mobile=True)
    page = seen.page
    box = page.locator("canvas.map").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": fx, "y": fy, "id": at} for at, (fx, fy) in enumerate(fingers)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = page.evaluate("() => window.latentAtlas.store.state.camera")
    touch("touchStart", (x, y))
    touch("touchMove", (x + 60, y))
    touch("touchEnd")
    turned = page.evaluate("() => window.latentAtlas.store.state.camera")
    assert turned["theta"] != before["theta"] and turned["radius"] == before["radius"]
    touch("touchStart", (x - 30, y), (x + 30, y))
    for spread in (40, 60, 80):
        touch("touchMove", (x - spread, y), (x + spread, y))
    touch("touchEnd")
    assert page.evaluate("() => window.latentAtlas.store.state.camera.radius") < 0.6 * turned["radius"]
