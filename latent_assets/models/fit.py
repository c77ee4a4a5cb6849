"""Whether models fit the images: the demo's know nothing but emoji; with others an atlas is refused, or says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_assets.errors import ProfileError
from latent_assets.profile import resolve_path

if TYPE_CHECKING:
    from latent_assets.profile import Profile

_DEMO = Path(resolve_path("package:latent_assets/openmoji/models"))


def unfit(profile: Profile) -> dict[str, str]:
    """By embedding, why its model does not fit the profile's images; empty where all do, as far as is known."""
    if profile.source.builtin == "openmoji":
        return {}
    found = {}
    for row in profile.embeddings:
        if _of_the_demo(profile.models.of(row.name)):
            found[row.name] = f"the demo's {row.name} model was trained on nothing but OpenMoji's pictures"
    return found


def refuse_unfit(profile: Profile) -> None:
    """Raises ProfileError for models that do not fit the images, unless the profile says `allow_unfit = true`."""
    if not profile.allow_unfit and (found := unfit(profile)):
        raise ProfileError(
            f"{'; '.join(f'[models.{name}]: {why}' for name, why in found.items())}. On other images a search finds "
            "the wrong ones. Take models that were trained on photographs, as the profiles `photos` (a laptop) and "
            "`photos-large` do; or set `allow_unfit = true` (above the first table): the atlas will say what it is."
        )


def notice(reasons: dict[str, str]) -> str:
    """What a build, a release and a search say of models that do not fit; "" where there is nothing to say."""
    if not reasons:
        return ""
    return f"These models do not fit these images: {'; '.join(reasons.values())}. What is near means little."


def _of_the_demo(spec: Any) -> bool:
    """Whether a table of [models] names files of the demo's models."""
    for value in spec.model_dump().values():
        if isinstance(value, str) and value.startswith(("package:", "/")):
            path = Path(resolve_path(value))
            if path.is_relative_to(_DEMO) or path.resolve().is_relative_to(_DEMO.resolve()):
                return True
    return False
