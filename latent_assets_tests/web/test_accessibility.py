"""axe-core on every panel, dark and light: no serious violation. What it cannot see, the tree, has tests of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from latent_assets.web.building import viewer_folder
from latent_assets_tests.web.conftest import Open

pytestmark = pytest.mark.slow

AXE = viewer_folder().parent / "node_modules" / "axe-core" / "axe.min.js"


def violations(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical: rule, and the elements."""
    if page.evaluate("() => typeof window.axe") == "undefined":
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found: dict[str, Any] = page.evaluate(
        "() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })"
    )
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_panel_has_a_serious_violation(visit: Open, picture: Path, theme: str) -> None:
    page = visit(color_scheme=theme).page
    assert violations(page) == [], "the first view"
    page.click(".fine summary")
    page.click(".looks summary")
    page.fill("#search", "hot drink")
    page.keyboard.press("Enter")
    page.locator(".result").first.click()
    expect(page.locator("#image-panel .neighbours")).to_be_visible()
    assert violations(page) == [], "results, filters and an image"
    page.keyboard.press("Escape")
    page.set_input_files("#place-file", picture)
    expect(page.locator(".card .verdict")).to_be_visible(timeout=60_000)
    assert violations(page) == [], "an image with its place"
    page.click("#open-tree")
    page.keyboard.press("ArrowRight")
    expect(page.locator("[aria-level='2']").first).to_be_visible()
    assert violations(page) == [], "the tree"
    page.click("#open-about")
    expect(page.locator("#about")).to_be_visible()
    assert violations(page) == [], "about"
    page.keyboard.press("Escape")
    expect(page.locator("#about")).to_be_hidden()


def test_a_violation_would_be_found(visit: Open) -> None:
    page = visit().page
    page.evaluate(
        "() => { const bad = document.createElement('button'); document.querySelector('.left').append(bad); }"
    )
    assert any(found.startswith("button-name") for found in violations(page))


def test_everything_can_be_reached_by_tab_and_is_seen_when_it_is(visit: Open) -> None:
    page = visit().page
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        where = page.evaluate(
            """() => { const one = document.activeElement; const look = getComputedStyle(one);
                const shown = look.outlineStyle !== 'none' || !!one.closest('label');
                return [one.id || one.tagName, shown || one.type === 'radio' || one.type === 'file']; }"""
        )
        if where[0] == "BODY":
            break
        assert where[1], f"{where[0]} shows no focus"
        reached.append(where[0])
    assert {"prompt", "search", "mode", "theme", "language", "open-about", "open-tree", "place-file"} <= set(reached)
    assert "CANVAS" in reached


def test_changes_are_said(visit: Open) -> None:
    page = visit().page
    expect(page.locator("#summary[role=status]")).to_contain_text("images shown")
    expect(page.locator("canvas.map")).to_have_attribute("aria-label", re.compile("Map of 400 images. Arrow keys turn"))
    page.keyboard.press("2")
    expect(page.locator("#summary")).to_contain_text("colour and layout", timeout=20_000)
