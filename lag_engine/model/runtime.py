"""A model at work: it, its surgery and the one thread that may touch them."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from lag_engine.adapters.base_model import check_base, describe_base
from lag_engine.model.bank import AdapterBank
from lag_engine.model.forward import forward_logits, log_probability
from lag_engine.model.generation import Generation, PieceCutter, Request, Row, StreamPiece
from lag_engine.model.scheduler import Scheduler
from lag_engine.model.seat import Seat
from lag_engine.model.surgery import Surgery, install
from lag_engine.model.worker import Job, Worker
from lag_engine.routing import Plan, RoutingTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.adapters.peft_adapter import PeftAdapter
    from lag_engine.model.generation import OnText

R = TypeVar("R")


class Runtime:
    """Runs checked requests on a model, as many together as fit, each under its own plan.

    Installs the surgery on the model; undone by `close`, or when the runtime is dropped without.

    Args:
        model: in evaluation mode until `close`.
        tokenizer: for the text of answers.
        library: its adapters; None for none.
        pad_id: fills a batch; always masked.
        held: closed last.
        max_batch: requests decoded together.
        max_waiting: requests that may wait for a place.

    Raises:
        AdapterMismatchError: the library's modules do not fit the model.
        ModelError: a target module is not linear, or is routed already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary | None,
        *,
        pad_id: int,
        held: ExitStack,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._base = describe_base(model)
        self._surgery = install(model, AdapterBank(library))
        was_training = model.training
        model.eval()
        self._scheduler = Scheduler(
            model, self._surgery, pad_id=pad_id, max_batch=max_batch, max_waiting=max_waiting
        )
        self._worker = Worker(self._scheduler)
        self._undo = weakref.finalize(
            self,
            _undo,
            self._worker,
            self._scheduler,
            self._surgery,
            model=model,
            was_training=was_training,
            held=held,
        )

    @property
    def is_closed(self) -> bool:
        """Whether the model was given back."""
        return not self._undo.alive

    def close(self) -> None:
        """Ends all requests with an error and gives the model back; safe to repeat."""
        self._undo()

    def answer(self, requests: Sequence[Request], *, trace: bool) -> list[Generation]:
        """Writes the answers to some requests, each as soon as there is a place for it."""

        def begin(job: Job) -> None:
            answers: dict[int, Generation] = {}

            def on_end(index: int, seat: Seat) -> None:
                if seat.error is not None:
                    job.fail(seat.error)
                    return
                answers[index] = self._generation(seat)
                if len(answers) == len(requests):
                    job.finish([answers[i] for i in range(len(requests))])

            self._scheduler.add(
                [
                    self._seat(request, trace, job, partial(on_end, index))
                    for index, request in enumerate(requests)
                ]
            )

        return self._worker.begin(begin, list)

    def stream(self, request: Request, *, trace: bool) -> Generator[StreamPiece, None, None]:
        """Yields one answer in pieces."""

        def begin(job: Job) -> None:
            cutter = PieceCutter(job.emit)

            def on_end(seat: Seat) -> None:
                if seat.error is not None:
                    job.fail(seat.error)
                    return
                job.emit(cutter.last(self._generation(seat)))
                job.finish(None)

            self._scheduler.add([self._seat(request, trace, job, on_end, cutter)])

        return self._worker.stream(begin, StreamPiece)

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor | None, plans: Sequence[Plan]
    ) -> Tensor:
        """The logits at every position; (B, T, V)."""

        def work(_: Job) -> Tensor:
            with self._applied(plans):
                return forward_logits(self._model, input_ids, attention_mask)

        # Cloned out here: a tensor of inference mode could not enter a caller's autograd graph.
        return self._worker.call(work).clone()

    def score(
        self, prompt_ids: Sequence[int], continuation_ids: Sequence[int], plan: Plan
    ) -> float:
        """The natural log-probability of the continuation."""

        def work(_: Job) -> float:
            with self._applied([plan]):
                return log_probability(self._model, prompt_ids, continuation_ids)

        return self._worker.call(work)

    def lend(self, work: Callable[[PreTrainedModel], R]) -> R:
        """Runs work on the bare model, between two steps of whatever is decoded."""

        def lent(_: Job) -> R:
            with torch.inference_mode(mode=False), torch.enable_grad():
                return work(self._model)

        return self._worker.call(lent)

    @contextmanager
    def generated(self, adapters: Mapping[str, PeftAdapter]) -> Iterator[tuple[str, ...]]:
        """Holds adapters in memory; yields the names under which plans may apply them."""
        for adapter in adapters.values():
            check_base(adapter, self._base, {}, allow_other_base=True)
        held = self._surgery.bank.generated
        names = held.add(adapters)
        try:
            self._worker.call(lambda _: self._surgery.cover())
            yield names
        finally:
            held.release(names)

    def _seat(
        self,
        request: Request,
        trace: bool,
        job: Job,
        on_end: Callable[[Seat], None],
        on_text: OnText | None = None,
    ) -> Seat:
        return Seat(
            Row(request, self._tokenizer),
            on_text=on_text,
            on_end=on_end,
            is_cancelled=lambda: job.is_cancelled,
            is_traced=trace,
        )

    @contextmanager
    def _applied(self, plans: Sequence[Plan]) -> Iterator[None]:
        """Applies plans to one forward pass, on the worker only.

        Follows the library first, unless requests are being decoded, which rely on its state.
        """
        if not self._scheduler.is_running:
            self._surgery.refresh()
        with self._surgery.activate(plans):
            yield

    def _generation(self, seat: Seat) -> Generation:
        row, recorder = seat.row, seat.recorder
        if recorder is None:
            return row.generation()
        token_ids = (*row.request.prompt_ids, *row.token_ids[:-1])
        trace = RoutingTrace.from_recorder(
            recorder,
            token_ids=token_ids,
            tokens=[str(self._tokenizer.decode([i])) for i in token_ids],
            plan=row.request.plan,
        )
        return row.generation(trace)


def _undo(
    worker: Worker,
    scheduler: Scheduler,
    surgery: Surgery,
    *,
    model: PreTrainedModel,
    was_training: bool,
    held: ExitStack,
) -> None:
    worker.close()
    scheduler.close()
    surgery.remove()
    surgery.bank.close()
    model.train(was_training)
    held.close()
