"""The viewer in a real Chromium over a real atlas: what a visitor does, and what is shown for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from latent_assets.atlas.tiles.read import Tiles
from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.service.conftest import Running, running
from latent_assets_tests.web.conftest import ROWS, Open, Visit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def known(atlas: Running) -> Atlas:
    """The atlas that the page shows, as the client reads it."""
    return Atlas.open(atlas.profile.root)


def camera(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("() => window.latentAtlas.store.state.camera")
    return found


def pixels(page: Page) -> str:
    """The map as it is drawn: its canvas as a picture."""
    return str(page.locator("canvas.map").screenshot())


def place_on_screen(visit: Visit, place: tuple[float, ...], space: str = "clip") -> tuple[float, float]:
    """Where a place in map units is on the page, by the page's own camera."""
    found = visit.page.evaluate(
        """([place, space]) => {
            const { map, tiles } = window.latentAtlas.context;
            const { origin, edge } = tiles.info.spaces[space];
            const at = place.map((value, axis) => ((value - origin[axis]) / edge) * 2 - 1);
            const camera = map.controls.camera;
            const seen = camera.position.clone().set(...at).project(camera);
            const box = map.canvas.getBoundingClientRect();
            return [box.left + ((seen.x + 1) / 2) * box.width, box.top + ((1 - seen.y) / 2) * box.height];
        }""",
        [list(place), space],
    )
    return float(found[0]), float(found[1])


def test_the_first_view_shows_every_image_of_the_release(visit: Open, known: Atlas) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_role("heading", level=1)).to_have_text("OpenMoji")
    expect(page.get_by_role("heading", level=2).first).to_have_text("Where does yours land?")
    expect(page.locator("#summary")).to_contain_text(f"{len(known)} of {ROWS} images shown")
    assert page.evaluate("() => window.latentAtlas.context.map.shownPoints") == len(known)
    colours = page.evaluate(
        """() => new Promise((resolve) => requestAnimationFrame(() => {
            const { map } = window.latentAtlas.context;
            map.renderer.render(map.scene, map.controls.camera);
            const gl = map.renderer.getContext();
            const data = new Uint8Array(gl.drawingBufferWidth * gl.drawingBufferHeight * 4);
            gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, data);
            const found = new Set();
            for (let at = 0; at < data.length; at += 4) found.add(data[at] * 65536 + data[at + 1] * 256 + data[at + 2]);
            resolve(found.size);
        }))"""
    )
    assert colours > 50, "points of several categories, and images"


def test_nothing_is_drawn_while_nothing_changes(visit: Open) -> None:
    page = visit().page
    frames = page.evaluate("() => window.latentAtlas.context.map.frames")
    page.wait_for_timeout(2_000)
    assert page.evaluate("() => window.latentAtlas.context.map.frames") == frames
    page.mouse.move(800, 400)
    page.mouse.wheel(0, -50)
    page.wait_for_function("(frames) => window.latentAtlas.context.map.frames > frames", arg=frames)


def test_the_mouse_turns_zooms_and_moves_the_map(visit: Open) -> None:
    page = visit().page
    before = camera(page)
    page.mouse.move(800, 400)
    page.mouse.down()
    page.mouse.move(900, 430, steps=5)
    page.mouse.up()
    turned = camera(page)
    assert turned["theta"] != before["theta"] and turned["phi"] != before["phi"]
    assert turned["radius"] == before["radius"] and turned["target"] == before["target"]
    page.mouse.wheel(0, -300)
    page.wait_for_function("(radius) => window.latentAtlas.store.state.camera.radius < radius", arg=turned["radius"])
    zoomed = camera(page)
    page.mouse.move(800, 400)
    page.mouse.down(button="right")
    page.mouse.move(860, 400, steps=4)
    page.mouse.up(button="right")
    moved = camera(page)
    assert moved["target"] != zoomed["target"] and moved["radius"] == zoomed["radius"]


def test_zooming_keeps_what_is_under_the_cursor(visit: Open, known: Atlas) -> None:
    seen = visit()
    row = known.to_polars(["id", "xyz_clip"], limit=1)
    target = tuple(row["xyz_clip"][0])
    x, y = place_on_screen(seen, target)
    depth = seen.page.evaluate("() => window.latentAtlas.context.map.controls.view.target")
    assert depth
    seen.page.mouse.move(x, y)
    before = place_on_screen(seen, target)
    seen.page.mouse.wheel(0, -240)
    seen.page.wait_for_timeout(300)
    after = place_on_screen(seen, target)
    middle = (360 + (1280 - 360) / 2, 400)
    # what is not at the depth of the target moves a little; without zooming to the cursor it moves away from the middle
    drift = abs(after[0] - before[0]) + abs(after[1] - before[1])
    away = 0.4 * (abs(before[0] - middle[0]) + abs(before[1] - middle[1]))
    assert drift < max(away, 25)


def test_a_click_on_a_point_shows_its_image_and_where_it_comes_from(visit: Open, known: Atlas) -> None:
    seen = visit()
    page = seen.page
    hit = known.search_text("flag", k=1)[0]
    page.evaluate("(positions) => window.latentAtlas.context.flyTo(positions)", hit.xyz)
    seen.ready()
    page.mouse.click(*place_on_screen(seen, hit.xyz["clip"]))
    panel = page.locator("#image-panel")
    expect(panel).to_be_visible()
    found = page.evaluate("() => window.latentAtlas.store.state.selected")
    row = known.row(found)
    expect(panel.get_by_role("heading", level=2)).to_have_text(row.caption or "")
    expect(panel.locator("#source-link")).to_have_attribute("href", row.source_url or "")
    assert "noopener" in (panel.locator("#source-link").get_attribute("rel") or "")
    expect(panel.locator("#file-link")).to_have_attribute("href", row.url)
    expect(panel).to_contain_text("CC BY-SA 4.0")
    expect(panel).to_contain_text(f"{row.width} × {row.height}")
    sections = panel.locator(".neighbours section h4").all_text_contents()
    assert sections == ["meaning", "colour and layout", "both"]
    # the nearest point to the click, not just any
    near = place_on_screen(seen, row.xyz["clip"])
    wanted = place_on_screen(seen, hit.xyz["clip"])
    assert abs(near[0] - wanted[0]) < 60 and abs(near[1] - wanted[1]) < 60


def test_a_search_lists_and_lights_up_what_it_finds(visit: Open, known: Atlas) -> None:
    page = visit().page
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    rows = page.locator(".result")
    expect(rows.first).to_be_visible()
    expected = known.search_text("hot drink", k=48)
    assert [row.get_attribute("data-id") for row in rows.all()] == [hit.id for hit in expected]
    expect(rows.first).to_contain_text(expected[0].caption or "")
    expect(page.locator("#result-count")).to_have_text("48 results")
    assert page.evaluate("() => window.latentAtlas.context.map.material.uniforms.faded.value") > 0.5
    before = camera(page)["radius"]
    rows.first.click()
    expect(page.locator("#image-panel h2")).to_have_text(expected[0].caption or "")
    page.wait_for_function("(radius) => window.latentAtlas.store.state.camera.radius < radius", arg=before)
    page.click("text=Clear >> visible=true")
    expect(rows).to_have_count(0)
    assert page.evaluate("() => window.latentAtlas.context.map.material.uniforms.faded.value") == 0


def test_words_find_captions(visit: Open, known: Atlas) -> None:
    page = visit().page
    page.select_option("#mode", "words")
    page.fill("#search", "flag")
    page.keyboard.press("Enter")
    expect(page.locator(".result").first).to_be_visible()
    assert all("flag" in text.lower() for text in page.locator(".result .grow").all_text_contents())


def test_an_image_searches_too(visit: Open, known: Atlas, tmp_path: Path) -> None:
    row = known.to_polars(["id", "thumbnail"], limit=7)[6]
    file = tmp_path / "thumb.webp"
    file.write_bytes(row["thumbnail"][0])
    page = visit().page
    page.set_input_files("#search-file", file)
    expect(page.locator(".result").first).to_have_attribute("data-id", row["id"][0])


def shown_rows(page: Page) -> int:
    """How many rows the map shows after its filters."""
    found: int = page.evaluate(
        "() => { const hidden = window.latentAtlas.context.map.hidden;"
        " return hidden ? hidden.reduce((sum, value) => sum + (value ? 1 : 0), 0) : -1; }"
    )
    return found


def test_filters_combine_and_hold_for_the_whole_cloud(visit: Open, known: Atlas, atlas: Running) -> None:
    page = visit().page
    frame = known.to_polars(["category"])
    counts = dict(frame["category"].value_counts().iter_rows())
    first, second = sorted((name for name in counts if name), key=lambda name: (-counts[name], name))[:2]
    page.click(".looks summary")
    page.get_by_role("checkbox", name=first, exact=True).check()
    expect(page.locator("#filter-count")).to_contain_text(f"{counts[first]} of")
    assert shown_rows(page) == counts[first]
    page.get_by_role("checkbox", name=second, exact=True).check()
    expect(page.locator("#filter-count")).to_contain_text(f"{counts[first] + counts[second]} of")
    assert shown_rows(page) == counts[first] + counts[second]
    page.click("#clear-filters")
    expect(page.locator("#filter-count")).to_have_text("")
    assert shown_rows(page) == -1


def test_points_are_coloured_by_any_column(visit: Open, atlas: Running) -> None:
    page = visit().page
    before = pixels(page)
    page.click(".looks summary")
    page.select_option("#colour", "shard")
    page.wait_for_function("() => window.latentAtlas.context.map.material.uniforms.by_row.value")
    page.wait_for_timeout(500)
    assert pixels(page) != before
    tiles = Tiles.open(Storage(atlas.profile.root), str(atlas.service.current.version))
    shards = tiles.column("shard")
    colours = page.evaluate("() => [...window.latentAtlas.context.map.material.uniforms.row_colour.value.image.data]")
    by_shard: dict[Any, set[int]] = {}
    for shard, colour in zip(shards, colours, strict=False):
        by_shard.setdefault(shard, set()).add(colour)
    assert sorted(map(len, by_shard.values())) == [1] * len(set(shards))
    assert len(set().union(*by_shard.values())) == len(by_shard)


def test_the_maps_morph_into_each_other(visit: Open, known: Atlas) -> None:
    seen = visit()
    page = seen.page
    page.wait_for_timeout(800)
    page.evaluate(
        """() => { window.morphs = []; const { map } = window.latentAtlas.context;
            const look = () => { window.morphs.push(map.material.uniforms.morph.value); requestAnimationFrame(look); };
            look(); }"""
    )
    page.get_by_text("colour and layout", exact=True).first.click()
    page.wait_for_function("() => window.latentAtlas.store.state.space === 'vae'")
    page.wait_for_function("() => window.morphs.some((value) => value > 0.05 && value < 0.95)", timeout=15_000)
    seen.ready()
    assert page.evaluate("() => window.latentAtlas.context.map.material.uniforms.morph.value") == 1
    expect(page.locator("#summary")).to_contain_text("colour and layout")
    hit = known.search_text("flag", k=1)[0]
    page.evaluate("(positions) => window.latentAtlas.context.flyTo(positions)", hit.xyz)
    seen.ready()
    page.mouse.click(*place_on_screen(seen, hit.xyz["vae"], "vae"))
    expect(page.locator("#image-panel")).to_be_visible()


def test_reduced_motion_jumps(visit: Open) -> None:
    page = visit(reduced_motion="reduce").page
    page.keyboard.press("3")
    page.wait_for_function(
        "() => window.latentAtlas.store.state.space === 'joint' && window.latentAtlas.context.map.complete"
    )
    assert page.evaluate("() => window.latentAtlas.context.map.material.uniforms.morph.value") == 1
    page.keyboard.press("0")
    assert not page.evaluate("() => window.latentAtlas.context.map.controls.flying")


def test_a_link_opens_the_same_view(visit: Open, known: Atlas) -> None:
    seen = visit()
    page = seen.page
    page.fill("#search", "sad face")
    page.keyboard.press("Enter")
    page.locator(".result").first.click()
    page.keyboard.press("Escape")
    page.locator(".result").nth(2).click()
    page.get_by_role("radio", name="both").check(force=True)
    seen.settled()
    page.click(".looks summary")
    page.select_option("#colour", "shard")
    page.get_by_role("checkbox").nth(1).check()
    page.wait_for_function("() => window.latentAtlas.store.state.results.length < 48")
    count = page.evaluate("() => window.latentAtlas.store.state.results.length")
    seen.settled()
    link = page.evaluate("() => location.hash")
    state = page.evaluate("() => { const { made, results, ...state } = window.latentAtlas.store.state; return state; }")
    again = visit(link)
    expect(again.page.locator(".result")).to_have_count(count)
    expect(again.page.locator("#image-panel h2")).to_have_text(known.row(state["selected"]).caption or "")
    restored = again.page.evaluate(
        "() => { const { made, results, ...state } = window.latentAtlas.store.state; return state; }"
    )
    for key in ("space", "selected", "colour", "query", "mode", "filters"):
        assert restored[key] == state[key], key
    assert restored["camera"]["radius"] == pytest.approx(state["camera"]["radius"], abs=1e-3)
    assert restored["camera"]["target"] == pytest.approx(state["camera"]["target"], abs=1e-3)


def test_links_of_what_is_gone_say_so(visit: Open) -> None:
    page = visit(f"#release=99&image={'f' * 32}", clean=False).page
    expect(page.get_by_role("status").filter(has_text="Release 99")).to_be_visible()
    expect(page.locator("#image-panel")).to_contain_text("not in this release")


@pytest.mark.parametrize(
    "link", ["#camera=NaN,1", "#space=__proto__&image=<b>", "#category=%00&range=x:1", "#made=zz,%"]
)
def test_links_that_are_wrong_open_the_map(visit: Open, link: str) -> None:
    seen = visit(link)
    assert seen.page.evaluate("() => window.latentAtlas.store.state.selected") is None


def test_the_keyboard_alone_is_enough(visit: Open) -> None:
    page = visit().page
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "search"
    page.keyboard.type("hot drink")
    page.keyboard.press("Enter")
    expect(page.locator(".result").first).to_be_visible()
    page.locator(".result").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#image-panel")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#image-panel")).to_be_hidden()
    before = camera(page)
    page.locator("canvas.map").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    after = camera(page)
    assert after["theta"] != before["theta"] and after["radius"] < before["radius"]
    page.keyboard.press("Shift+ArrowUp")
    assert camera(page)["target"] != after["target"]


def test_the_tree_leads_from_a_map_to_an_image(visit: Open, known: Atlas) -> None:
    page = visit().page
    page.keyboard.press("l")
    tree = page.get_by_role("tree")
    expect(tree).to_be_visible()
    expect(tree.get_by_role("treeitem").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    regions = tree.locator("[aria-level='2']")
    expect(regions.first).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(regions.first).to_be_focused()
    coarse = known.labels("clip", level=1)
    assert [(text or "").strip() for text in regions.all_text_contents()][: len(coarse)] == [
        f"{label.name}, {label.rows:,} images" for label in coarse
    ]
    page.keyboard.press("ArrowRight")
    below = tree.locator("[aria-level='3']")
    expect(below.first).to_be_visible()
    parts = [label for label in known.labels("clip") if label.parent == coarse[0].id]
    # its parts come first, then its images, the one that stands for it before the others
    image = below.nth(len(parts))
    expect(image).to_have_text(known.row(coarse[0].representative).caption or "")
    image.click()
    assert page.evaluate("() => window.latentAtlas.store.state.selected") == coarse[0].representative
    expect(image.locator("[aria-level='4']").first).to_be_visible()
    near = page.evaluate("(id) => window.latentAtlas.context.image(id)", coarse[0].representative)["neighbours"]["clip"]
    expect(image.locator("[aria-level='4']")).to_have_count(len(near))
    page.keyboard.press("ArrowLeft")
    expect(image.locator("[aria-level='4']").first).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    expect(regions.first).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(below.first).to_be_hidden()


def test_an_image_that_is_dropped_gets_its_place(visit: Open, picture: Path) -> None:
    seen = visit()
    page = seen.page
    page.set_input_files("#place-file", picture)
    card = page.locator(".card")
    expect(card.locator(".verdict")).to_be_visible(timeout=60_000)
    placed = page.evaluate("() => window.latentAtlas.store.state.made[0].placed")
    expect(card.locator(".verdict")).to_have_text(placed["placements"]["clip"]["sentence"])
    expect(card.locator(".strip button")).to_have_count(min(8, len(placed["placements"]["clip"]["neighbours"])))
    expect(card).to_contain_text("none of them is its source")
    expect(page.locator(".labels img")).to_be_visible()
    seen.ready()
    x, y = place_on_screen(seen, placed["placements"]["clip"]["position"])
    box = page.locator("canvas.map").bounding_box()
    assert box and abs(x - (box["x"] + box["width"] / 2)) < 5 and abs(y - (box["y"] + box["height"] / 2)) < 5
    card.get_by_role("button", name=re.compile("Remove")).click()
    expect(card).to_have_count(0)
    expect(page.locator(".labels img")).to_have_count(0)


def test_an_image_forms_from_a_prompt_and_draws_its_path(visit: Open, emoji: Profile) -> None:
    with running(emoji, writes=False, generation=True) as service:
        seen = visit(url=service.url)
        page = seen.page
        page.evaluate(
            """() => { window.steps = new Set(); window.previews = new Set();
                window.latentAtlas.store.on(["made"], ({ made: [one] }) => {
                    if (one && !one.placed && one.steps.length) {
                        window.steps.add(one.steps.length); window.previews.add(one.image); } }); }"""
        )
        page.fill("#prompt", "a red apple")
        page.click(".fine summary")
        page.fill("#seed", "3")
        page.keyboard.press("Enter")
        expect(page.locator(".card .verdict")).to_be_visible(timeout=120_000)
        placed = page.evaluate("() => window.latentAtlas.store.state.made[0].placed")
        assert (placed["prompt"], placed["seed"]) == ("a red apple", 3)
        assert page.evaluate("() => window.steps.size") >= 3, "the preview forms step by step"
        assert page.evaluate("() => window.previews.size") >= 3
        assert len(placed["path"]["clip"]) >= 3
        tubes = "() => window.latentAtlas.context.map.marks.rest.children.filter((one) => one.type === 'Mesh').length"
        assert page.evaluate(tubes) == 1
        page.wait_for_function("() => window.latentAtlas.store.state.made[0].near.clip?.length === 6")
        lines = "() => window.latentAtlas.context.map.marks.rest.children.filter((one) => one.type === 'Line').length"
        assert page.evaluate(lines) == 6, "a line to each of its nearest images"
        expect(page.locator(".labels img")).to_have_attribute("alt", "a red apple")
        page.click("text=Another one")
        expect(page.locator(".card")).to_have_count(2)
        expect(page.locator(".card .verdict")).to_have_count(2, timeout=120_000)
        assert page.evaluate(tubes) == 2, "several generations side by side"
        seen.settled()
        assert placed["generated_id"] in page.evaluate("() => location.hash")
        page.goto("about:blank")
        page.goto(f"{service.url}/#space=clip")
        seen.ready()
        expect(page.locator(".card")).to_have_count(0)
        page.click("#earlier")
        expect(page.locator(".card .verdict")).to_have_count(2)
        expect(page.locator(".card strong").last).to_have_text("a red apple")
        page.close()


def test_what_is_no_image_is_refused_in_words(visit: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 64)
    page = visit(clean=False).page
    page.set_input_files("#place-file", broken)
    expect(page.locator(".card .bad")).to_be_visible()
    text = tmp_path / "notes.txt"
    text.write_text("words")
    page.set_input_files("#place-file", text)
    expect(page.get_by_role("alert").filter(has_text="notes.txt")).to_be_visible()


def test_captions_are_never_html(visit: Open, known: Atlas) -> None:
    seen = visit(wait=False)
    page = seen.page
    hostile = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"

    def answer(route: Any) -> None:
        found = route.fetch().json()
        for result in found["results"]:
            result["caption"] = hostile
            result["url"] = "javascript:window.hacked=1"
        route.fulfill(json=found)

    page.route("**/api/search?*", answer)
    seen.ready()
    page.fill("#search", "face")
    page.keyboard.press("Enter")
    expect(page.locator(".result").first).to_contain_text("<script>")
    assert page.evaluate("() => window.hacked") is None
    assert page.locator(".result img[src='x']").count() == 0


def test_without_webgl_the_list_remains(visit: Open, known: Atlas) -> None:
    script = """const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
            return kind.startsWith("webgl") ? null : get.call(this, kind, ...rest); };"""
    page = visit(wait=False, script=script, clean=False).page
    expect(page.locator("#no-webgl")).to_be_visible()
    expect(page.get_by_role("tree")).to_be_visible()
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    page.locator(".result").first.click()
    expect(page.locator("#image-panel h2")).to_have_text(known.search_text("hot drink", k=1)[0].caption or "")


def test_a_lost_context_comes_back(visit: Open) -> None:
    seen = visit(clean=False)
    page = seen.page
    page.wait_for_timeout(1_000)
    before = page.evaluate("() => window.latentAtlas.context.map.imagesShown")
    page.evaluate("() => { window.lost = window.latentAtlas.context.map.context; window.lost.loseContext(); }")
    expect(page.get_by_role("alert").filter(has_text="lost the map")).to_be_visible()
    page.evaluate("() => window.lost.restoreContext()")
    expect(page.get_by_role("status").filter(has_text="The map is back")).to_be_visible()
    page.mouse.move(800, 400)
    page.mouse.wheel(0, -10)
    seen.ready()
    if before:
        page.wait_for_function("() => window.latentAtlas.context.map.imagesShown > 0")
    assert not [error for error in seen.errors if "WebGL: INVALID" in error]


def test_a_missing_tile_is_said_and_tried_again(visit: Open) -> None:
    seen = visit(wait=False, clean=False)
    page = seen.page
    page.route("**/points.bin", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert").filter(has_text="points.bin")).to_be_visible()
    page.unroute("**/points.bin")
    page.wait_for_function("() => window.latentAtlas.context.map.shownPoints > 0", timeout=20_000)


def test_a_server_that_is_gone_is_said(visit: Open) -> None:
    seen = visit(clean=False)
    page = seen.page
    page.route("**/api/**", lambda route: route.abort())
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    assert page.evaluate("() => window.latentAtlas.context.map.shownPoints") == ROWS


def test_a_phone_shows_prompt_and_map_without_sideways_scrolling(visit: Open) -> None:
    page = visit(width=390, height=844, has_touch=True, is_mobile=True).page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for selector in ("#place-file", "#search"):
        assert page.locator(selector).count() == 1
    box = page.locator("canvas.map").bounding_box()
    assert box and box["width"] == 390 and box["height"] > 300
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    page.locator(".result").first.click()
    expect(page.locator("#image-panel")).to_be_in_viewport()
    panel = page.locator("#image-panel").bounding_box()
    assert panel and panel["x"] >= 0 and panel["width"] <= 390


def test_the_page_speaks_chinese(visit: Open) -> None:
    page = visit(locale="zh-CN").page
    expect(page.get_by_role("heading", level=2).first).to_have_text("你的图像落在哪里？")
    assert page.evaluate("() => document.documentElement.lang") == "zh-Hans"
    page.click("#language")
    expect(page.get_by_role("heading", level=2).first).to_have_text("Where does yours land?")


def test_dark_and_light(visit: Open) -> None:
    seen = visit(color_scheme="dark")
    page = seen.page
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(13, 16, 23)"
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "light"
    assert page.evaluate(ground) == "rgb(244, 245, 248)"
    page.reload()
    seen.ready()
    assert page.evaluate("() => document.documentElement.dataset.theme") == "light"
