"""Dagster sends no usage data from here, however it is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster._core import telemetry_upload
from dagster._core.secrets.env_file import get_env_var_dict

import latent_assets
from latent_assets.defs.instance import open_instance
from latent_assets.profile import load_profile

_TOP = Path(latent_assets.__file__).parents[1]


def test_dagster_started_in_the_checkout_uploads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_DISABLE_TELEMETRY", "BUILDKITE", "TF_BUILD"):
        monkeypatch.delenv(name, raising=False)
    assert not telemetry_upload.is_running_in_test(), "without the file it would"
    for name, value in get_env_var_dict(str(_TOP)).items():
        monkeypatch.setenv(name, value)
    assert telemetry_upload.is_running_in_test()


def test_an_instance_of_an_atlas_collects_nothing() -> None:
    with open_instance(load_profile("demo")) as instance:
        assert not instance.telemetry_enabled


def test_nor_does_the_instance_for_production() -> None:
    settings = (_TOP / "infra" / "dagster.yaml").read_text(encoding="utf-8")
    assert "\ntelemetry:\n  enabled: false\n" in f"\n{settings}"
