"""Names of files as texts. A file system's names are bytes, and the catalog's columns are UTF-8.

Python reads bytes that are no UTF-8 as lone surrogates (PEP 383), which no column can hold.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

_SURROGATE = re.compile("[\ud800-\udfff]")
_ENCODED = "//"  # no name below a directory begins with it


def whole(text: str) -> str:
    """A text that has an encoding: bytes that were no UTF-8, and halves of pairs, are U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def is_whole(text: str) -> bool:
    """Whether a text has an encoding as it is."""
    return _SURROGATE.search(text) is None


def path_of_name(name: str) -> str:
    """A name as it stands in the catalog's `path`: itself, or percent-encoded behind `//` when it is no UTF-8."""
    return name if is_whole(name) else _ENCODED + quote(os.fsencode(name))


def name_of_path(path: str) -> str:
    """The name that a catalog `path` means, as the file system takes it."""
    return os.fsdecode(unquote_to_bytes(path.removeprefix(_ENCODED))) if path.startswith(_ENCODED) else path
