"""Where commands print, and how a user's mistake looks."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperGroup

from lag_engine.errors import LagError

_MOST_WORDS = 80

out = Console()
err = Console(stderr=True)


class LagGroup(TyperGroup):
    """Prints a `LagError` of any command as a panel and exits with 1; no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except LagError as error:
            print_error(error)
            raise typer.Exit(1) from error
        except RuntimeError as error:
            # Python 3.11 wraps a Ctrl-C at the making of a class, as when torch is imported.
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise error.__cause__ from None
            raise


def print_error(error: LagError) -> None:
    """Prints what was expected, what was found, and what to do."""
    parts = [("Expected", error.expected), ("Found", error.found), ("Do", error.action)]
    lines = [_line(label, text) for label, text in parts if text]
    err.print(Panel(Group(*lines), title=type(error).__name__, title_align="left", style="red"))


def _line(label: str, text: str) -> Text:
    text = text.strip()
    if text.lower().startswith(label.lower()):
        text = text[len(label) :].lstrip(": ")
    text = _shortened(text) if err.is_terminal else text
    return Text.assemble((f"{label}: ", "bold"), (text, "default"))


def _shortened(text: str) -> str:
    """Leaves out the middle of a long text, such as the names of a thousand adapters."""
    words = text.split(" ")
    left_out = len(words) - _MOST_WORDS
    if left_out <= 0:
        return text
    told = f"[... {left_out:,} words, told where the output is piped ...]"
    return " ".join([*words[: _MOST_WORDS // 2], told, *words[-_MOST_WORDS // 2 :]])


def n_bytes_text(n_bytes: int) -> str:
    """Bytes for people: 1.5 MB."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
