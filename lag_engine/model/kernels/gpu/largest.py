"""Device functions: the k largest of each line, with ties as `routing/ties.py` breaks them.

Scores are not negative; what may not be chosen has a negative one. A line's scores stand in the
order of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

REFUSED = tl.constexpr(-1.0)
_TWO_OCTAVES = tl.constexpr(2 << 23)
_MOST = tl.constexpr(0x7FFFFFFF)


@triton.jit
def kth_largest(scores, k):
    """Returns the k-th largest score of each line, or the smallest where there are fewer; (T,).

    Bisects the bits of the scores, which order numbers that are not negative, until exactly k of
    them lie above: some ten counts, whatever the width, and no sort.

    Args:
        scores: (T, W) float32.
        k: (T,) int32.
    """
    bits = scores.to(tl.int32, bitcast=True)
    high = tl.max(bits, axis=1) + 1
    quarter = tl.maximum(high - _TWO_OCTAVES, 0)  # of the largest: k are most often above
    n = tl.sum((bits >= quarter[:, None]).to(tl.int32), axis=1)
    low = tl.where(n >= k, quarter, 0)
    high = tl.where(n >= k, high, quarter)
    n_above = tl.where(n >= k, n, tl.sum((bits >= 0).to(tl.int32), axis=1))
    is_open = (n_above > k) & (high - low > 1)
    while tl.max(is_open.to(tl.int32), axis=0) > 0:
        middle = low + (high - low) // 2
        n = tl.sum((bits >= middle[:, None]).to(tl.int32), axis=1)
        is_enough = n >= k
        low = tl.where(is_open & is_enough, middle, low)
        n_above = tl.where(is_open & is_enough, n, n_above)
        high = tl.where(is_open & ~is_enough, middle, high)
        is_open = (n_above > k) & (high - low > 1)
    above = tl.where(bits >= low[:, None], bits, _MOST)
    return tl.min(above, axis=1).to(tl.float32, bitcast=True)


@triton.jit
def among_largest(scores, k, tolerance):
    """Returns which scores are among the k largest of their line; (T, W) int1.

    Scores within the tolerance of the smallest one kept count as equal to it, and of equal ones
    the lower rows are kept.

    Args:
        scores: (T, W) float32.
        k: (T,) int32.
        tolerance: (T,) float32.
    """
    last = kth_largest(scores, k)[:, None]
    near = tolerance[:, None]
    is_above = (scores >= 0) & (scores - near > last)
    is_tied = (scores >= 0) & (scores - near <= last) & (scores + near >= last)
    room = k - tl.sum(is_above.to(tl.int32), axis=1)
    order = tl.cumsum(is_tied.to(tl.int32), axis=1)
    return is_above | (is_tied & (order <= room[:, None]))
