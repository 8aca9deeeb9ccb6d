"""How the work of a routed update is divided; calculated for a Hopper processor, not measured.

Everything follows from shapes, so a CUDA graph can hold the launches.
"""

from __future__ import annotations

PARTS = 128
"""Programs that share the rows, where there are enough of them: about one for each core."""

FEWEST_ROWS, MOST_ROWS = 8, 256
"""Of a program that scores one token: memory is its limit."""

FEWEST_TILE_ROWS, MOST_TILE_ROWS = 16, 128
"""Of a program that scores several tokens by matrix units, which take no fewer than 16."""

FEWEST_TOKENS, MOST_TOKENS = 16, 32
"""Of such a program."""

STEP = 64
"""Columns that such a program reads at a time."""

ALL_TOKENS, ALL_LINES = 64, 128
"""Of a program that projects all adapters: a plain matrix product."""

TIMES_WITH_UNITS, TIMES_WITHOUT = 64, 4
"""Projecting all adapters is worth so many times as many products as tokens ask for.

A matrix unit multiplies about a hundred numbers in the time in which one comes out of the cache.
"""

MOST_PROJECTED = 1 << 26
"""Numbers that all projections together may take: 256 MiB."""

TILE = 4096
"""Elements of a factor read at a time: 32 numbers in flight for each of 128 threads."""

COLUMNS = 256
"""Of the update, written by one program."""

MOST_FOUND = 1 << 13
"""What the first stage leaves for one token is merged in the registers of one program."""


def is_mergeable(n: int, n_candidates: int) -> bool:
    """Whether one program can merge what the first stage leaves of n rows, for any tokens."""
    return all(n_found(n, n_candidates, n_tokens) <= MOST_FOUND for n_tokens in (1, 2))


def is_worth_all(n_tokens: int, n: int, n_candidates: int, rank: int, *, is_half: bool) -> bool:
    """Whether one read of all adapters is soon over, against one of each token's candidates."""
    if n_tokens == 1 or n_tokens * n * rank > MOST_PROJECTED:
        return False
    return n <= n_candidates * min(n_tokens, TIMES_WITH_UNITS if is_half else TIMES_WITHOUT)


def n_found(n: int, n_candidates: int, n_tokens: int) -> int:
    """Returns how many of n rows the first stage leaves for each token."""
    rows = part_rows(n, n_tokens)
    return n_parts(n, rows) * min(rows, n_candidates)


def block_tokens(n_tokens: int) -> int:
    """Returns how many tokens one program scores; a power of two."""
    return 1 if n_tokens == 1 else min(max(power(n_tokens), FEWEST_TOKENS), MOST_TOKENS)


def part_rows(n: int, n_tokens: int) -> int:
    """Returns how many of n rows one program scores; a power of two."""
    n_blocks = n_parts(n_tokens, block_tokens(n_tokens))
    wanted = power(n * n_blocks // PARTS + 1) // 2
    if n_tokens == 1:
        return min(max(wanted, FEWEST_ROWS), MOST_ROWS)
    return min(max(wanted, FEWEST_TILE_ROWS), MOST_TILE_ROWS)


def step_of(lines: int, width: int) -> int:
    """Returns how many columns of so many lines are read at a time; a power of two."""
    return min(max(TILE // lines, 16), max(power(width), 16))


def n_parts(whole: int, part: int) -> int:
    """Returns how many parts of this size cover the whole."""
    return -(-whole // part)


def power(least: int) -> int:
    """Returns the smallest power of two that is no less; at least 1."""
    return 1 << max(least - 1, 0).bit_length()
