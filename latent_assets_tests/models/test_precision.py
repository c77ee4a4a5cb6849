"""Number formats: `auto` is the fastest that a processor computes and the vectors bear, and it is known everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_assets.models import device, precision
from latent_assets.models.clip import load_clip
from latent_assets.models.precision import BARS, Agreement, arithmetic, fingerprint_of, kept_neighbours, measured
from latent_assets.models.vae import load_vae
from latent_assets.models.weights import clip_files
from latent_assets.profile import ClipModel, VaeModel, home, load_profile

X86 = "processor : 0\nflags\t\t: fpu sse2 avx512f {}\nmodel name : x\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86.format("avx512_bf16"), "AVX-512 BF16"),
        (X86.format("avx512_bf16 amx_tile amx_bf16"), "AMX"),
        (X86.format("avx512_vnni"), None),
        ("Features\t: fp asimd sve bf16 i8mm\n", "ARM BF16"),
        ("Features\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_what_a_processor_multiplies_is_read_from_its_flags(
    text: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.Path, "read_text", lambda *args, **named: text)
    monkeypatch.setattr(device.sys, "platform", "linux")
    device.native_bfloat16.cache_clear()
    assert device.native_bfloat16() == found
    device.native_bfloat16.cache_clear()


def test_neighbours_that_stay_are_counted() -> None:
    exact = np.arange(40, dtype=np.float32)[:, None] ** 1.1
    assert kept_neighbours(exact, exact) == 1.0
    other = exact.copy()
    other[0] = 1000.0  # far away: its own neighbours are others, and it is nobody's
    assert 0.8 < kept_neighbours(exact, other) < 0.98
    assert not Agreement("bfloat16", 0.99985, 1.0, 48).keeps(BARS["clip"])
    assert not Agreement("bfloat16", 0.99999, 0.989, 48).keeps(BARS["clip"])
    assert Agreement("bfloat16", 0.9, 0.98, 48).keeps(BARS["vae"]), "of a VAE only the neighbours count"


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor that multiplies bfloat16, and no model too small to gain by it."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda: "AVX-512 BF16")
    monkeypatch.setattr(precision, "device_kind", lambda: "cpu")
    monkeypatch.setattr(precision, "_SMALL", 0)
    precision._agreement.cache_clear()
    return monkeypatch


def test_the_demos_clip_bears_bfloat16_and_the_measurement_is_kept(native: pytest.MonkeyPatch) -> None:
    spec = load_profile("demo").models.clip
    assert spec
    chosen = arithmetic("clip", spec)
    assert chosen.dtype == "bfloat16" and chosen.agreement and chosen.agreement.cosine >= 0.9999
    assert chosen.agreement.neighbours >= 0.99 and chosen.agreement.pictures == 48
    assert fingerprint_of("clip", spec) == "bfloat16"
    note = home() / "precision" / f"{clip_files(spec).digest}.json"
    kept = json.loads(note.read_text())
    assert kept["dtype"] == "bfloat16"
    # what was measured before is believed; one that is damaged is measured anew
    note.write_text(json.dumps({**kept, "cosine": 0.5}))
    precision._agreement.cache_clear()
    assert arithmetic("clip", spec).dtype == "float32" and fingerprint_of("clip", spec) == "auto"
    note.write_text("{")
    precision._agreement.cache_clear()
    assert arithmetic("clip", spec).dtype == "bfloat16"
    assert load_clip(spec).dtype == torch.bfloat16
    assert load_clip(spec.model_copy(update={"dtype": "float32"})).dtype == torch.float32


def test_vectors_below_the_bars_stay_in_float32(native: pytest.MonkeyPatch, small_models: dict[str, Any]) -> None:
    native.setattr(precision, "measured", lambda *args: Agreement("bfloat16", 0.9998, 1.0, 48))
    spec = ClipModel(**small_models["clip"])
    assert arithmetic("clip", spec).dtype == "float32" and load_clip(spec).dtype == torch.float32
    assert fingerprint_of("clip", spec.model_copy(update={"dtype": "bfloat16"})) == "bfloat16", "a wish is a wish"


def test_small_models_and_other_processors_stay_in_float32(
    monkeypatch: pytest.MonkeyPatch, small_models: dict[str, Any]
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: "AMX")
    spec = VaeModel(**small_models["vae"])
    assert arithmetic("vae", spec).dtype == "float32" and not (home() / "precision").exists()
    monkeypatch.setattr(precision, "_SMALL", 0)
    monkeypatch.setattr(precision, "native_bfloat16", lambda: None)
    assert arithmetic("vae", spec).dtype == "float32"
    monkeypatch.setattr(precision, "device_kind", lambda: "cuda")
    assert (arithmetic("vae", spec).dtype, fingerprint_of("vae", spec)) == ("bfloat16", "auto")
    monkeypatch.setattr(precision, "device_kind", lambda: "mps")
    assert arithmetic("vae", spec).dtype == "float32"


def test_a_vae_in_bfloat16_gives_nearly_the_same_latents(tmp_path: Path) -> None:
    spec = load_profile("demo").models.vae
    assert spec
    found = measured("vae", spec, "bfloat16", 32)
    assert found.neighbours >= 0.95 and found.cosine >= 0.999
    assert load_vae(spec.model_copy(update={"dtype": "bfloat16"})).dtype == torch.bfloat16
