"""The generated group: what is usual between real images, which images made elsewhere are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latent_assets.pipeline.manifests import Manifest, Recipe
from latent_assets.pipeline.stages import Finding, Output
from latent_assets.storage import fingerprint

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage, MakeOptions


@dataclass(frozen=True)
class CalibrationDetails:
    """release: version of the table. held_out: images that the fit did not see. radius: by embedding, within which
    two images are near-duplicates; alike: the correlation of pixels from which they are too. nearest: by space the
    quartiles of held-out images' nearest distances."""

    release: int = 0
    held_out: int = 0
    key: str = ""
    radius: dict[str, float] = field(default_factory=dict)
    alike: float = 1.0
    nearest: dict[str, Sequence[float]] = field(default_factory=dict)


def make_calibration(
    lineage: Lineage, key: str, recipes: Mapping[str, Recipe], options: MakeOptions
) -> Mapping[str, Output]:
    """Measure the release that was published last."""
    import numpy as np

    from latent_assets.generated.placement.calibrating import calibrate
    from latent_assets.generated.placement.calibration import NOT_CALIBRATED, write_calibration
    from latent_assets.generated.placement.placing import ImagePlacer, calibration_key
    from latent_assets.layout import calibration_name

    release = lineage.details(lineage.manifest("atlas_table")).version
    placer = ImagePlacer.open(lineage.storage, release)
    calibration = calibrate(placer) if placer.info.rows else NOT_CALIBRATED
    found = calibration.distances
    name = calibration_key(placer.info)
    write_calibration(lineage.storage, name, calibration)
    details = CalibrationDetails(
        release=release,
        held_out=len(calibration.detail),
        key=name,
        radius=dict(calibration.radii),
        alike=calibration.alike,
        nearest={
            space: np.quantile(item.nearest, [0.25, 0.5, 0.75]).tolist()
            for space, item in found.items()
            if len(item.nearest)
        },
    )
    version = fingerprint(name, calibration.version)
    return {"placement_calibration": Output(version, details.held_out, [calibration_name(name)], details)}


def judge_calibration(lineage: Lineage, manifest: Manifest, deep: bool) -> Sequence[Finding]:
    """Whether the distances can be read and say something."""
    import numpy as np

    from latent_assets.generated.placement.calibration import calibration_version, least_held_out, read_calibration

    details: CalibrationDetails = lineage.details(manifest)
    broken = []
    try:
        found = read_calibration(lineage.storage, details.key)
        parts = {"held-out images": [found.detail, found.correlation]}
        parts |= {name: [item.nearest, item.other, item.apart] for name, item in found.distances.items()}
        broken += [
            f"{name}: values that are not finite"
            for name, arrays in parts.items()
            if not all(np.isfinite(values).all() for values in arrays)
        ]
        if found.version != calibration_version(lineage.storage, details.key):
            broken.append("other values than were measured")
    except Exception as error:  # whatever the reader makes of damaged bytes
        broken.append(f"cannot be read ({type(error).__name__}: {error})")
    least = least_held_out(len(lineage.profile.spaces))
    few = f"{details.held_out} images were held out; {least} are needed to call an image far at the level of 5 %"
    return [
        Finding("calibration_sound", not broken, "; ".join(broken)),
        Finding("calibration_possible", details.held_out >= least, "" if details.held_out >= least else few),
    ]


def describe_calibration(lineage: Lineage, manifest: Manifest) -> Mapping[str, Any]:
    """Figures of the null distributions."""
    details: CalibrationDetails = lineage.details(manifest)
    facts: dict[str, Any] = {"release": details.release, "images held out": details.held_out}
    for name, radius in details.radius.items():
        facts[f"{name}: copies within"] = round(radius, 5)
    if details.held_out:
        facts["copies correlate at least"] = round(details.alike, 5)
    for name, quartiles in details.nearest.items():
        facts[f"{name}: usual distance (quartiles)"] = ", ".join(f"{value:.4f}" for value in quartiles)
    return facts
