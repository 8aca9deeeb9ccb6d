"""Many answers a step: one forward pass over the next tokens of every request, on a paged cache.

The pages, the packing and the attention over them are transformers' continuous batching. Its
`ContinuousBatchingManager` is only used to set them up: the manager's own thread ends at the first
error, fails every request with it, and takes nothing in between two steps. So its batch processor
is stepped here, by the thread that owns the model.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import RequestState

from lag_engine.model.activation import Part

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from lag_engine.model.seat import Seat
    from lag_engine.model.surgery import Surgery

PAGE_TOKENS = 32
"""Tokens of one page of the cache; a request occupies whole pages."""

CACHE_TOKENS = 16_384
"""Tokens the cache holds at first, of all requests together; it grows for a longer request."""


class PagedDecoder:
    """Decodes requests together, each under its own plan.

    A request is admitted when its prompt and its longest answer fit, so that pages do not run out.

    Args:
        model: one that `can_decode`.
        surgery: applies the plans.
        max_requests: decoded together.

    Raises:
        ValueError: transformers cannot page a layer of this model.
    """

    def __init__(self, model: PreTrainedModel, surgery: Surgery, *, max_requests: int) -> None:
        self._model = model
        self._surgery = surgery
        self._max_requests = max_requests
        self._attention = model.config._attn_implementation  # noqa: SLF001
        self._choosers = _Choosers()
        self._ids = map(str, itertools.count())
        self._seats: dict[str, Seat] = {}
        self._pages: dict[str, int] = {}
        self._build(CACHE_TOKENS)

    @staticmethod
    def can_decode(model: PreTrainedModel) -> bool:
        """Whether the model's attention reads the cache it is given: older ones pass it by."""
        return bool(getattr(model, "_supports_attention_backend", False))

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The requests in the batch."""
        return tuple(self._seats.values())

    def has_room(self, seat: Seat) -> bool:
        """Whether the request can join the batch now."""
        if len(self._seats) >= self._max_requests:
            return False
        return sum(self._pages.values()) + _pages(seat) <= self._n_pages or not self._seats

    def admit(self, seat: Seat) -> None:
        """Lets a request into the batch; what it has written already is read with its prompt."""
        if _pages(seat) > self._n_pages:
            self._build(_pages(seat) * PAGE_TOKENS)
        request_id = next(self._ids)
        row = seat.row
        state = RequestState(
            request_id=request_id,
            initial_tokens=[*row.request.prompt_ids, *row.token_ids],
            max_new_tokens=None,
            eos_token_id=None,
        )
        self._processor.scheduler.add_waiting_request(state)
        self._seats[request_id] = seat
        self._pages[request_id] = _pages(seat)

    def leave(self, seat: Seat) -> None:
        """Takes a request out of the batch; its pages are free at once."""
        request_id = next(key for key, value in self._seats.items() if value is seat)
        scheduler = self._processor.scheduler
        scheduler.set_request_cancellation(request_id)
        scheduler.clear_cancelled_requests()
        del self._seats[request_id], self._pages[request_id]

    def step(self) -> None:
        """Feeds every request the tokens it is at, and gives it its next one.

        Raises:
            Exception: whatever the model raised; the batch must be `reset` then.
        """
        if not self._processor.prepare_next_batch():
            raise RuntimeError("the paged cache took none of the requests it had room for")
        batch = list(self._processor.inputs_and_outputs.requests_in_batch)
        seats = [self._seats[entry.state.request_id] for entry in batch]
        self._choosers.seats = [s for s, e in zip(seats, batch, strict=True) if e.has_new_token]
        for seat, entry in zip(seats, batch, strict=True):
            if entry.state.position_offset == entry.query_length:
                # Its first tokens are read, for the first time or, if pages ran out, again.
                seat.record_anew()
        parts = [
            Part(seat.plan, entry.query_length, int(entry.has_new_token), seat.recorder)
            for seat, entry in zip(seats, batch, strict=True)
            if seat.plan is not None
        ]
        with self._surgery.activate(parts):
            self._processor._generation_step(self._model)  # noqa: SLF001
        self._choosers.seats = []
        self._processor.update_batch()
        for seat, entry in zip(seats, batch, strict=True):
            if entry.has_new_token:
                seat.take(entry.state.generated_tokens[-1])

    def reset(self) -> None:
        """Empties the batch and the cache."""
        self._processor.reset()
        self._seats.clear()
        self._pages.clear()

    def close(self) -> None:
        """Gives the model its own attention back."""
        if self._model.config._attn_implementation != self._attention:  # noqa: SLF001
            self._model.set_attn_implementation(self._attention)

    def _build(self, cache_tokens: int) -> None:
        """Makes an empty cache of this size; frees the one before first."""
        self._processor: Any = None
        n_pages = math.ceil(cache_tokens / PAGE_TOKENS)
        model: Any = self._model
        manager = model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1),
            ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=n_pages,
                max_batch_tokens=2048 if model.device.type == "cuda" else 512,
                max_requests_per_batch=self._max_requests,
                max_blocks_per_request=0,
                safety_margin=0.0,
                # Adapters change keys and values: equal tokens of two plans are not equal pages.
                allow_block_sharing=False,
                # Routing chooses at every step: no recorded graph can, nor a step in advance.
                use_cuda_graph=False,
                use_async_batching=False,
                auto_switch_to_flash=False,
            ),
        )
        manager.logit_processor = self._choosers
        self._processor = manager._create_batch_processor()  # noqa: SLF001
        self._n_pages = n_pages


class _Choosers(ContinuousBatchingLogitsProcessorList):
    """Lets each request of a step turn its logits into the scores of its next token."""

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.seats: list[Seat] = []
        self.do_processing = True

    def __call__(self, input_ids: Tensor, logits: Tensor, arguments: Tensor) -> Tensor:
        """Scores to take the argmax of; rows past the seats are not used; (n, V)."""
        del input_ids, arguments
        if all(seat.row.chooser.is_plain for seat in self.seats):
            return logits
        return torch.stack(
            [seat.scores(row) for seat, row in zip(self.seats, logits, strict=False)]
        )


def _pages(seat: Seat) -> int:
    request = seat.row.request
    return math.ceil((len(request.prompt_ids) + request.max_new_tokens) / PAGE_TOKENS)
