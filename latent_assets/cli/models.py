"""Commands about the models of a profile: `models`, `models fetch`, `models check`, and `try`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, selected_profile
from latent_assets.errors import DataError, LatentAssetsError, QueryError

if TYPE_CHECKING:
    from latent_assets.pipeline.lineage import Lineage

models_app = typer.Typer(help="The profile's models: what they are, getting them, trying them.")

_MOST_TRIED = 200


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """The profile's models: files, sizes, the digest of their weights, and the number format they run in here."""
    if context.invoked_subcommand is not None:
        return
    from latent_assets.pipeline.lineage import Lineage

    lineage = Lineage(selected_profile(profile))
    found: dict[str, dict[str, Any]] = {}
    for source in lineage.sources:
        name = source.removesuffix("_model")
        if name != source:
            found[name] = _facts(lineage, source, name)
    if as_json:
        print_json(found)
    else:
        table = Table("model", "name", box=None, pad_edge=False)
        table.add_column("digest", no_wrap=True, min_width=32)
        for column in ("files", "MB", "here"):
            table.add_column(column)
        for name, values in found.items():
            if "error" in values:
                table.add_row(name, Text(values["error"], style="red"))
            else:
                size = f"{values['bytes'] / 1e6:.1f}"
                here = values.get("arithmetic", {}).get("said", "")
                table.add_row(name, values["name"], values["digest"], str(values["files"]), size, here)
        out.print(table)
    if any("error" in values for values in found.values()):
        raise typer.Exit(5)


def _facts(lineage: Lineage, source: str, name: str) -> dict[str, Any]:
    from latent_assets.models.precision import arithmetic

    try:
        seen = lineage.observed(source)
        facts = {key: seen.facts[key] for key in ("files", "bytes")}
        found = {"name": seen.facts["model"], "digest": seen.version, **facts}
        if name in {row.name for row in lineage.profile.embeddings}:
            chosen = arithmetic(name, lineage.profile.models.of(name))
            found["arithmetic"] = {**asdict(chosen), "said": str(chosen)}
        return found
    except LatentAssetsError as error:
        return {"error": str(error)}


@models_app.command("fetch")
def models_fetch(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Download all that the profile's models need. What was begun goes on; digests are compared with the hub's."""
    from latent_assets.defs.display import BuildDisplay
    from latent_assets.models.fetch import check_room, fetch, listed, repositories
    from latent_assets.models.hub import models_folder

    chosen = selected_profile(profile)
    files = [file for repository in repositories(chosen) for file in listed(repository)]
    missing = sum(file.missing for file in files)
    if not as_json:
        for file in files:
            state = "there" if file.missing == 0 else f"{file.bytes / 1e6:,.1f} MB"
            if 0 < file.missing < file.bytes:
                state += f", {file.missing / 1e6:,.1f} MB of it to come"
            out.print(f"{file.repository}/{file.name}  {state}")
        what = f"{missing / 1e6:,.1f} MB to come, into {models_folder()}" if files else "nothing of the hub is needed"
        out.print(what)
    check_room(files)
    with BuildDisplay(err) as display:
        for file in files:
            if file.missing:
                display.begin(f"{Path(file.repository).name}/{file.name}"[-32:], 1, 1)
            fetch(file)
    if as_json:
        print_json([{**asdict(file), "place": str(file.place)} for file in files])
    elif files:
        out.print("All of it is there, with the hub's digests.")


@models_app.command("check")
def models_check(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Embed built-in pictures: values have to be finite and differ, and of known weights those that were recorded."""
    from latent_assets.models.check import check_model

    chosen = selected_profile(profile)
    found = {row.name: check_model(row, chosen.models.of(row.name)) for row in chosen.embeddings}
    if as_json:
        print_json({name: asdict(each) for name, each in found.items()})
    else:
        for name, each in found.items():
            out.print(f"{name}: {each}")
    if problems := {name: each.problem for name, each in found.items() if each.problem}:
        raise DataError("; ".join(f"{name}: {problem}" for name, problem in problems.items()), problems)


def try_images(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Two or more image files.")],
    text: Annotated[str | None, typer.Option(help="Words to compare them with.")] = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, max=50, help="How many nearest of each.")] = 3,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed a few images with the profile's models, and print which are nearest to each other and to a text."""
    from latent_assets.images.decode.image import decode_as_stored
    from latent_assets.images.outcome import FetchError
    from latent_assets.models.fit import notice, unfit
    from latent_assets.models.trying import nearest_pairs, nearest_to_text

    chosen = selected_profile(profile)
    files = list(dict.fromkeys(images))
    if not 2 <= len(files) <= _MOST_TRIED:
        raise QueryError(f"Name 2 to {_MOST_TRIED} image files; these are {len(files)}.")
    pictures = []
    for file in files:
        try:
            pictures.append(decode_as_stored(file.read_bytes(), chosen.fetch))
        except (OSError, FetchError) as error:
            raise QueryError(f"{file} cannot be read as an image ({error}).") from error
    near = {row.name: nearest_pairs(row, chosen.models.of(row.name), pictures, count) for row in chosen.embeddings}
    words = nearest_to_text(chosen.models.clip, pictures, text) if text is not None and chosen.models.clip else []
    if text is not None and chosen.models.clip is None:
        raise QueryError("The profile has no [models.clip]: words cannot be compared with images.")
    said = notice(unfit(chosen))
    if as_json:
        named = {
            name: {
                str(files[row]): [{"file": str(files[o]), "score": s} for o, s in others]
                for row, others in each.items()
            }
            for name, each in near.items()
        }
        print_json({"nearest": named, "text": [{"file": str(files[o]), "score": s} for o, s in words], "notice": said})
        return
    for row in chosen.embeddings:
        measure = "cosine similarity" if row.metric == "cosine" else "L2 distance"
        out.print(f"{row.name}: {row.shows}, {measure}", style="bold")
        for index, others in near[row.name].items():
            out.print(f"  {files[index]}: {', '.join(f'{files[other]} {score:.3f}' for other, score in others)}")
    if words:
        out.print(f"nearest to “{text}”, cosine similarity", style="bold")
        for other, score in words:
            out.print(f"  {score:.3f}  {files[other]}")
    if said:
        err.print(said, style="yellow")
