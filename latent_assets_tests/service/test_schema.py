"""schemathesis asks what the schema allows, and what it does not, and finds nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from latent_assets_tests.conftest import Built
from latent_assets_tests.generated.diffusion.small_pipelines import write_pipeline
from latent_assets_tests.service.conftest import Running, running


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


@pytest.fixture(scope="module")
def asked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that does all it can, over a copy of the built atlas."""
    import shutil

    folder = tmp_path_factory.mktemp("asked")
    shutil.copytree(built.profile.root, folder / "root")
    models = built.profile.models.model_copy(update={"diffusion": write_pipeline(folder / "pipeline", "sd")})
    limits = built.profile.service.model_copy(update={"steps": 8, "prompt_length": 100})
    changed = {"root": str(folder / "root"), "models": models, "service": limits}
    with running(built.profile.model_copy(update=changed), generation=True) as found:
        yield found


@pytest.fixture
def api(asked: Running) -> Any:
    return schemathesis.openapi.from_url(f"{asked.url}/api/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_nothing(case: Any) -> None:
    case.call_and_validate(timeout=120)
