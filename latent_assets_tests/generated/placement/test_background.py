"""What stands behind neighbours: shares over the atlas's own, with their intervals."""

from __future__ import annotations

from typing import Any

import pytest

from latent_assets.generated.placement.background import Background, domain, wilson

ROW: dict[str, Any] = {"category": None, "url": "a.png", "source_url": None, "aesthetic": None}


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [{**ROW, **dict(zip(columns, values, strict=True))} for values in zip(*columns.values(), strict=True)]


def test_lift_is_the_share_over_that_of_the_atlas() -> None:
    every = rows(category=["birds"] * 10 + ["fish"] * 90)
    found = {share.value: share for share in Background(every).behind(rows(category=["birds"] * 9 + ["fish"] * 3))}
    birds, fish = found["birds"], found["fish"]
    assert (birds.field, birds.count, birds.of) == ("category", 9, 12)
    assert birds.lift == pytest.approx(7.5) and birds.low < 7.5 < birds.high
    # Wilson's interval of 9 of 12, from the formula in Brown, Cai, DasGupta 2001
    assert (birds.low, birds.high) == pytest.approx((4.6769, 9.1106), abs=1e-3)
    assert birds.unusual and fish.unusual and fish.high < 1.0
    assert not next(iter(Background(every).behind(rows(category=["fish"] * 9 + ["birds"])))).unusual


def test_every_field_is_told_and_a_single_neighbour_says_nothing() -> None:
    every = rows(
        source_url=["https://www.a.org/1", "https://a.org/2", "http://b.net", None] * 25,
        url=["https://cdn.x/1", "https://cdn.x/2", "https://cdn.x/3", "https://cdn.x/4"] * 25,
        licence=["CC BY 4.0", "CC BY 4.0", None, "CC0"] * 25,
        attribution=["Ada", None, "Ada", None] * 25,
        aesthetic=[4.0, 5.0, 6.0, 7.0] * 25,
    )
    background = Background(every)
    found = {(share.field, share.value): share for share in background.behind(every[:2] + every[4:6])}
    assert {field for field, _ in found} == {"domain", "licence", "attribution", "aesthetic"}
    assert found["domain", "a.org"].lift == pytest.approx(2.0)
    assert found["licence", "CC BY 4.0"].count == 4 and found["attribution", "Ada"].count == 2
    assert found["aesthetic", "below 4.75"].lift == pytest.approx(2.0)
    assert background.behind([every[0]]) == () and background.behind([]) == ()
    assert Background([]).behind(every[:2]) == ()


def test_one_score_for_all_is_one_quarter() -> None:
    every = rows(aesthetic=[5.0] * 20)
    (share,) = Background(every).behind(every[:6])
    assert share.lift == 1.0 and not share.unusual


@pytest.mark.parametrize(
    ("url", "page", "expected"),
    [
        ("https://cdn.example.org/a.png", "https://www.site.net/page", "site.net"),
        ("https://cdn.example.org/a.png", None, "cdn.example.org"),
        ("folder/a.png", None, None),
        ("https://[broken", "", None),
        (None, None, None),
    ],
)
def test_the_domain_is_that_of_the_page(url: str | None, page: str | None, expected: str | None) -> None:
    assert domain(url, page) == expected


def test_wilson_stays_within_0_and_1() -> None:
    for of in (1, 5, 100):
        low, high = wilson(0, of)
        assert low == pytest.approx(0.0, abs=1e-12) and 0 < high < 1
        low, high = wilson(of, of)
        assert 0 < low < 1 and high == pytest.approx(1.0)
