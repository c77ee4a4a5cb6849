"""From the inbox to kept originals: what a power cut would take is not taken out of the inbox."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from latent_assets.generated import inbox, intake
from latent_assets.layout import INBOX, ORIGINALS
from latent_assets.profile import Profile
from latent_assets.storage import Storage
from latent_assets_tests.conftest import drawing
from latent_assets_tests.power import Disk, disk

__all__ = ["disk"]


def test_an_original_is_on_the_disk_before_its_file_leaves_the_inbox(
    small_profile: Callable[..., Profile], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = small_profile()
    storage, root = Storage(profile.root), Path(profile.root)
    (root / INBOX).mkdir(parents=True)
    for seed in range(3):
        (root / INBOX / f"{seed}.png").write_bytes(drawing(seed))
    remove, left = inbox.remove, []

    def watched(storage: Storage, drop: inbox.Dropped) -> None:
        left.append([name for name in disk.lost(root) if not name.startswith(INBOX)])
        remove(storage, drop)

    monkeypatch.setattr(inbox, "remove", watched)
    monkeypatch.setattr(inbox, "_SETTLES", 0.0)
    taken = intake.take_in(profile, storage, inbox.ready(storage))
    assert taken.new == 3 and left == [[], [], []]
    disk.cut(root)
    assert {file.name for file in storage.files(ORIGINALS)} and all(file.size for file in storage.files(ORIGINALS))
