"""schemathesis asks what the schema allows, and what it does not, and finds nothing."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

from latent_assets_tests.conftest import Built
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline
from latent_assets_tests.service.conftest import Running, running

_EXAMPLES = 12  # of each operation and mode
_WITHOUT_VALUES = ("GET /api/health", "GET /api/release", "GET /api/releases")  # nothing of them could be wrong


def _image(size: tuple[int, int], kind: str, seed: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 40 + seed).convert("RGB").save(file, kind)
    return file.getvalue()


# a "binary" string of the schema is an image, as its description says
schemathesis.openapi.format(
    "binary",
    st.builds(
        _image,
        st.tuples(st.integers(1, 80), st.integers(1, 80)),
        st.sampled_from(["PNG", "JPEG", "WEBP"]),
        st.integers(0, 5),
    ),
)
# and a "filter" compares columns of the table
schemathesis.openapi.format(
    "filter",
    st.sampled_from(["width >= 16", "aesthetic IS NULL", "contains(caption, 'fox') AND NOT category IN ('a', 'b')"]),
)


@pytest.fixture(scope="module")
def asked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that does all it can, over a copy of the built atlas."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copytree(built.profile.root, folder / "root")
    models = built.profile.models.model_copy(update={"diffusion": write_pipeline(folder / "pipeline", "sd")})
    limits = built.profile.service.model_copy(update={"steps": 8, "frames": 2, "prompt_length": 100})
    changed = {"root": str(folder / "root"), "models": models, "service": limits}
    with running(built.profile.model_copy(update=changed), generation=True) as found:
        yield found


def ask_everything(url: str) -> list[str]:
    """Ask each operation what its schema allows and what it does not; which were asked."""
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
    labels = []
    for found in schema.get_all_operations():
        operation = found.ok()
        labels.append(operation.label)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.label in _WITHOUT_VALUES:
                continue

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=_EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def asking(case: Any) -> None:
                case.call_and_validate(timeout=120)

            asking()
    return labels


@pytest.mark.slow
def test_schemathesis_finds_nothing(asked: Running) -> None:
    assert len(ask_everything(asked.url)) == 17
