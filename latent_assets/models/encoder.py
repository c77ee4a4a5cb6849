"""What every encoder of images can do. Which embeddings there are is said in `spaces`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image


LARGE = 20_000_000  # parameters, from which on one image, or a few, keep a CPU as busy as many do
SMALL_BATCH = 16  # images that smaller models encode at once on a CPU


class Encoder(Protocol):
    """A loaded model that makes one embedding. It may say in `cpu_batch` how many images a CPU encodes at once (else
    `SMALL_BATCH`).

    Its methods are called from several threads. A row's result must not depend on what the other rows of its batch
    are, nor on its place among them.
    """

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its weights."""
        ...

    @property
    def columns(self) -> Mapping[str, int]:
        """Width of each column that `encode` gives: the row's `features` and, when it has one, its `whole`."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What a reader of the files must know of the columns, for example the shape of a flattened one."""
        ...

    def pixels(self, image: Image.Image) -> np.ndarray:
        """What the model is shown of an RGB image: uint8, of the same shape for every image."""
        ...

    def encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 [n, *shape of `pixels`] to float [n, width] for each of `columns`, on the model's device."""
        ...
