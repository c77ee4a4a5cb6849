"""What the figures of the demo's models are measured on: everyday queries and prompts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from infra.training import evaluate


def test_queries_are_words_and_not_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = evaluate.load_queries()
    assert len(queries) == 60 and all(queries.values())
    wrong = tmp_path / "queries.toml"
    wrong.write_text('[queries]\n"Dog Face" = ["dog"]\n', "utf-8")
    monkeypatch.setattr(evaluate, "QUERIES", wrong)
    with pytest.raises(ValueError, match="Dog Face"):
        evaluate.load_queries()
    assert tomllib.loads(wrong.read_text("utf-8"))


def test_evaluation_prompts_are_drawn_evenly() -> None:
    prompts = evaluate.evaluation_prompts()
    assert len(set(prompts)) == 100
    counts = {category: sum(c == category for _, c in prompts) for _, category in prompts}
    assert len(counts) == 9 and set(counts.values()) == {11, 12}
    assert prompts == evaluate.evaluation_prompts()
