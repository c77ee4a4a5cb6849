"""A cheap look at a stored file: is it there, is it as long as it was, is it whole at both ends.

Reading it through is the business of the rooms, which know what should be in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from latent_assets.errors import StorageError
from latent_assets.storage import Storage

# bytes that a file of the format begins and ends with
_MARKS = {
    ".parquet": (b"PAR1", b"PAR1"),
    ".arrow": (b"ARROW1", b"ARROW1"),
    ".tar": (b"", bytes(1024)),
    ".lance": (b"", b"LANC"),
}


def first_problem(storage: Storage, files: Mapping[str, int], sizes: Mapping[str, int | None]) -> str:
    """What is wrong with the first of `files` (bytes written, by name) that is not as it was; "" when all are.

    `sizes`: their bytes now, as `Storage.sizes` tells them.
    """
    problems = (_file_problem(storage, name, written, sizes[name]) for name, written in files.items())
    return next((problem for problem in problems if problem), "")


def _file_problem(storage: Storage, name: str, expected: int, found: int | None) -> str:
    """What is wrong with a stored file of `expected` bytes that now has `found` (None: it is not there); "" if nothing.

    From S3, where an object is complete or not there, the ends are not read.
    """
    if found is None:
        return f"{name} is gone"
    if found != expected:
        return f"{name} has {found} bytes, {expected} were written"
    head, tail = _MARKS.get(name[name.rfind(".") :], (b"", b""))
    if storage.is_local and (head or tail) and found >= len(head) + len(tail):
        try:
            with storage.open(name) as file:
                begins = file.read(len(head))
                file.seek(found - len(tail))
                ends = file.read(len(tail))
        except StorageError as error:
            return str(error)
        if (begins, ends) != (head, tail):
            return f"{name} is damaged: it does not {'begin' if begins != head else 'end'} as such a file does"
    return ""
