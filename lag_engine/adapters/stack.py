"""One module's adapters, stacked: arrow vectors at hand, factors gathered when they are used.

Knows tensors only. A `Block` is what one segment holds for one module; a `ModuleStack` is the
rows of one kind over all blocks, in the order in which the adapters joined the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

AdapterKind = Literal["task", "knowledge", "latent"]
"""What a stored adapter is for; latent ones are shared by passages that mix them (Poly-PRAG)."""


_RIGHT = ("A", "arrow")
"""The fields of a `Block` that are in its basis."""


_REBUILT = 1 << 21
"""Elements of A* of a module's family members that are held in memory where others are beside them.

Within it the compiled operator serves such a mixed stack too."""


class ModuleShape(NamedTuple):
    """The two widths of a linear module: `y (D_out) = W x (D_in)`."""

    d_in: int
    d_out: int


class File(Protocol):
    """The file that a block's factors are views of."""

    @property
    def is_mapped(self) -> bool:
        """Whether they may be read in place."""
        ...

    def expect(self, factors: Tensor, rows: Tensor, /) -> None:
        """Has rows of a factor fetched from disk, without waiting for them."""
        ...

    def read(self, factors: Tensor, rows: Tensor, /) -> Tensor:
        """Returns a copy of rows of a factor."""
        ...

    @property
    def is_bounded(self) -> bool:
        """Whether memory is short: rows that are read in place are announced before."""
        ...

    def trim(self) -> None:
        """Keeps what this process holds of mapped files within their bound."""
        ...

    def read_ahead(self) -> None:
        """Has neighbours of what is read fetched from disk with it, until `let_go`."""
        ...

    def let_go(self) -> None:
        """Gives up what this process holds of the file; rows are read here and there."""
        ...


class Block(NamedTuple):
    """The stacked factors of several adapters; memory-mapped, read when indexed.

    Attributes:
        A: (n, R, D_in); zero rows beyond an adapter's own rank.
        B: (n, R, D_out).
        singular: (n, R) float32.
        arrow: (n, D_in); a copy of `A[:, 0]`, contiguous.
        file: reads `A` and `B`; None for factors in memory.
        basis: of a family's members, (R, D_in): their `A` is (n, R, R) and `arrow` (n, R), both in
            this basis (see `families.py`); else None.
    """

    A: Tensor
    B: Tensor
    singular: Tensor
    arrow: Tensor
    file: File | None = None
    basis: Tensor | None = None

    def in_basis(self) -> Block:
        """Returns the members of a family with the basis as their input space."""
        return self._replace(basis=None)

    def expect(self, rows: Tensor) -> None:
        """Has the factors of these rows fetched from the file, without waiting for them."""
        if self.file is not None:
            self.file.expect(self.A, rows)
            self.file.expect(self.B, rows)

    def read(self, field: str, rows: Tensor) -> Tensor:
        """Returns a copy of the given rows of one of the four tensors; (m, ...)."""
        part: Tensor = getattr(self, field)
        if self.file is not None and field in ("A", "B"):
            found = self.file.read(part, rows)
        else:
            found = part.index_select(0, rows)
        return found @ self.basis if self.basis is not None and field in _RIGHT else found


class Places(NamedTuple):
    """Where the factors of each row lie in this process's memory, for code that reads them there.

    The addresses hold while the stack lives; a row's factors are row-major and without gaps.

    Attributes:
        A: address of A*, (ranks[i], D_in); (N,) int64.
        B: address of B*, (ranks[i], D_out); (N,) int64.
        arrow: address of the arrow vector, (D_in,); (N,) int64.
        ranks: how many rows lie there, at most R; (N,) int64.
        dtype: of all of them.
        files: what they are views of; told to `trim` after every reading.
    """

    A: Tensor
    B: Tensor
    arrow: Tensor
    ranks: Tensor
    dtype: torch.dtype
    files: tuple[File, ...] = ()


class ModuleStack:
    """The adapters of one kind that update one module; row = order of joining.

    A lower row wins a tie. Ranks may differ: everything is zero-padded to the highest rank, which
    is exact. The arrow vectors are a view of the mapped file where the rows lie together in one
    block, and a copy otherwise, made when they are first asked for; factors stay on disk until `A`
    or `B` is called.

    Attributes:
        module: full dotted path in the base model.
        kind: "task", "knowledge" or "latent".
        names: the adapter of each row; N of them.
        ranks: each adapter's own rank; N of them.
    """

    def __init__(
        self,
        module: str,
        kind: AdapterKind,
        names: Sequence[str],
        *,
        shape: ModuleShape,
        ranks: Sequence[int],
        blocks: Sequence[Block],
        block_of: Tensor,
        local: Tensor,
    ) -> None:
        self.module = module
        self.kind = kind
        self.names = tuple(names)
        self.ranks = tuple(ranks)
        self.d_in, self.d_out = shape
        self.rank = max(self.ranks, default=0)
        self._blocks = tuple(_narrowed(block, self.rank) for block in blocks)
        self._block_of, self._local = block_of, local  # (N,), (N,)
        self._whole = len(blocks) == 1 and _is_run(self._local)
        if self._whole:
            start = int(self._local[0])
            self._blocks = (_run(self._blocks[0], start, len(self.names)),)
            self._local = self._local - start

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def arrow(self) -> Tensor:
        """Top right singular vectors; (N, D_in); unit norm (zero for no adapter)."""
        return self._gather_all("arrow", (self.d_in,))

    @cached_property
    def singular(self) -> Tensor:
        """Singular values; (N, R) float32; descending; zero-padded."""
        return self._gather_all("singular", (self.rank,))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the factors and of the arrow vectors."""
        return self._blocks[0].arrow.dtype if self._blocks else torch.float32

    @cached_property
    def places(self) -> Places | None:
        """Where the factors lie; None where they come through `A` and `B` only."""
        dtypes = {part.dtype for block in self._blocks for part in (block.A, block.B, block.arrow)}
        is_copied = any(
            block.file is not None and not block.file.is_mapped for block in self._blocks
        )
        n_rebuilt = sum(len(block.A) for block in self._blocks if block.basis is not None)
        if len(dtypes) != 1 or is_copied or n_rebuilt * self.rank * self.d_in > _REBUILT:
            return None
        ranks = torch.tensor([block.A.shape[1] for block in self._blocks])[self._block_of]
        arrows = [
            block.arrow if block.basis is None else right[:, 0]
            for block, right in zip(self._blocks, self._rights, strict=True)
        ]
        return Places(
            A=self._addresses(self._rights),
            B=self._addresses([block.B for block in self._blocks]),
            arrow=self._addresses(arrows),
            ranks=ranks,
            dtype=dtypes.pop(),
            files=tuple(block.file for block in self._blocks if block.file is not None),
        )

    @cached_property
    def shared(self) -> SharedInputs | None:
        """The same adapters over the basis that all of them share; None where they do not."""
        bases = [block.basis for block in self._blocks]
        basis = bases[0] if bases else None
        if basis is None or any(b is None or not torch.equal(b, basis) for b in bases):
            return None
        stack = ModuleStack(
            self.module,
            self.kind,
            self.names,
            shape=ModuleShape(len(basis), self.d_out),
            ranks=self.ranks,
            blocks=[block.in_basis() for block in self._blocks],
            block_of=self._block_of,
            local=self._local,
        )
        return SharedInputs(basis, stack)

    def A(self, rows: Tensor) -> Tensor:
        """Returns the right factors of the given rows.

        Args:
            rows: (...) long; each in [0, N).

        Returns:
            (..., R, D_in); a copy; zero-padded to the stack's rank.
        """
        return self._gather("A", rows, (self.rank, self.d_in))

    def B(self, rows: Tensor) -> Tensor:
        """Returns the left factors of the given rows, singular values folded in.

        Args:
            rows: (...) long; each in [0, N).

        Returns:
            (..., R, D_out); a copy; zero-padded to the stack's rank.
        """
        return self._gather("B", rows, (self.rank, self.d_out))

    @cached_property
    def _rights(self) -> list[Tensor]:
        """Each block's A*; members of a family, which the file has in a basis, are copied."""
        return [
            block.A if block.basis is None else (block.A @ block.basis).contiguous()
            for block in self._blocks
        ]

    def _addresses(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns the address of each row's factors; (N,) int64."""
        starts = torch.tensor([part.data_ptr() for part in parts])
        strides = torch.tensor([part.stride(0) * part.itemsize for part in parts])
        return starts[self._block_of] + self._local * strides[self._block_of]

    def _gather_all(self, field: str, shape: tuple[int, ...]) -> Tensor:
        """A view where the rows are one run of one block; else a copy."""
        if self._whole and (self._blocks[0].basis is None or field not in _RIGHT):
            rows: Tensor = getattr(self._blocks[0], field)
            return rows
        return self._gather(field, torch.arange(len(self.names)), shape)

    def _gather(self, field: str, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        flat = rows.reshape(-1)
        if len(self._blocks) == 1:
            found = self._blocks[0].read(field, self._local[flat])
        else:
            found = self._from_many_blocks(field, flat, shape)
        return found.reshape(*rows.shape, *shape)

    def _from_many_blocks(self, field: str, flat: Tensor, shape: tuple[int, ...]) -> Tensor:
        dtype = getattr(self._blocks[0], field).dtype if self._blocks else torch.float32
        found = torch.zeros((len(flat), *shape), dtype=dtype)
        owners = self._block_of[flat]
        for index in owners.unique().tolist():
            at = (owners == index).nonzero().flatten()
            part = self._blocks[index].read(field, self._local[flat[at]])  # (n, R_block, ...)
            found[at, : part.shape[1]] = part
        return found


class SharedInputs(NamedTuple):
    """The adapters of a family as what they are behind `basis @ x`.

    Attributes:
        basis: (R, D_in).
        stack: the same adapters in the same rows, with an input width of R.
    """

    basis: Tensor
    stack: ModuleStack


def _narrowed(block: Block, rank: int) -> Block:
    """A block can be wider than its live rows once its widest adapter was removed."""
    A, B, singular = block[:3]
    return block._replace(A=A[:, :rank], B=B[:, :rank], singular=singular[:, :rank])


def _run(block: Block, start: int, n: int) -> Block:
    """Returns a block of n consecutive rows, as views."""
    run = slice(start, start + n)
    A, B, singular, arrow = (part[run] for part in block[:4])
    return block._replace(A=A, B=B, singular=singular, arrow=arrow)


def _is_run(rows: Tensor) -> bool:
    return bool(len(rows)) and bool((rows == torch.arange(len(rows)) + rows[0]).all())
