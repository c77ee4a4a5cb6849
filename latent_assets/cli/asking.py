"""Commands that ask what is there: `search` and `neighbors`, `info` and `schema`."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import CountOption, JsonOption, ProfileOption, selected_profile
from latent_assets.cli.report import print_labelled
from latent_assets.errors import NotBuiltError, QueryError, UnfitModelsWarning

if TYPE_CHECKING:
    from latent_assets.client import Atlas, Hit, Mode
    from latent_assets.service.remote import RemoteAtlas

T = TypeVar("T")


_KEY = 20  # columns of a name


def open_atlas(profile: str | None) -> Atlas:
    """The release `live` of the chosen profile. Raises NotBuiltError with the remedy."""
    from latent_assets.client import Atlas
    from latent_assets.storage import Storage

    chosen = selected_profile(profile)
    try:
        return Atlas.open(Storage(chosen.root).lance_uri)
    except NotBuiltError as error:
        option = f" -p {shlex.quote(profile)}" if profile else ""
        raise NotBuiltError(f"{error} Build it with `latent-assets build{option}`.") from error


def _print_hits(hits: Sequence[Hit], as_json: bool) -> None:
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    if not hits:
        out.print("No image fits.")
        return
    out.print(f"{'':>3} {hits[0].measure}", style="dim", highlight=False)
    for place, hit in enumerate(hits, 1):
        caption = (hit.caption or "(no caption)").replace("\n", " ")
        shown = caption if len(caption) <= 200 else f"{caption[:200]}…"
        category = f"  [{hit.category}]" if hit.category else ""
        out.print(f"{place:>3} {hit.score:.3f}  {shown}{category}", highlight=False, markup=False)
        out.print(f"{'':>3} {hit.id}  {hit.source_url or hit.url}", style="dim", highlight=False, markup=False)


def search(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words; or the path of a picture.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture to look for, instead of words.")] = None,
    count: CountOption = 10,
    space: Annotated[str, typer.Option(help="With a picture: clip (meaning) or vae (colour and layout).")] = "clip",
    mode: Annotated[
        str, typer.Option(help="With words: clip (meaning), words (of captions, BM25) or hybrid (both).")
    ] = "clip",
    offset: Annotated[int, typer.Option(min=0, help="Results to pass over.")] = 0,
    where: Annotated[
        str | None,
        typer.Option(metavar="FILTER", help="Of these only: \"aesthetic >= 7 AND contains(caption, 'fox')\"."),
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Images that resemble a text or a picture."""
    if text is None and image is None:
        raise QueryError("Missing argument: say what to look for, in words, or --image FILE.")
    if text is not None and image is not None:
        raise QueryError("Say what to look for in words or with --image FILE, not both.")
    if text is not None and (image := _picture_named(text)) is not None:
        err.print(f"{text} is a file: looking for pictures like it.")
    if image is None and space != "clip":
        raise QueryError(f"--space {space} is for pictures (--image FILE): words are compared by CLIP only.")

    if mode not in ("clip", "words", "hybrid"):
        raise QueryError(f"--mode {mode}: say clip (meaning), words (of captions) or hybrid (both).")
    if image is not None and (mode != "clip" or offset or where is not None):
        raise QueryError("--mode, --offset and --where are for words.")
    chosen = cast("Mode", mode)

    def ask(atlas: Atlas | RemoteAtlas) -> list[Hit]:
        if image is None:
            return atlas.search_text(text or "", k=count, mode=chosen, offset=offset, where=where)
        return atlas.search_image(image, k=count, space=space)

    _print_hits(asked(profile, ask), as_json)


def asked(profile: str | None, ask: Callable[[Atlas | RemoteAtlas], T]) -> T:
    """The answer of the service that runs for the profile's root, else of the atlas itself."""
    from latent_assets.service.remote import RemoteAtlas, UnavailableError

    remote = RemoteAtlas.running(selected_profile(profile).root)
    if remote is not None:
        try:
            found = ask(remote)
        except UnavailableError as error:
            err.print(f"The service cannot answer this ({error}): asking the atlas itself.", style="dim")
        else:
            err.print(f"Answered by the service at {remote.url}, release {remote.release}.", style="dim")
            _say(remote.notice)
            return found
    atlas = open_atlas(profile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnfitModelsWarning)  # said in one line instead
        found = ask(atlas)
    _say(atlas.notice)
    return found


def _say(notice: str) -> None:
    if notice:
        err.print(notice, style="yellow", highlight=False, markup=False)


def _picture_named(text: str) -> Path | None:
    """The file that a text is the path of, None for words. Raises QueryError for a path where nothing is."""
    path = Path(text).expanduser()
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # too long, or with a zero byte: words
        return None
    if os.sep not in text or "\n" in text:
        return None
    from latent_assets.catalog.source import IMAGE_SUFFIXES

    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise QueryError(f"There is no file {text}: give the path of a picture, or say in words what it shows.")
    return None


def neighbors(
    row_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a row, as `search` prints it.")],
    count: CountOption = 10,
    space: Annotated[str, typer.Option(help="clip (meaning) or vae (colour and layout).")] = "clip",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Images that resemble an image of the atlas."""
    _print_hits(asked(profile, lambda atlas: atlas.neighbors(row_id, k=count, space=space)), as_json)


def info(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """What the published atlas is: where, how many rows, which spaces, models and digests."""
    atlas = open_atlas(profile)
    said = {**asdict(atlas.info), "rows": len(atlas)}
    # what is in it, where it is, how it came about; what only identifies it at the end
    first, last = ("title", "attribution", "rows", "spaces", "created"), ("fingerprint", "projection", "format")
    values = {key: said.pop(key) for key in first} | {"version": atlas.version, "lance_uri": atlas.uri}
    ending = {key: said.pop(key) for key in last}
    values |= said | ending
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        if key == "models":
            for name, model in value.items():
                made = {**model.get("arithmetic", {})}
                agreement = f", {_plain(made.pop('agreement'))}" if made.get("agreement") else ""
                how = f" ({made.get('dtype')} on {made.get('device')}{agreement})" if made else ""
                print_labelled(out, f"model {name}", f"{model.get('name', '')} {model.get('digest', '')}{how}", _KEY)
        elif key == "shards":
            print_labelled(out, key, f"{len(value):,}", _KEY)
        elif isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values()):
            for name, item in value.items():
                print_labelled(out, f"{key} {name}", _plain(item), _KEY)
        elif value not in ("", {}, None):
            print_labelled(out, key, _plain(value), _KEY)


def _plain(value: Any) -> str:
    """A value of a release's card on one line, numbers to four digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def schema(
    table: Annotated[str, typer.Argument(metavar="atlas|generated|sources", help="Which table.")] = "atlas",
) -> None:
    """The columns of the table `atlas`, of `generated`, or those that are known in lists and sidecars, as Markdown."""

    if table == "atlas":
        from latent_assets.atlas.schema import schema_markdown

        sys.stdout.write(schema_markdown())
    elif table == "generated":
        from latent_assets.generated.table import generated_schema_markdown

        sys.stdout.write(generated_schema_markdown())
    elif table == "sources":
        from latent_assets.catalog.columns import names_markdown

        sys.stdout.write(names_markdown())
    else:
        raise QueryError(f"There is no table {table}: say `atlas`, `generated` or `sources`.")
