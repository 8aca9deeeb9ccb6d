"""Who is decoded when: requests join the running batch, and leave it when they end.

One step of the batch gives every request in it a token. Between two steps requests that ended or
that nobody waits for any more leave, and waiting ones take their places.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from lag_engine.errors import BusyError
from lag_engine.model.paged import PagedDecoder
from lag_engine.model.solo import SoloDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from lag_engine.model.seat import Seat
    from lag_engine.model.surgery import Surgery


class Decoder(Protocol):
    """Decodes the requests of a batch, a token each a step."""

    @property
    def seats(self) -> Sequence[Seat]:
        """The requests in the batch."""
        ...

    def has_room(self, seat: Seat) -> bool:
        """Whether the request can join the batch now; always true of an empty one."""
        ...

    def admit(self, seat: Seat) -> None:
        """Lets a request into the batch."""
        ...

    def leave(self, seat: Seat) -> None:
        """Takes a request out of the batch."""
        ...

    def step(self) -> None:
        """Gives requests of the batch their next tokens."""
        ...

    def reset(self) -> None:
        """Empties the batch, after an error in a step."""
        ...

    def close(self) -> None:
        """Undoes what was changed on the model."""
        ...


class Scheduler:
    """Keeps the batch of one model full; only the thread that owns the model may use it.

    A request sees the library as it is when it joins. When the library changes, requests that run
    end on its old state, and the waiting ones join after them.

    Args:
        model: any decoder of transformers.
        surgery: applies the plans.
        pad_id: any token; for models that are decoded one request after another.
        max_batch: requests decoded together.
        max_waiting: requests that may wait; more are refused.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        surgery: Surgery,
        *,
        pad_id: int,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._model = model
        self._surgery = surgery
        self._pad_id = pad_id
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[Seat] = deque()
        self._suspects: deque[Seat] = deque()
        self._decoder: Decoder | None = None

    @property
    def is_running(self) -> bool:
        """Whether any request has joined the batch, and so relies on the library's state."""
        return bool(self._decoder is not None and self._decoder.seats)

    @property
    def is_idle(self) -> bool:
        """Whether no request runs or waits."""
        return not (self._waiting or self._suspects or self.is_running)

    def add(self, seats: Sequence[Seat]) -> None:
        """Lets requests wait for places in the batch.

        Raises:
            BusyError: too many wait already.
        """
        if len(self._waiting) >= self._max_waiting:
            raise BusyError(
                f"Expected fewer than {self._max_waiting} requests to wait",
                f"{len(self._waiting)} do",
                "Ask again later, or give the engine a larger `max_waiting`",
            )
        self._waiting.extend(seats)

    def step(self) -> None:
        """Fills the batch and gives each of its requests a token."""
        self._drop_cancelled()
        self._fill()
        decoder = self._decoder
        if decoder is None or not decoder.seats:
            return
        try:
            decoder.step()
        except Exception as error:
            self._isolate(decoder, error)
            return
        for seat in [seat for seat in decoder.seats if seat.is_over]:
            decoder.leave(seat)
            seat.on_end(seat)

    def close(self) -> None:
        """Forgets all requests and undoes what was changed on the model."""
        self._waiting.clear()
        self._suspects.clear()
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _drop_cancelled(self) -> None:
        for queue in (self._waiting, self._suspects):
            for seat in [seat for seat in queue if seat.is_cancelled()]:
                queue.remove(seat)
        if self._decoder is not None:
            for seat in [seat for seat in self._decoder.seats if seat.is_cancelled()]:
                self._decoder.leave(seat)

    def _fill(self) -> None:
        """Lets waiting requests join; those behind an error join alone, before all others."""
        while self._suspects or self._waiting:
            queue = self._suspects or self._waiting
            if self.is_running and (self._suspects or not self._can_join(queue[0])):
                return
            seat = queue.popleft()
            try:
                self._join(seat)
            except Exception as error:
                seat.error = error
                seat.on_end(seat)

    def _can_join(self, seat: Seat) -> bool:
        assert self._decoder is not None
        is_alone = any(s.is_alone for s in self._decoder.seats)
        return not is_alone and self._surgery.is_current and self._decoder.has_room(seat)

    def _join(self, seat: Seat) -> None:
        if not self._surgery.is_current:
            self._surgery.refresh()
        seat.plan = self._surgery.resolve(seat.row.request.plan)
        if self._decoder is None:
            self._decoder = self._make_decoder()
        self._decoder.admit(seat)

    def _isolate(self, decoder: Decoder, error: Exception) -> None:
        """Finds out whose error it is: each request goes on alone, and fails alone."""
        seats = list(decoder.seats)
        decoder.reset()
        if len(seats) > 1:
            for seat in seats:
                seat.is_alone = True
            self._suspects.extend(seats)
            return
        for seat in seats:
            seat.error = error
            seat.on_end(seat)

    def _make_decoder(self) -> Decoder:
        if PagedDecoder.can_decode(self._model):
            try:
                return PagedDecoder(self._model, self._surgery, max_requests=self._max_batch)
            except ValueError:  # a kind of layer that transformers cannot page
                pass
        return SoloDecoder(self._model, self._surgery, pad_id=self._pad_id)
