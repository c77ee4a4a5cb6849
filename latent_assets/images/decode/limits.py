"""How many pixels are decoded: limits per image, and a lock for huge ones.

Decoding itself is in `pixels`.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from latent_assets.images.outcome import FetchError, Reason

if TYPE_CHECKING:
    from latent_assets.profile import Fetch

_LARGE_PIXELS = 20_000_000
_decode_lock: AbstractContextManager[object] = threading.Lock()


def check_pixels(width: int, height: int, frames: int, settings: Fetch) -> None:
    """Raises FetchError for more pixels than the profile allows, or four times that in all frames together."""
    if width * height > settings.max_pixels:
        raise FetchError(
            Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, the limit is {settings.max_pixels} in all"
        )
    if width * height * frames > 4 * settings.max_pixels:
        raise FetchError(Reason.ANIMATION_TOO_LARGE, f"{frames} frames of {width} x {height} pixels")


def use_decode_lock(lock: AbstractContextManager[object]) -> None:
    """Hold `lock` while decoding a huge image: never two at once, in this process and others. Without, in this one."""
    global _decode_lock
    _decode_lock = lock


def decoding(width: int, height: int) -> AbstractContextManager[object]:
    """The context to decode an image of that size in."""
    return _decode_lock if width * height > _LARGE_PIXELS else nullcontext()
