"""One answer after another, on transformers' `generate`: for models whose cache cannot be paged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lag_engine.model.activation import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lag_engine.model.seat import Seat
    from lag_engine.model.surgery import Surgery


class SoloDecoder:
    """Decodes one request at a time, from its prompt to its end in one step.

    Recurrent models, and those whose attention is older than transformers' paged cache, need it.

    Args:
        model: any decoder of transformers.
        surgery: applies the plans.
        pad_id: any token; `generate` wants one.
    """

    def __init__(self, model: PreTrainedModel, surgery: Surgery, *, pad_id: int) -> None:
        self._model = model
        self._surgery = surgery
        self._pad_id = pad_id
        self._seat: Seat | None = None

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The request at work, if any."""
        return () if self._seat is None else (self._seat,)

    def has_room(self, seat: Seat) -> bool:
        """Whether nothing is at work."""
        del seat
        return self._seat is None

    def admit(self, seat: Seat) -> None:
        """Takes the request that comes next."""
        self._seat = seat

    def leave(self, seat: Seat) -> None:
        """Lets it go."""
        assert seat is self._seat
        self._seat = None

    def step(self) -> None:
        """Writes the answer to its end, or until nobody waits for it.

        Raises:
            Exception: whatever the model raised.
        """
        seat = self._seat
        assert seat is not None
        assert seat.plan is not None
        request, written = seat.row.request, seat.row.token_ids
        seat.record_anew()
        ids = torch.tensor([[*request.prompt_ids, *written]], device=self._model.device)
        part = Part(seat.plan, recorder=seat.recorder)
        with self._surgery.activate([part]), _neutral_defaults(self._model):
            cast("Any", self._model).generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=request.max_new_tokens - len(written),
                    pad_token_id=self._pad_id,
                    use_cache=True,
                ),
                logits_processor=LogitsProcessorList([_Chooser(seat)]),
                stopping_criteria=StoppingCriteriaList([_Taker(seat)]),
            )

    def reset(self) -> None:
        """Lets the request go, after an error."""
        self._seat = None

    def close(self) -> None:
        """Nothing was changed on the model."""


class _Chooser(LogitsProcessor):
    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores to take the argmax of; (1, V)."""
        return scores if self.seat.row.chooser.is_plain else self.seat.scores(scores[0])[None]


class _Taker(StoppingCriteria):
    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Feeds the row its token; whether it is the last; (1,)."""
        if not self.seat.is_cancelled():
            self.seat.take(int(input_ids[0, -1]))
        is_last = self.seat.is_over or self.seat.is_cancelled()
        return torch.tensor([is_last], device=input_ids.device)


@contextmanager
def _neutral_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hides the checkpoint's generation settings: `generate` fills them in for our defaults."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
