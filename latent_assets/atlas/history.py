"""The history of an atlas: its releases as they are now, and every move of the tag `live`: from, to, when and by whom.

    releases/{number}.json      one move; the numbers say their order

A move is noted before the tag moves, and of several processes that want to make the same move one can note it: that is
how two publishers never overwrite each other. What a move needs is decided in `release`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from latent_assets.atlas.card import ReleaseInfo, who
from latent_assets.atlas.table import LIVE, open_table, release_tag, table_exists, tags
from latent_assets.errors import DataError, NotBuiltError
from latent_assets.layout import RELEASES, move_name
from latent_assets.processes import Process, this_process

if TYPE_CHECKING:
    from latent_assets.storage import Storage

Action = Literal["publish", "rollback", "takedown", "recover"]

# a process that noted a move and has not made it after so long was killed between
_MAKES_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True)
class Move:
    """One move of the tag `live` to `version` from `before` (None: there was no release). `when`: ISO 8601, UTC.

    `recover`: the table had lost files; `version` is None when no release was left.
    `process`: the process that made it, as `str` of a `Process`.
    """

    number: int
    action: Action
    version: int | None
    before: int | None
    who: str
    when: str
    process: str

    @property
    def under_way(self) -> bool:
        """Whether the process that noted it may not have moved the tag yet."""
        process = Process.parse(self.process)
        return not (process and process.has_ended()) and datetime.now(UTC) - self.at < _MAKES_WITHIN

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.when)


@dataclass(frozen=True)
class ReleaseSummary:
    """A release that can be opened: by `tag` for ever, by `live` while it is that. `info`: what it says of itself."""

    version: int
    tag: str
    live: bool
    info: ReleaseInfo

    @property
    def published(self) -> str:
        """When it was put together, ISO 8601, UTC."""
        return self.info.created


def moves(storage: Storage) -> list[Move]:
    """All moves that were noted, the oldest first."""
    read = (_read(storage, name) for name in storage.list(RELEASES, ".json"))
    return [move for move in read if move is not None]


def last_move(storage: Storage) -> Move | None:
    """The move that was noted last; None before the first."""
    return _newest(storage)[1]


def _newest(storage: Storage) -> tuple[int, Move | None]:
    """The number of the newest note, 0 before the first, and the newest one that can be read."""
    names = storage.list(RELEASES, ".json")
    move = next((move for name in reversed(names) if (move := _read(storage, name)) is not None), None)
    return int(names[-1].removesuffix(".json")) if names else 0, move


def _read(storage: Storage, name: str) -> Move | None:
    """A note; None for one whose bytes were lost, by a power cut say."""
    try:
        return Move(**storage.read_json(f"{RELEASES}/{name}"))
    except (ValueError, TypeError):
        return None


def note_recovery(storage: Storage, version: int | None) -> Move:
    """Note that `live`, whatever it was, names `version` now, because the table had lost files.

    For whoever holds the claim on the table: nobody else moves the tag meanwhile. Raises DataError when somebody did.
    """
    number, last = _newest(storage)
    return _store(storage, number + 1, "recover", version, last.version if last is not None else None)


def note_move(storage: Storage, action: Action, version: int, expected: int | None) -> Move:
    """Note that `live` moves from `expected` to `version`: the one process whose note is stored may move the tag.

    Raises DataError naming whoever was first when `live` is not, or will not be, what was expected.
    """
    number, last = _newest(storage)
    if last is not None and last.version != expected and last.under_way:
        raise _outrun(last, expected)
    live = tags(storage.lance_uri).get(LIVE)
    if live != expected:
        if last is not None and last.version == live:
            raise _outrun(last, expected)
        raise DataError(f"`live` is version {live} now, not {expected}: look at `latent-assets releases list` again.")
    return _store(storage, number + 1, action, version, expected)


def _store(storage: Storage, number: int, action: Action, version: int | None, expected: int | None) -> Move:
    """Store the note with a number: of two that saw the same notes before, one can."""
    when = datetime.now(UTC).isoformat(timespec="microseconds")
    move = Move(number, action, version, expected, who(), when, str(this_process()))
    if not storage.create(move_name(number), json.dumps(asdict(move), indent=1).encode()):
        winner = last_move(storage)
        assert winner is not None
        raise _outrun(winner, expected)
    storage.flush([move_name(number)])
    return move


def _outrun(winner: Move, expected: int | None) -> DataError:
    there = "there was no release" if expected is None else f"`live` was version {expected}"
    return DataError(
        f"Nothing is published: when this began {there}, and meanwhile {winner.who} moved it to version "
        f"{winner.version} ({winner.action}, {winner.when[:19]} UTC). Build again, or look at `latent-assets releases "
        "list`."
    )


def superseded(storage: Storage) -> Mapping[int, datetime]:
    """When each version ceased to be `live`, the last time; versions that never were are not in it."""
    return {move.before: move.at for move in moves(storage) if move.before is not None}


def releases(lance_uri: str) -> list[ReleaseSummary]:
    """The releases that are there, the newest first. Raises NotBuiltError when there is no table."""
    if not table_exists(lance_uri):
        raise NotBuiltError(f"{lance_uri} has no atlas table yet. Run `latent-assets build`.")
    named = tags(lance_uri)
    found = []
    for tag, version in sorted(named.items(), key=lambda item: -item[1]):
        if tag == release_tag(version):
            schema = open_table(lance_uri, version).schema
            found.append(ReleaseSummary(version, tag, named.get(LIVE) == version, ReleaseInfo.of_schema(schema, tag)))
    return found


def find_release(lance_uri: str, name: str) -> ReleaseSummary:
    """The release that is meant by `live`, a tag (`release-00007`), or a version's number.

    Raises NotBuiltError naming those that there are.
    """
    found = releases(lance_uri)
    for release in found:
        if name in (release.tag, str(release.version)) or (name == LIVE and release.live):
            return release
    raise NotBuiltError(f"There is no release {name}. There are: {_listed(found)}.")


def release_before(lance_uri: str) -> ReleaseSummary:
    """The newest release that is older than `live`: where a rollback goes. Raises NotBuiltError without one."""
    found = releases(lance_uri)
    live = next((release.version for release in found if release.live), None)
    older = [release for release in found if live is not None and release.version < live]
    if not older:
        raise NotBuiltError(f"There is no release before `live` to go back to. There are: {_listed(found)}.")
    return older[0]


def _listed(found: Sequence[ReleaseSummary]) -> str:
    return ", ".join(f"{release.tag}{' (live)' if release.live else ''}" for release in found) or "none"
