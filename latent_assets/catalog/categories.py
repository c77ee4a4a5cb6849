"""Categories out of nested folders: names by which a map of them can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

MOST_CATEGORIES = 12  # so many colours can be told apart


def folder_categories(names: Iterable[str]) -> Callable[[str], str | None]:
    """The category of an image by its name below the source: the folders it lies in, cut to one depth for all.

    That is the deepest at which there are at most MOST_CATEGORIES; the first where even that has more (a folder for
    each class). None for an image that lies in no folder.
    """
    folders = {PurePosixPath(name).parent.parts for name in names}
    depth = max((len(parts) for parts in folders), default=0)
    while depth > 1 and len({parts[:depth] for parts in folders if parts}) > MOST_CATEGORIES:
        depth -= 1

    def category(name: str) -> str | None:
        return "/".join(PurePosixPath(name).parent.parts[:depth]) or None

    return category
