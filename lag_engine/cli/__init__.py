"""`lag`, the command line. A command imports what it needs when it runs, so help is fast."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from lag_engine.cli.ask import ask
from lag_engine.cli.console import LagGroup, out
from lag_engine.cli.demo import demo
from lag_engine.cli.doctor import doctor
from lag_engine.cli.encode import encode
from lag_engine.cli.evaluate import evaluate
from lag_engine.cli.library import library_app
from lag_engine.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    cls=LagGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        out.print(version("lag-integrations"), highlight=False)
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print it and exit."
        ),
    ] = False,
) -> None:
    """A local model that chooses its LoRA adapters per token and per layer."""


app.command()(ask)
app.command()(demo)
app.command()(doctor)
app.command()(encode)
app.command()(evaluate)
app.command()(serve)
app.add_typer(library_app, name="library")
