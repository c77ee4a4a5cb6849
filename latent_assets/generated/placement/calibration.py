"""What is usual between real images of a release, so that "close" and "far" can be said of a generated one.

generated/calibration/{fingerprint}.safetensors
  {embedding}.nearest float64 [h], .other float64 [h], .apart float64 [m]; detail float64 [h]
  header `calibration`: JSON

The rows that the fit held out (`projection.rows.hold_out`) are real images that the maps have never seen, as a new one
is. How far they are from the fitted rows is the null distribution that a new image is held against (split conformal
prediction: Vovk et al. 2005; for outliers Bates et al., arXiv:2104.08279).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save_file

from latent_assets.errors import NotBuiltError
from latent_assets.layout import calibration_name
from latent_assets.spaces import Metric

if TYPE_CHECKING:
    from latent_assets.storage import Storage

# conformal p-values cannot fall below 1 / (rows + 1): with fewer, nothing can be called far at the level of LEVEL
LEVEL = 0.05
LEAST = 39


@dataclass(frozen=True)
class Distances:
    """Usual distances of one embedding, each sorted.

    radius: two images this near are taken for copies of one: 95 % of copies that were saved as poor JPEGs, made
        smaller or slightly cropped stay this near to their original.
    nearest: of each held-out image to the nearest fitted one. other: to the nearest that is no copy of it.
    apart: of fitted images to the nearest other fitted one that is no copy of them.
    """

    metric: Metric
    radius: float
    nearest: np.ndarray
    other: np.ndarray
    apart: np.ndarray

    def far(self, distance: float) -> float | None:
        """Conformal p-value that a real image is this far from all fitted ones: small for what belongs nowhere.

        Of real images like those of the atlas at most a share p has a value of p or less. None where too few images
        were held out to say so at the level of 5 %.
        """
        return _p_value(int((self.nearest >= distance).sum()), len(self.nearest))

    def close(self, distance: float) -> float | None:
        """Conformal p-value that a real image is this near to one that is no copy of it: small for a copy."""
        return _p_value(int((self.other <= distance).sum()), len(self.other))

    def percentile(self, distance: float) -> float | None:
        """Per cent of held-out images that are nearer to their nearest fitted image than this."""
        return 100.0 * float((self.nearest < distance).mean()) if len(self.nearest) else None


@dataclass(frozen=True)
class Calibration:
    """What is usual in a release. distances: by embedding. detail: `copies.detail` of held-out images, sorted.

    Both are empty for a release whose fit held nothing out.
    """

    distances: Mapping[str, Distances]
    detail: np.ndarray

    def odd(self, detail: float) -> float | None:
        """Conformal p-value, two-sided, that a real image has so little or so much detail: small for blanks and noise.

        None where too few images were held out.
        """
        below, above = int((self.detail <= detail).sum()), int((self.detail >= detail).sum())
        found = _p_value(min(below, above), len(self.detail))
        return None if found is None else min(1.0, 2.0 * found)


NOT_CALIBRATED = Calibration({}, np.zeros(0))


def _p_value(as_extreme: int, rows: int) -> float | None:
    return (1 + as_extreme) / (1 + rows) if rows >= LEAST else None


def write_calibration(storage: Storage, fingerprint: str, found: Calibration) -> None:
    """Store usual distances, atomically."""
    header = {name: {"metric": item.metric, "radius": item.radius} for name, item in found.distances.items()}
    arrays = {
        f"{name}.{part}": np.ascontiguousarray(getattr(item, part), np.float64)
        for name, item in found.distances.items()
        for part in ("nearest", "other", "apart")
    }
    arrays["detail"] = np.ascontiguousarray(found.detail, np.float64)
    with storage.writing(calibration_name(fingerprint)) as path:
        save_file(arrays, path, metadata={"calibration": json.dumps(header, sort_keys=True)})


def read_calibration(storage: Storage, fingerprint: str) -> Calibration:
    """Stored usual distances. Raises NotBuiltError when they are not there."""
    name = calibration_name(fingerprint)
    if not storage.exists(name):
        raise NotBuiltError(f"{storage.uri(name)} is not there: run `latent-assets build`.")
    data = storage.read_bytes(name)
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["calibration"])
    arrays = load(data)
    distances = {
        name: Distances(
            item["metric"], item["radius"], *(arrays[f"{name}.{part}"] for part in ("nearest", "other", "apart"))
        )
        for name, item in header.items()
    }
    return Calibration(distances, arrays["detail"])
