"""Arrow vectors in fewer bytes, each with a bound of what was rounded away.

The bound makes a scan of the compact vectors exact: what it cannot decide is scored again from the
vectors themselves (see `retrieve.h`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_CODE = 127
LINE = 32
"""Lines are padded to a multiple of this many elements: whole vectors for the operator."""

SLACK = 1 + 1e-5
"""Covers the rounding of the bounds themselves."""

CHUNK_ROWS = 1024


class Codes(NamedTuple):
    """Arrow vectors in int8.

    Attributes:
        codes: (N, D_in, padded); row i times scales[i] is about arrow vector i.
        scales: (N,).
        errors: upper bounds of the length of the difference; (N,).
    """

    codes: Tensor
    scales: Tensor
    errors: Tensor


class Halves(NamedTuple):
    """Arrow vectors in bfloat16.

    Attributes:
        halves: (N, D_in, padded); the vectors themselves where they are bfloat16 already.
        errors: upper bounds of the length of what was rounded away; (N,).
    """

    halves: Tensor
    errors: Tensor


def to_codes(arrow: Tensor) -> Codes:
    """Returns the vectors in int8; scratch is bounded whatever N is."""
    return Codes(*map(torch.cat, zip(*map(_codes, arrow.split(CHUNK_ROWS)), strict=True)))


def to_halves(arrow: Tensor) -> Halves:
    """Returns the vectors in bfloat16, without a copy where they are that already."""
    if arrow.dtype == torch.bfloat16:
        halves = arrow if arrow.shape[1] % LINE == 0 else _padded(arrow)
        return Halves(halves, torch.zeros(len(arrow)))
    return Halves(*map(torch.cat, zip(*map(_halves, arrow.split(CHUNK_ROWS)), strict=True)))


def reach(arrow: Tensor) -> float:
    """Returns an upper bound of the length of every arrow vector."""
    lengths = [_lengths(chunk) for chunk in arrow.split(CHUNK_ROWS)]
    return float(torch.cat(lengths).max())


def _codes(arrow: Tensor) -> Codes:
    wide = arrow.float()
    scales = wide.abs().amax(-1) / LARGEST_CODE  # (n,)
    steps = torch.where(scales > 0, scales, 1.0).unsqueeze(-1)
    codes = (wide / steps).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
    return Codes(_padded(codes.to(torch.int8)), scales, _lengths(wide - codes * steps))


def _halves(arrow: Tensor) -> Halves:
    halves = arrow.to(torch.bfloat16)
    return Halves(_padded(halves), _lengths(arrow.float() - halves.float()))


def _lengths(vectors: Tensor) -> Tensor:
    """Returns upper bounds of the lengths; (n,) float32."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    return (lengths * SLACK).float()


def _padded(lines: Tensor) -> Tensor:
    return functional.pad(lines, (0, -lines.shape[1] % LINE)).contiguous()
