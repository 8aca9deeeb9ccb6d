"""`lag`, the command line. A command imports what it needs when it runs, so help is fast."""

from __future__ import annotations

import typer

from lag_engine.cli.ask import ask
from lag_engine.cli.console import LagGroup
from lag_engine.cli.demo import demo
from lag_engine.cli.encode import encode
from lag_engine.cli.evaluate import evaluate
from lag_engine.cli.library import library_app
from lag_engine.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    cls=LagGroup,
    help="A local model that chooses its LoRA adapters per token and per layer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(ask)
app.command()(demo)
app.command()(encode)
app.command()(evaluate)
app.command()(serve)
app.add_typer(library_app, name="library")
