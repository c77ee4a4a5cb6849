"""The command `generate`: images from text, and where they land."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_assets.cli.console import err, out, print_json
from latent_assets.cli.options import JsonOption, ProfileOption, selected_profile
from latent_assets.errors import NotBuiltError, StorageError
from latent_assets.layout import GENERATED_TABLE, INBOX, original_name

if TYPE_CHECKING:
    from rich.status import Status

    from latent_assets.generated.diffusion.generate import GeneratedImage, PathPoint
    from latent_assets.generated.diffusion.request import GenerationRequest
    from latent_assets.generated.placement.placed import Placement
    from latent_assets.profile import Profile
    from latent_assets.storage import Storage

_NAMED = 3  # neighbours
_SETTLED_AFTER = 5.0  # seconds


def generate(
    prompt: Annotated[str, typer.Argument(help="What the image should show, in words.")],
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same image; without one it is drawn.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of denoising (default: the profile's).")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt, 0 to 100.")] = None,
    n: Annotated[int, typer.Option(help="How many images; seeds count up.")] = 1,
    negative: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the PNG and its JSON there as well.")
    ] = None,
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make images from a text, and show where they land on the maps of the atlas."""
    from latent_assets.generated.diffusion.request import GenerationRequest, diffusion_model
    from latent_assets.storage import Storage

    chosen = selected_profile(profile)
    request = GenerationRequest.of(
        diffusion_model(chosen), prompt, negative=negative, seed=seed, steps=steps, guidance=guidance, n=n
    )
    if folder is not None:
        _checked_folder(folder)
    storage = Storage(chosen.root)
    storage.check_writable()
    found = []
    for image in _images(chosen, storage, request):
        image.written.drop(storage)
        if folder is not None:
            _write(folder, image)
        found.append(image)
        if not as_json:
            _show(storage, image)
    placed = _take(chosen, storage, found, quiet=as_json)
    if as_json:
        print_json([_values(storage, image) for image in found])
    elif placed:
        out.print(
            f"In the table `{GENERATED_TABLE}`, with the path; `{_program()} inbox` counts what is there.", style="dim"
        )


def _images(profile: Profile, storage: Storage, request: GenerationRequest) -> Iterator[GeneratedImage]:
    """The images of a request as they are finished."""
    with err.status("Loading the models"):
        from latent_assets.generated.diffusion.generate import ImageGenerator
        from latent_assets.generated.placement.placing import ImagePlacer

        try:
            placer = ImagePlacer.open(storage)
        except NotBuiltError as error:
            placer = None
            err.print(f"{error} The images wait in the inbox until there is a release.", highlight=False, markup=False)
        generator = ImageGenerator.open(profile, placer)
    for single in request.each():
        drawing = f"Drawing with seed {single.seed}"
        with err.status(drawing) as status:
            image = generator.generate(single, partial(_tell, status, drawing))
        yield image


def _tell(status: Status, drawing: str, point: PathPoint) -> None:
    status.update(f"{drawing}: step {point.step} of {point.steps}")


def _show(storage: Storage, image: GeneratedImage) -> None:
    """What was made, where it landed and what is near."""
    request, written = image.request, image.written
    values = f"seed {request.seed}, {request.steps} steps, guidance {request.guidance:g}, {image.generation.sampler}"
    out.print(_line(request.prompt), style="bold", end="  ")
    out.print(values, highlight=False)
    for note in image.notes:
        err.print(note, highlight=False, markup=False)
    _row("file", storage.uri(original_name(written.id, "png")))
    if image.placed is not None:
        for space, place in image.placed.placements.items():
            came = f", from {_point(image.path[0].places[space])}" if len(image.path) > 1 else ""
            _row(f"on {space}", f"{_point(place.position)} ± {place.uncertainty:.2f}{came}")
            _row(f"near on {space}", _neighbours(place))
        _row("", image.placed.sentence)


def _row(label: str, text: str) -> None:
    out.print(f"  {label:<13} {text}", highlight=False, markup=False)


def _neighbours(place: Placement) -> str:
    return ", ".join(f"{_line(each.caption or each.id)} {each.similarity:.2f}" for each in place.neighbours[:_NAMED])


def _values(storage: Storage, image: GeneratedImage) -> dict[str, Any]:
    """The same for programs."""
    placed = image.placed
    return {
        "id": image.written.id,
        "file": storage.uri(original_name(image.written.id, "png")),
        **json.loads(image.written.sidecar),
        "notes": image.notes,
        "placed": placed.to_dict() if placed else None,
    }


def _take(profile: Profile, storage: Storage, images: Sequence[GeneratedImage], quiet: bool) -> bool:
    """Take the images out of the inbox and place them; whether that was done. Without a release they wait there."""
    if not images or images[0].placed is None:
        return False
    from latent_assets.cli.inbox import take_inbox
    from latent_assets.generated.inbox import ready
    from latent_assets.generated.projecting import live_release

    if live_release(storage) is None:
        return False
    # files that were written a moment ago might still be being written
    names = {f"{INBOX}/{image.written.name}.png" for image in images}
    last = time.monotonic() + _SETTLED_AFTER
    while time.monotonic() < last and not names <= {drop.file.name for drop in ready(storage)}:
        if not any(storage.exists(name) for name in names):  # a sensor was faster
            return True
        time.sleep(0.1)
    take_inbox(profile, quiet)
    return True


def _checked_folder(folder: Path) -> None:
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _write(folder: Path, image: GeneratedImage) -> None:
    with _writable(folder):
        (folder / f"{image.written.name}.png").write_bytes(image.written.png)
        (folder / f"{image.written.name}.json").write_bytes(image.written.sidecar)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"--out {folder}: nothing can be written there ({error.strerror or error}).") from error


def _line(text: str) -> str:
    """A text of strangers on one line."""
    shown = " ".join(text.split())
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _point(xyz: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.2f}' for value in xyz)})"


def _program() -> str:
    program = Path(sys.argv[0])
    return program.name if shutil.which(program.name) else "latent-assets"
