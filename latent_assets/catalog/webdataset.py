"""Tars of images (WebDataset layout, as img2dataset writes them) as a source: each image member a row.

A row's `path` says where its image lies in which tar; reading it is the business of `fetch`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import polars as pl

from latent_assets.catalog.sidecars import catalog_frame, catalog_values, file_hash, read_json, read_text
from latent_assets.catalog.source import IMAGE_SUFFIXES, SourceFile, open_source
from latent_assets.errors import SourceError

if TYPE_CHECKING:
    from latent_assets.profile import Source

_MEMBER = re.compile(r"(?P<tar>.*)::(?P<name>.*)::(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)
_LONGEST_SIDECAR = 4_000_000
_BATCH = 10_000


@dataclass(frozen=True)
class Member:
    """A file inside a tar: offset and size of its content in bytes."""

    tar: str
    name: str
    offset: int
    size: int

    def path(self) -> str:
        """As it stands in the catalog's `path`."""
        return f"{self.tar}::{self.name}::{self.offset}+{self.size}"


def parse_member(path: str) -> Member | None:
    """The member a catalog `path` means, or None when it is a plain file."""
    match = _MEMBER.fullmatch(path)
    return match and Member(match["tar"], match["name"], int(match["offset"]), int(match["size"]))


def webdataset_rows(source: Source, files: list[SourceFile]) -> Iterator[pl.DataFrame]:
    """One row per image in the tars `files`, in batches of CATALOG_SCHEMA. Raises SourceError for a broken tar."""
    for file in files:
        rows: list[dict[str, Any]] = []
        for row in _tar_rows(source, file):
            rows.append(row)
            if len(rows) == _BATCH:
                yield catalog_frame(rows)
                rows = []
        if rows:
            yield catalog_frame(rows)


def _tar_rows(source: Source, file: SourceFile) -> Iterator[dict[str, Any]]:
    """Members that share a key (the name up to the first dot of its last part) stand together and make one row."""
    key, group, seen = "", _Group(), 0
    try:
        with open_source(file) as stream, tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
            for info in tar:
                if not info.isreg():
                    continue
                if 0 <= file.bytes < info.offset_data + info.size:
                    raise tarfile.ReadError(f"it ends within {info.name}")
                seen += 1
                folder, _, base = info.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if (this := f"{folder}/{stem}") != key:
                    if group.image is not None:
                        yield group.row(source, file)
                    key, group = this, _Group()
                group.take(file, info, extension.lower(), tar)
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
            if group.image is not None:
                yield group.row(source, file)
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("a damaged header")
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(
            f"{file.path} is no whole tar ({seen} whole files, then {error}): write it again or take it out of "
            "`source.path`."
        ) from error


class _Group:
    """The members of one key: an image and what stands beside it."""

    def __init__(self) -> None:
        self.image: Member | None = None
        self._values: dict[str, bytes] = {}

    def take(self, file: SourceFile, info: tarfile.TarInfo, extension: str, tar: tarfile.TarFile) -> None:
        if f".{extension}".endswith(IMAGE_SUFFIXES) and self.image is None:
            self.image = Member(file.name, info.name, info.offset_data, info.size)
        elif extension in ("json", "txt", "cls") and info.size <= _LONGEST_SIDECAR:
            content = tar.extractfile(info)
            self._values[extension] = content.read() if content else b""

    def row(self, source: Source, file: SourceFile) -> dict[str, Any]:
        assert self.image is not None
        name = f"{self.image.tar}/{self.image.name}"
        values: dict[str, Any] = {"url": name}
        if "cls" in self._values:
            values["category"] = read_text(self._values["cls"])
        if "txt" in self._values:
            values["caption"] = read_text(self._values["txt"])
        if "json" in self._values:
            values |= catalog_values(source, read_json(self._values["json"], f"{file.path}: {self.image.name}"))
        return {
            **values,
            "name": name,
            "path": self.image.path(),
            "source_hash": file_hash(file.bytes, file.mark),
        }
