"""The options of every command that answers with a library."""

from __future__ import annotations

from typing import Annotated

import typer

FactorCache = Annotated[
    int | None,
    typer.Option(
        "--factor-cache-mb",
        min=1,
        help="Most of the library's files to keep in memory, for one larger than it (Linux).  "
        "[default: the system decides]",
    ),
]


def n_cache_bytes(megabytes: int | None) -> int | None:
    """Returns the bytes of a bound in MB."""
    return None if megabytes is None else megabytes * 10**6
