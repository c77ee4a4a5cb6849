"""Bytes of images that are already here: files of a folder, members of tars.

Links are the business of `download`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latent_assets.catalog.names import name_of_path
from latent_assets.catalog.source import read_range
from latent_assets.catalog.webdataset import parse_member
from latent_assets.images.outcome import FetchError, Reason
from latent_assets.limits import shortage

if TYPE_CHECKING:
    from latent_assets.profile import Fetch


def read_file(base: str, path: str, settings: Fetch) -> bytes:
    """The bytes of an image by the catalog's `path`, which is relative to `base`.

    Raises FetchError, and ResourceError for a fault of this side.
    """
    member = parse_member(path)
    place = f"{base}/{name_of_path(member.tar if member else path)}"
    try:
        if member is None:
            data = read_range(place, 0, settings.max_bytes + 1)
        elif member.size > settings.max_bytes:
            raise FetchError(Reason.TOO_MANY_BYTES, f"{member.size} bytes, the limit is {settings.max_bytes}")
        else:
            data = read_range(place, member.offset, member.size)
    except FileNotFoundError as error:
        raise FetchError(Reason.FILE_MISSING, "the file is not there any more") from error
    except FetchError:
        raise
    except Exception as error:  # remote filesystems raise what they like
        if (fault := shortage(error, connecting=True)) is not None:
            raise fault from error
        raise FetchError(Reason.FILE_UNREADABLE, f"{type(error).__name__}: {error}") from error
    if member is not None and len(data) < member.size:
        raise FetchError(Reason.INCOMPLETE, f"{member.tar} ends within {member.name}")
    if len(data) > settings.max_bytes:
        raise FetchError(Reason.TOO_MANY_BYTES, f"more than {settings.max_bytes} bytes")
    return data
