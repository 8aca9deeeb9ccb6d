"""What the operator is handed, field by field as `structs.h` has it."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

import torch

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The dtypes the operator reads."""

SUMMED = (torch.float32, torch.bfloat16)
"""The dtypes of a base's output that it adds to."""

KINDS = {"lag": 0, "arrow": 1}
SCORE_NUMBERS = {"arrow": 0, "projection": 1, "norm": 2, "relative": 3}


class StackStruct(Structure):
    """One module's adapters of one kind."""

    _fields_ = (
        ("n", c_int64),
        ("d_in", c_int64),
        ("d_out", c_int64),
        ("rank", c_int64),
        ("arrow_element", c_int32),
        ("factor_element", c_int32),
        ("arrow", c_void_p),
        ("singular", c_void_p),
        ("A", c_void_p),
        ("B", c_void_p),
        ("ranks", c_void_p),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("code_errors", c_void_p),
        ("halves", c_void_p),
        ("half_errors", c_void_p),
        ("code_stride", c_int64),
        ("half_stride", c_int64),
        ("nibbles", c_void_p),
        ("nibble_scales", c_void_p),
        ("nibble_errors", c_void_p),
        ("nibble_stride", c_int64),
        ("reach", c_float),
        ("is_announced", c_int32),
    )


class RouterStruct(Structure):
    """How one plan chooses."""

    _fields_ = (
        ("kind", c_int32),
        ("score", c_int32),
        ("k", c_int64),
        ("k_min", c_int64),
        ("keep", c_float),
        ("floor", c_float),
        ("temperature", c_float),
        ("allowed", c_void_p),
        ("n_allowed", c_int64),
    )


class CallStruct(Structure):
    """The tokens, and room for what was decided about them."""

    _fields_ = (
        ("x", c_void_p),
        ("x_element", c_int32),
        ("n_threads", c_int32),
        ("n_tokens", c_int64),
        ("width", c_int64),
        ("router_of", c_void_p),
        ("rows", c_void_p),
        ("scores", c_void_p),
        ("weights", c_void_p),
        ("base", c_void_p),
        ("total", c_void_p),
        ("total_element", c_int32),
        ("is_approximate", c_int32),
    )


def declare(library: ctypes.CDLL) -> None:
    """Tells ctypes the signatures of the operator."""
    library.lag_route.argtypes, library.lag_route.restype = (c_void_p,) * 3, ctypes.c_int
    stack = numbers = c_void_p
    library.lag_reach.argtypes, library.lag_reach.restype = (stack,), c_float
    for compact in (library.lag_codes, library.lag_nibbles):
        compact.argtypes = (stack, ctypes.c_int, numbers, c_int64, numbers, numbers)
        compact.restype = None
    library.lag_halves.argtypes = (stack, ctypes.c_int, numbers, c_int64, numbers)
    library.lag_halves.restype = None
    library.lag_reads_nibbles.argtypes, library.lag_reads_nibbles.restype = (), ctypes.c_int
