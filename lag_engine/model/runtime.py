"""A model at work: it, its surgery and the one thread that may touch them."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lag_engine.model.bank import AdapterBank
from lag_engine.model.forward import forward_logits, log_probability
from lag_engine.model.generation import Generation, PieceCutter, Request, Row, StreamPiece, decode
from lag_engine.model.surgery import Surgery, install
from lag_engine.model.worker import Job, Worker
from lag_engine.routing import Plan, Recorder, RoutingTrace

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.adapters.library import AdapterLibrary


class Runtime:
    """Runs checked requests on a model, one after another, each under its plans.

    Installs the surgery on the model; undone by `close`, or when the runtime is dropped without.

    Args:
        model: in evaluation mode until `close`.
        tokenizer: for the text of answers.
        library: its adapters; None for none.
        pad_id: fills a batch; always masked.
        owns_library: whether `close` closes the library too.

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
        owns_library: bool,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._surgery = install(model, AdapterBank(library))
        was_training = model.training
        model.eval()
        self._worker = Worker()
        self._undo = weakref.finalize(
            self,
            _undo,
            self._worker,
            self._surgery,
            model=model,
            was_training=was_training,
            library=library if owns_library else None,
        )

    @property
    def is_closed(self) -> bool:
        """Whether the model was given back."""
        return not self._undo.alive

    def close(self) -> None:
        """Ends all requests with an error and gives the model back; safe to repeat."""
        self._undo()

    def answer(self, requests: Sequence[Request], *, trace: bool) -> list[Generation]:
        """Writes the answers of one batch."""
        return self._worker.call(lambda job: self._answer(requests, trace, job))

    def stream(self, request: Request, *, trace: bool) -> Generator[StreamPiece, None, None]:
        """Yields one answer in pieces."""
        return self._worker.stream(lambda job: self._emit(request, trace, job), StreamPiece)

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

    def _answer(
        self, requests: Sequence[Request], trace: bool, job: Job, cutter: PieceCutter | None = None
    ) -> list[Generation]:
        """Decodes one batch, on the worker; empty if it was cancelled."""
        rows = [Row(request, self._tokenizer) for request in requests]
        recorder = Recorder() if trace else None
        with self._applied([request.plan for request in requests], recorder):
            decode(
                self._model,
                rows,
                pad_id=self._pad_id,
                on_text=cutter,
                is_cancelled=lambda: job.is_cancelled,
                recorder=recorder,
            )
        if any(row.finish_reason is None for row in rows):
            return []
        return [row.generation(self._trace(recorder, i, row)) for i, row in enumerate(rows)]

    def _emit(self, request: Request, trace: bool, job: Job) -> None:
        cutter = PieceCutter(job.emit)
        for generation in self._answer([request], trace, job, cutter):
            job.emit(cutter.last(generation))

    @contextmanager
    def _applied(self, plans: Sequence[Plan], recorder: Recorder | None = None) -> Iterator[None]:
        """Follows the library, then applies the plans; on the worker only."""
        self._surgery.refresh()
        with self._surgery.activate(plans, recorder):
            yield

    def _trace(self, recorder: Recorder | None, index: int, row: Row) -> RoutingTrace | None:
        if recorder is None:
            return None
        token_ids = (*row.request.prompt_ids, *row.token_ids[:-1])
        return RoutingTrace.from_recorder(
            recorder,
            request=index,
            token_ids=token_ids,
            tokens=[str(self._tokenizer.decode([i])) for i in token_ids],
            plan=row.request.plan,
        )


def _undo(
    worker: Worker,
    surgery: Surgery,
    *,
    model: PreTrainedModel,
    was_training: bool,
    library: AdapterLibrary | None,
) -> None:
    worker.close()
    surgery.remove()
    model.train(was_training)
    if library is not None:
        library.close()
