"""Files below a local directory, whatever lies there: links, loops, pipes, directories that cannot be read.

Nothing is opened here. Which of the files are a source's is decided in `source`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from latent_assets.layout import OWNER

HIDDEN = "hidden"
LINKED_AGAIN = "link_to_a_directory_that_is_read_already"
BROKEN_LINK = "broken_link"
NO_FILE = "pipe_socket_or_device"
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class LocalFile:
    """A regular file: its path, its name below the base (`/` between parts), bytes, and when it was changed."""

    path: str
    name: str
    bytes: int
    modified: float


@dataclass
class Walk:
    """What is below a directory.

    `unreadable` says of directories (names below the base) why they could not be read; `left_out` counts by reason
    what is no file to be read; `roots` are directories that hold atlases.
    """

    files: list[LocalFile] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    roots: list[str] = field(default_factory=list)


def split_pattern(path: str) -> tuple[str, str]:
    """(directory that names start at, pattern below it) of a local path; no pattern when the path exists.

    Parts of the path that exist are taken as they are written: only behind them is `[x]` a pattern.
    """
    if os.path.lexists(path) or not _GLOB.search(path):
        return path, ""
    base, parts = ("/" if path.startswith("/") else ""), [part for part in path.split("/") if part]
    while parts and (not _GLOB.search(parts[0]) or os.path.lexists(f"{base}{parts[0]}")):
        base += f"{parts.pop(0)}/"
    return base.rstrip("/") or ("/" if base else "."), "/".join(parts)


def walk(base: str, pattern: str = "", root: str | None = None) -> Walk:
    """The files below the directory `base`, those that match `pattern` when there is one.

    Names that begin with a dot are left out. A directory is read once, however many links lead to it, under its own
    name when that is below `base`. `root` and other directories that hold an atlas (they have an OWNER) are left
    out. Raises OSError when `base` itself cannot be read.
    """
    return _Walker(base, pattern, root).walk()


class _Walker:
    def __init__(self, base: str, pattern: str, root: str | None) -> None:
        self._base = base
        self._parts = pattern.split("/") if pattern else []
        self._matches = _matcher(self._parts)
        self._depth = None if not self._parts or "**" in self._parts else len(self._parts)
        self._root = _identity(root) if root else None
        self._found = Walk()
        self._seen: set[tuple[int, int]] = set()
        self._links: list[tuple[str, str]] = []

    def walk(self) -> Walk:
        self._seen.add(_identified(Path(self._base).stat()))
        with os.scandir(self._base):
            pass  # raises what the caller has to know
        self._below(self._base, "")
        # links last: what they lead to is read under its own name where it has one here
        while self._links:
            links, self._links = sorted(self._links), []
            for path, name in links:
                self._directory(path, name, linked=True)
        lost = self._found.unreadable
        files = (file for file in self._found.files if not lost or not below(file.name, lost))
        self._found.files = sorted(files, key=lambda file: file.name)
        return self._found

    def _directory(self, path: str, name: str, linked: bool = False) -> None:
        try:
            identity = _identified(Path(path).stat())
        except OSError as error:
            self._found.unreadable[name] = error.strerror or str(error)
            return
        if identity == self._root:
            self._found.roots.append(name)
        elif identity in self._seen:
            if linked:
                self._found.left_out[LINKED_AGAIN] += 1
        else:
            self._seen.add(identity)
            self._below(path, name)

    def _below(self, top: str, top_name: str) -> None:
        """Everything below a directory but what links lead to. A stack, not recursion: trees may be deep."""
        stack = [(top, top_name)]
        while stack:
            folder, prefix = stack.pop()
            entries = self._entries(folder, prefix)
            if prefix and any(entry.name == OWNER for entry in entries):
                self._found.roots.append(prefix)
                continue
            for entry in entries:
                name = f"{prefix}/{entry.name}" if prefix else entry.name
                if self._depth is not None and name.count("/") >= self._depth:
                    continue
                try:
                    if (folder_below := self._entry(entry, name)) is not None:
                        stack.append((folder_below, name))
                except OSError as error:  # a directory that may be listed and no more
                    self._found.unreadable[prefix] = error.strerror or str(error)

    def _entries(self, folder: str, name: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []  # gone since it was listed
        except OSError as error:
            self._found.unreadable[name] = error.strerror or str(error)
            return []

    def _entry(self, entry: os.DirEntry[str], name: str) -> str | None:
        """Take an entry of a directory; its path when it is a directory whose entries are to be taken now."""
        if entry.name.startswith("."):
            self._found.left_out[HIDDEN] += 1
            return None
        linked = entry.is_symlink()
        try:
            facts = entry.stat()
        except OSError as error:
            if linked and not isinstance(error, PermissionError):
                self._found.left_out[BROKEN_LINK] += 1  # to nowhere, or in a circle
                return None
            if isinstance(error, FileNotFoundError):
                return None
            raise
        if stat.S_ISDIR(facts.st_mode):
            return self._folder(entry.path, name, facts, linked)
        if not self._matches(name):
            return None
        if stat.S_ISREG(facts.st_mode):
            self._found.files.append(LocalFile(entry.path, name, facts.st_size, facts.st_mtime))
        else:
            self._found.left_out[NO_FILE] += 1
        return None

    def _folder(self, path: str, name: str, facts: os.stat_result, linked: bool) -> str | None:
        if self._depth is not None and not self._may_hold(name):
            return None
        if linked:
            self._links.append((path, name))
        elif _identified(facts) == self._root:
            self._found.roots.append(name)
        elif _identified(facts) not in self._seen:  # mounted twice
            self._seen.add(_identified(facts))
            return path
        return None

    def _may_hold(self, name: str) -> bool:
        """Whether something below a directory can match the pattern."""
        parts = name.split("/")
        return len(parts) < len(self._parts) and all(
            fnmatch.fnmatchcase(part, pattern) for part, pattern in zip(parts, self._parts, strict=False)
        )


def _matcher(parts: list[str]) -> Callable[[str], bool]:
    """Whether a name matches a pattern, part by part; `**` stands for any number of directories."""
    if not parts:
        return lambda name: True
    expressions = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            expressions.append(".*" if last else "(?:[^/]+/)*")
        else:
            expressions.append(_expression(part) + ("" if last else "/"))
    found = re.compile("".join(expressions), re.DOTALL)
    return lambda name: found.fullmatch(name) is not None


def _expression(part: str) -> str:
    """One part of a pattern as a regular expression; `fnmatch` would let `*` stand for a slash, too."""

    def piece(match: re.Match[str]) -> str:
        text = match[0]
        if text in ("*", "?"):
            return {"*": "[^/]*", "?": "[^/]"}[text]
        if len(text) > 1:
            inner = text[1:-1].replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
            return f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
        return re.escape(text)

    return re.sub(r"\*|\?|\[!?\]?[^\]]*\]|.", piece, part, flags=re.DOTALL)


def below(name: str, folders: Collection[str]) -> bool:
    """Whether a file is below one of the directories ("" is the base itself)."""
    above = name.rpartition("/")[0]
    while True:
        if above in folders:
            return True
        if not above:
            return False
        above = above.rpartition("/")[0]


def _identified(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _identity(path: str) -> tuple[int, int] | None:
    try:
        return _identified(Path(path).stat())
    except OSError:
        return None
