"""Whether a model on this machine does what it should, on built-in pictures (`pictures`).

Of weights that are known here the vectors are recorded: `known.json` has, by digest of the weights, the inner products
of the first pictures' vectors, which no other model and no wrong preprocessing gives.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from latent_assets.models.pictures import pictures
from latent_assets.models.precision import BARS, arithmetic
from latent_assets.models.trying import embedded
from latent_assets.spaces import resolve

if TYPE_CHECKING:
    from latent_assets.spaces import Embedding

_PICTURES = 8
_CLOSE = 0.002  # of the largest inner product; bfloat16 stays well below it


@dataclass(frozen=True)
class ModelCheck:
    """What was found: the model's name and digest, how it computes, whether its vectors are known, and what is wrong
    with them, "" for nothing. difference: from the recorded ones, relative; None for unknown weights."""

    name: str
    digest: str
    arithmetic: str
    known: bool
    difference: float | None
    problem: str

    def __str__(self) -> str:
        known = "vectors as recorded" if self.known else "weights that are not known here: values are finite and differ"
        return f"{self.name} {self.digest}, {self.arithmetic}: {self.problem or known}"


def check_model(row: Embedding, spec: Any) -> ModelCheck:
    """Embed the first built-in pictures with a model and judge the vectors. Raises ModelError where it cannot."""
    found = resolve(row.files)(spec)
    products = inner_products(row, spec)
    recorded = known().get(found.digest)
    difference, problem = None, ""
    if not np.isfinite(products).all():
        problem = 'values are not finite: set dtype = "float32" in its table of the profile'
    elif np.ptp(products) <= 1e-6 * np.abs(products).max():
        problem = "all pictures have the same vector: these are not the weights of this architecture"
    elif recorded is not None:
        expected = np.array(recorded)
        difference = round(float(np.abs(products - expected).max() / np.abs(expected).max()), 7)
        if difference > _CLOSE:
            problem = f"vectors differ from the recorded ones by {difference:.1%}: a library here computes others"
    said = str(arithmetic(row.name, spec)) if hasattr(spec, "dtype") else ""
    return ModelCheck(found.name, found.digest, said, recorded is not None, difference, problem)


def inner_products(row: Embedding, spec: Any) -> np.ndarray:
    """float64 [8, 8]: inner products of the vectors of the first pictures."""
    column = BARS[row.name].column if row.name in BARS else row.features[0]
    vectors = embedded(resolve(row.load)(spec), list(pictures(_PICTURES)))[column].astype(np.float64)
    found: np.ndarray = vectors @ vectors.T
    return found


def known() -> dict[str, Any]:
    """What was recorded, by digest."""
    text = (files("latent_assets.models") / "known.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
