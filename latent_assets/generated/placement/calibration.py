"""What is usual between real images of a release, so that "close" and "far" can be said of a generated one.

generated/calibration/{fingerprint}.safetensors
  {space}.nearest float64 [h], {space}.other float64 [h], detail float64 [h], correlation float64 [h]: the held-out
  images in one order; {space}.apart float64 [m], sorted; header `calibration`: JSON

The rows that the fit held out (`projection.rows.hold_out`) are real images that the maps have never seen, as a new one
is. How far they are from the fitted rows is the null distribution that a new image is held against (split conformal
prediction: Vovk et al. 2005; for outliers Bates et al., arXiv:2104.08279).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save_file

from latent_assets.errors import NotBuiltError
from latent_assets.layout import calibration_name

if TYPE_CHECKING:
    from latent_assets.storage import Storage

LEVEL = 0.05


def least_held_out(spaces: int) -> int:
    """How many images have to be held out so that an image can be called far at the level of 5 %.

    A conformal p-value is at least 1 / (rows + 1); in each space, and on both sides of the detail, one held-out image
    is the strangest, and may be as strange as the new one.
    """
    return math.ceil((spaces + 2) / LEVEL) - 1


@dataclass(frozen=True)
class Distances:
    """Usual distances of one space.

    nearest: of each held-out image to the nearest fitted one. other: to the nearest row of the release, fitted or not,
        that is no near-duplicate of it.
    apart: of fitted images to the nearest other fitted one that is no near-duplicate of them, sorted.
    """

    nearest: np.ndarray
    other: np.ndarray
    apart: np.ndarray

    def percentile(self, distance: float) -> float | None:
        """Per cent of held-out images that are nearer to their nearest fitted image than this."""
        return _percentile(self.nearest, distance)

    def group_percentile(self, distance: float) -> float | None:
        """Per cent of fitted images whose nearest image of another group is nearer than this."""
        return _percentile(self.apart, distance)


@dataclass(frozen=True)
class Calibration:
    """What is usual in a release; empty for one whose fit held nothing out.

    radii: by embedding; two images that are this near in every embedding are taken for near-duplicates: 95 % of copies
        that were saved as poor JPEGs, made smaller or slightly cropped stay this near to their original in all.
    alike: correlation of pixels from which two pictures are near-duplicates too: 95 % of copies that were cropped
        correlate as well with their original, and so do 95 % of those that were made smaller, saved as poor JPEGs,
        mirrored, turned or framed.
    distances: by space. detail: `correlation.Picture.detail` of each held-out image; correlation: of its pixels with
    those of the best of its neighbours that are no near-duplicates. Held-out images are in one order everywhere.
    """

    radii: Mapping[str, float]
    alike: float
    distances: Mapping[str, Distances]
    detail: np.ndarray
    correlation: np.ndarray

    @cached_property
    def version(self) -> str:
        """Hash of all values: 32 hexadecimal digits."""
        return _version(_header(self), _arrays(self))

    def p_value(self, distances: Mapping[str, float], detail: float) -> float | None:
        """Conformal p-value that a real image is as far from all others in any of the spaces of `distances` (of the
        image to the nearest fitted one), or has so little or so much detail: small for what belongs nowhere.

        Of real images like those of the atlas at most a share p has a value of p or less, whatever the distances look
        like: an image's strangeness is its best rank over all questions, among the held-out images and itself, and
        that is ranked again. None where too few images were held out to call any image far.
        """
        far = [(self.distances[space].nearest, value) for space, value in distances.items()]
        return self._strange([*far, (self.detail, detail), (-self.detail, -detail)], len(distances))

    def chance(self, distances: Mapping[str, float], correlation: float) -> float | None:
        """Conformal p-value that a real image is as near, in any of the spaces of `distances` (to the nearest row of
        the release), to one that is no near-duplicate of it, or correlates as well with it: small for a copy. None as
        in `p_value`."""
        close = [(-self.distances[space].other, -value) for space, value in distances.items()]
        return self._strange([*close, (self.correlation, correlation)], len(distances))

    def _strange(self, questions: Sequence[tuple[np.ndarray, float]], spaces: int) -> float | None:
        """Of held-out images and one more, with its value beside theirs for each question, the share that is as
        strange as that one: its largest value among all."""
        if len(self.detail) < least_held_out(spaces):
            return None
        columns = [np.append(usual, value) for usual, value in questions]
        strangeness = np.min([len(column) - np.searchsorted(np.sort(column), column) for column in columns], axis=0)
        return float((strangeness <= strangeness[-1]).mean())


NOT_CALIBRATED = Calibration({}, 1.0, {}, np.zeros(0), np.zeros(0))


def _percentile(values: np.ndarray, distance: float) -> float | None:
    return 100.0 * float((values < distance).mean()) if len(values) else None


def write_calibration(storage: Storage, fingerprint: str, found: Calibration) -> None:
    """Store usual distances, atomically."""
    header = json.dumps({"version": found.version, **_header(found)}, sort_keys=True)
    with storage.writing(calibration_name(fingerprint)) as path:
        save_file(_arrays(found), path, metadata={"calibration": header})


def read_calibration(storage: Storage, fingerprint: str) -> Calibration:
    """Stored usual distances. Raises NotBuiltError when they are not there."""
    data = storage.read_bytes(_there(storage, fingerprint))
    header = _parsed(data[8 : 8 + int.from_bytes(data[:8], "little")])
    arrays = load(data)
    distances = {name: Distances(*(arrays[f"{name}.{part}"] for part in _PARTS)) for name in header["spaces"]}
    return Calibration(header["radii"], header["alike"], distances, arrays["detail"], arrays["correlation"])


def calibration_version(storage: Storage, fingerprint: str) -> str | None:
    """The version of stored usual distances, without reading them; None when they are not there."""
    name = calibration_name(fingerprint)
    if not storage.exists(name):
        return None
    with storage.open(name) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return str(_parsed(file.read(length))["version"])


_PARTS = ("nearest", "other", "apart")


def _there(storage: Storage, fingerprint: str) -> str:
    name = calibration_name(fingerprint)
    if not storage.exists(name):
        raise NotBuiltError(f"{storage.uri(name)} is not there: run `latent-assets build`.")
    return name


def _parsed(header: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["calibration"])
    return found


def _header(found: Calibration) -> dict[str, Any]:
    return {"radii": dict(found.radii), "alike": found.alike, "spaces": list(found.distances)}


def _arrays(found: Calibration) -> dict[str, np.ndarray]:
    arrays = {f"{name}.{part}": getattr(item, part) for name, item in found.distances.items() for part in _PARTS}
    arrays |= {"detail": found.detail, "correlation": found.correlation}
    return {name: np.ascontiguousarray(values, np.float64) for name, values in arrays.items()}


def _version(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()[:32]
