"""Errors a person can act on.

Only the types live here; the text, which names the thing and the remedy, is written where it happens.
"""

from collections.abc import Mapping


class LatentAssetsError(Exception):
    """Base of every error that is shown as one clear paragraph, without a traceback."""

    exit_code = 1


class ProfileError(LatentAssetsError):
    """A profile that cannot be built: names the file, the key and the remedy."""

    exit_code = 2


class QueryError(LatentAssetsError, ValueError):
    """A question that cannot be answered: an empty text, a malformed id, a picture that is none."""

    exit_code = 2


class SourceError(LatentAssetsError):
    """Metadata or files that cannot be read as the profile says."""

    exit_code = 3


class StorageError(LatentAssetsError):
    """A root that cannot be read or written (read-only, full, wrong credentials)."""

    exit_code = 4


class ModelError(LatentAssetsError):
    """A model that cannot be found or loaded, or whose weights do not fit its configuration."""

    exit_code = 5


class NotBuiltError(LatentAssetsError):
    """Something was asked of an atlas, a stage or a row that is not there."""

    exit_code = 6


class DataError(LatentAssetsError):
    """Data that must not travel further. `problems`: name of each failed check and what it found."""

    exit_code = 7

    def __init__(self, message: str, problems: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})


class ResourceError(LatentAssetsError):
    """A limit of this machine, not of what was being made: open files, memory, ports, threads, the name server.

    `resource` names which (see `limits`).
    """

    exit_code = 8

    def __init__(self, message: str, resource: str = "") -> None:
        super().__init__(message)
        self.resource = resource


class UnfitModelsWarning(UserWarning):
    """The atlas that is searched was made with models that do not know images like its own."""
