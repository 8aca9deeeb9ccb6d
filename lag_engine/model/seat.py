"""One request's place in the batch: its row, its plan, and who waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lag_engine.routing import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lag_engine.model.generation import OnText, Row
    from lag_engine.model.resolved import ResolvedPlan


class Seat:
    """What a decoder needs of a request, and how the request's end is told.

    An error in the row's own work, its guide or its reader, is kept as `error` and is nobody
    else's. One in the model is not so easily told: then each goes on with `is_alone` set.

    Args:
        row: writes the answer.
        on_text: hears every token as it comes; None for nobody.
        on_end: called once, when the row is finished or has failed.
        is_cancelled: whether nobody waits any more.
        is_traced: whether routing decisions are recorded.
    """

    def __init__(
        self,
        row: Row,
        *,
        on_text: OnText | None,
        on_end: Callable[[Seat], None],
        is_cancelled: Callable[[], bool],
        is_traced: bool,
    ) -> None:
        self.row = row
        self.on_end = on_end
        self.is_cancelled = is_cancelled
        self.plan: ResolvedPlan | None = None
        self.error: BaseException | None = None
        self.is_alone = False
        self._on_text = on_text
        self._is_traced = is_traced
        self.recorder: Recorder | None = None

    @property
    def is_over(self) -> bool:
        """Whether the row is at its end, for good or ill."""
        return self.error is not None or self.row.finish_reason is not None

    def record_anew(self) -> None:
        """Begins the record, again if the tokens are read again."""
        self.recorder = Recorder() if self._is_traced else None

    def scores(self, logits: Tensor) -> Tensor:
        """The row's scores to take the argmax of; (V,)."""
        try:
            return self.row.chooser.scores(logits, self.row.token_ids)
        except Exception as error:
            self.error = error
            return logits

    def take(self, token_id: int) -> None:
        """Feeds the row its next token, unless it has failed."""
        if self.error is not None:
            return
        try:
            text = self.row.feed(token_id)
            if self._on_text is not None:
                self._on_text(self.row, text)
        except Exception as error:
            self.error = error
