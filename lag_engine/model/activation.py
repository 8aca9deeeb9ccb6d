"""Whose token is whose: the resolved plans of one forward pass, laid over its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lag_engine.errors import ModelError, PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lag_engine.model.resolved import ResolvedPlan, ResolvedSelection
    from lag_engine.routing import Update
    from lag_engine.routing.recorder import Recorder


class Part(NamedTuple):
    """Consecutive tokens of a forward pass that belong to one request.

    Attributes:
        plan: what they apply.
        n_tokens: how many they are; None for an equal share of the tokens, as a batch's rows have.
        n_kept: how many of the last ones reach the modules behind the model's `logits_to_keep`.
        recorder: collects their choices; None records nothing and costs nothing.
    """

    plan: ResolvedPlan
    n_tokens: int | None = None
    n_kept: int | None = None
    recorder: Recorder | None = None


class Group(NamedTuple):
    """The tokens that share one slot's selection, of whatever plans.

    Attributes:
        selection: theirs.
        tokens: their positions among the module's tokens; (n,); None for all of them.
        pieces: for each part of the group how many of these tokens are its, and its recorder.
    """

    selection: ResolvedSelection
    tokens: Tensor | None
    pieces: tuple[tuple[int, Recorder | None], ...]

    @property
    def is_recorded(self) -> bool:
        """Whether anybody wants to know what was chosen."""
        return any(recorder is not None for _, recorder in self.pieces)

    def record(self, module: str, names: tuple[str, ...], update: Update) -> None:
        """Hands each part's choices to its recorder."""
        start = 0
        for n_tokens, recorder in self.pieces:
            if recorder is not None:
                here = slice(start, start + n_tokens)
                chosen = (update.rows[here], update.scores[here], update.weights[here])
                recorder.record(module, self.selection.slot, names, *chosen)
            start += n_tokens


class Layout:
    """All groups of a forward pass's tokens, and what every module asks of them.

    Args:
        groups: tokens on the bare base are in none.
        n_tokens: how many the module gets.

    Attributes:
        numbers: of the groups' selections, in order.
        is_recorded: whether anybody wants to know what was chosen.
    """

    __slots__ = ("_owners", "groups", "is_recorded", "n_tokens", "numbers")

    def __init__(self, groups: tuple[Group, ...], n_tokens: int) -> None:
        self.groups, self.n_tokens = groups, n_tokens
        self.numbers = tuple(group.selection.number for group in groups)
        self.is_recorded = any(group.is_recorded for group in groups)
        self._owners: dict[tuple[int, ...], Tensor] = {}

    def owners(self, members: tuple[int, ...]) -> Tensor | None:
        """Returns for each token which member it is of, -1 for none; (T,) int32.

        None where all are the first one's.

        Args:
            members: which of the groups; they share no token.
        """
        first = self.groups[members[0]].tokens
        if first is None:
            return None
        if members not in self._owners:
            found = torch.full((self.n_tokens,), -1, dtype=torch.int32, device=first.device)
            for owner, member in enumerate(members):
                found[self.groups[member].tokens] = owner
            self._owners[members] = found
        return self._owners[members]


NOTHING = Layout((), 0)


class Activation:
    """The plans of one forward pass, for the routed modules to look up.

    Args:
        parts: the requests in the order of their tokens; at least one.

    Raises:
        PlanError: there is no part.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        if not parts:
            raise PlanError(
                "Expected a plan for each row of the batch",
                "Found none",
                "Pass one plan for all rows, or one for each",
            )
        self.parts = tuple(parts)
        self._is_idle = not any(part.plan.selections for part in parts)
        self._layouts: dict[tuple[torch.Size, torch.device], Layout] = {}

    def layout(self, x: Tensor, module: str) -> Layout:
        """Returns the groups of a module's tokens.

        Args:
            x: the module's input; (..., D_in).
            module: its full dotted path.

        Raises:
            ModelError: the requests' tokens cannot be told apart there.
        """
        if self._is_idle:
            return NOTHING
        key = (x.shape[:-1], x.device)
        found = self._layouts.get(key)
        if found is None:
            found = Layout(self._lay(x, module), x.shape[:-1].numel())
            self._layouts[key] = found
        return found

    def _lay(self, x: Tensor, module: str) -> tuple[Group, ...]:
        lengths = self._lengths(x.shape[:-1], module)
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        members: dict[ResolvedSelection, list[int]] = {}
        for index, part in enumerate(self.parts):
            for selection in part.plan.selections if lengths[index] else ():
                members.setdefault(selection, []).append(index)

        def positions(indices: list[int]) -> Tensor | None:
            if sum(lengths[i] for i in indices) == sum(lengths):
                return None
            spans = [range(starts[i], starts[i] + lengths[i]) for i in indices]
            return torch.tensor([token for span in spans for token in span], device=x.device)

        return tuple(
            Group(
                selection,
                positions(indices),
                tuple((lengths[i], self.parts[i].recorder) for i in indices),
            )
            for selection, indices in members.items()
        )

    def _lengths(self, shape: torch.Size, module: str) -> list[int]:
        """Returns how many of the module's tokens belong to each part."""
        n_parts, n_tokens = len(self.parts), shape.numel()
        rows = shape[0] if len(shape) > 1 else 0
        told = [part.n_tokens for part in self.parts if part.n_tokens is not None]
        kept = [part.n_kept for part in self.parts if part.n_kept is not None]
        for lengths in (told, kept):
            if len(lengths) == n_parts and sum(lengths) == n_tokens:
                return lengths
        if not told and n_parts in (1, rows):
            return [n_tokens // n_parts] * n_parts
        plans = {part.plan.selections for part in self.parts}
        if len(plans) == 1 and not any(part.recorder for part in self.parts):
            return [n_tokens, *[0] * (n_parts - 1)]
        raise ModelError(
            f"Expected the input of {module!r} to have the tokens of each of {n_parts} plans",
            f"Found the shape {tuple(shape)}: whose they are cannot be told, as in a layer of "
            "experts",
            "Run requests with different plans, or with a trace, one at a time, or keep this "
            "module out of the library",
        )
