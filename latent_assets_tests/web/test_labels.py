"""Names over the map: the level that fits the view, none over another, no flicker; colours of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from latent_assets.client import Atlas
from latent_assets.profile import Profile
from latent_assets_tests.web.conftest import Open

SHOWN = """() => [...document.querySelectorAll(".labels span")].filter((each) => !each.hidden).map((each) => {
    const { left, top, right, bottom } = each.getBoundingClientRect();
    return { text: each.textContent, level: Number(each.dataset.level), left, top, right, bottom };
})"""
FLY = """async ([space, place, radius]) => {
    const { map } = window.latentAtlas.context;
    const info = window.latentAtlas.context.tiles.info.spaces[space];
    const at = place.map((value, axis) => ((value - info.origin[axis]) / info.edge) * 2 - 1);
    map.controls.flyTo(at, (radius / info.edge) * 2);
}"""


@pytest.fixture(scope="module")
def known(emoji: Profile) -> Atlas:
    return Atlas.open(emoji.root)


def shown(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(SHOWN)
    return found


def test_names_follow_the_view_level_by_level(visit: Open, known: Atlas) -> None:
    seen = visit()
    page = seen.page
    page.wait_for_timeout(300)
    labels = known.labels("clip")
    coarse = {label.name for label in labels if label.parent is None}
    far = shown(page)
    assert far and {name["text"] for name in far} <= coarse
    whole = max(
        (label for label in labels if any(each.parent == label.id for each in labels)), key=lambda each: each.rows
    )
    part = max((label for label in labels if label.parent == whole.id), key=lambda each: each.rows)
    page.evaluate(FLY, ["clip", list(part.centre), part.radius * 2])
    page.wait_for_timeout(2_500)
    near = {name["text"] for name in shown(page)}
    assert near & {label.name for label in labels if label.parent == part.id or label.id == part.id}
    assert whole.name not in near


def test_no_name_lies_over_another(visit: Open) -> None:
    page = visit().page
    for _ in range(4):
        page.wait_for_timeout(700)
        boxes = shown(page)
        for at, one in enumerate(boxes):
            for other in boxes[at + 1 :]:
                apart = one["right"] <= other["left"] + 10 or other["right"] <= one["left"] + 10
                assert apart or one["bottom"] <= other["top"] + 10 or other["bottom"] <= one["top"] + 10, (one, other)
        page.locator("canvas.map").focus()
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        page.keyboard.press("+")


def test_names_stay_while_the_map_moves(visit: Open) -> None:
    page = visit().page
    page.wait_for_timeout(500)
    page.evaluate("""() => {
        const { map } = window.latentAtlas.context;
        const view = map.controls.view;
        window.turn = (step) => { map.controls.view = { ...map.controls.view, theta: view.theta + step * 0.004 }; };
    }""")
    before = {name["text"] for name in shown(page)}
    changes = 0
    for step in range(1, 16):
        page.evaluate("(step) => window.turn(step)", step)
        page.wait_for_timeout(120)
        now = {name["text"] for name in shown(page)}
        changes += len(now ^ before)
        before = now
    page.evaluate("() => window.turn(0)")
    assert before and changes <= 3, "a turn of three degrees leaves names where they are"


def test_points_and_names_take_the_colours_of_clusters(visit: Open, known: Atlas, tmp_path: Path) -> None:
    seen = visit()
    page = seen.page
    assert not any("cluster_" in url for url in seen.requests), "clusters are read when they are asked for"
    page.locator("details.looks summary").click()
    page.select_option("#colour", "clusters-1")
    page.wait_for_timeout(800)
    assert any(url.endswith("cluster_clip_1.bin") for url in seen.requests)
    assert not any("cluster_vae" in url for url in seen.requests)
    coloured = page.locator(".labels span:visible").first.evaluate("(each) => each.style.boxShadow")
    assert "inset" in coloured
    page.get_by_role("radio", name="colour and layout").check(force=True)
    page.wait_for_timeout(1_500)
    assert any(url.endswith("cluster_vae_1.bin") for url in seen.requests), "another map has other clusters"
    page.select_option("#colour", "category")
    page.wait_for_timeout(400)
    expect(page.locator(".labels span:visible").first).not_to_have_attribute("style", "inset")
    assert page.locator(".labels span:visible").first.evaluate("(each) => each.style.boxShadow") == ""
