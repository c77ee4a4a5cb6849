"""How many pixels are decoded: limits per image, and turns for huge ones."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from latent_assets.images.outcome import FetchError, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

_LARGE_PIXELS = 20_000_000
_turn: AbstractContextManager[object] = threading.Lock()


def check_pixels(width: int, height: int, frames: int, settings: Fetch) -> None:
    """Raises FetchError for more pixels than the profile allows, or four times that in all frames together."""
    if width * height > settings.max_pixels:
        raise FetchError(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {settings.max_pixels} in all"
        )
    if width * height * frames > 4 * settings.max_pixels:
        raise FetchError(Reason.ANIMATION_TOO_LARGE, f"{frames} frames of {width} x {height} pixels")


def take_turns(turn: AbstractContextManager[object]) -> None:
    """Decode huge images in `turn` only: never two at once, in this process and others. Without, in this one."""
    global _turn
    _turn = turn


def decoding(width: int, height: int) -> AbstractContextManager[object]:
    """The context to decode an image of that size in."""
    return _turn if width * height > _LARGE_PIXELS else nullcontext()
