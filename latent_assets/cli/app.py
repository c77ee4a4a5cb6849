"""The program: its commands in the order in which the help shows them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from latent_assets.cli import asking, building, exporting, generating, models, placing, serving
from latent_assets.cli.errors import DEBUG_VARIABLE, explaining
from latent_assets.cli.inbox import inbox_app
from latent_assets.cli.profiles import profile_app
from latent_assets.cli.releases import releases_app
from latent_assets.cli.takedown import takedown

app = typer.Typer(
    help="Build, inspect and search a versioned 3D atlas of latent space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options that come before the command."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


for _command in (
    building.build,
    building.status,
    serving.demo,
    serving.ui,
    serving.serve,
    building.verify,
    building.automate,
    takedown,
    asking.search,
    asking.neighbors,
    placing.place,
    generating.generate,
    asking.info,
    asking.schema,
    models.try_images,
    exporting.export,
):
    app.command("try" if _command is models.try_images else None)(_command)
app.add_typer(models.models_app, name="models")
app.add_typer(releases_app, name="releases")
app.add_typer(inbox_app, name="inbox")
app.add_typer(profile_app, name="profile")

main = explaining(app)
