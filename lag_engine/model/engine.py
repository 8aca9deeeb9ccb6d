"""LAGEngine: a base model with a library of adapters, ready to answer under any plan."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

from lag_engine.adapters.base_model import is_same_base
from lag_engine.adapters.library import AdapterLibrary
from lag_engine.errors import AdapterMismatchError, GenerationError, LibraryError
from lag_engine.model.loading import TINY, Dtype, Quantization, load
from lag_engine.model.prompts import Prompt, PromptEncoder, context_length
from lag_engine.model.requests import (
    GenerationOptions,
    RequestBuilder,
    SamplingOptions,
    checkpoint_sampling,
    per_row,
)
from lag_engine.model.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.adapters.peft_adapter import PeftAdapter
    from lag_engine.model.conversations import Message
    from lag_engine.model.generation import Generation, StreamPiece
    from lag_engine.routing import Plan

R = TypeVar("R")


class EngineOptions(TypedDict, total=False):
    """What an engine takes besides its model and library; `LAGEngine` says what each means."""

    read_only: bool
    allow_other_base: bool
    max_batch: int
    max_waiting: int
    map_factors: bool
    factor_cache_bytes: int | None


class LAGEngine:
    """Answers prompts with a base model whose adapters a plan chooses.

    The model is changed in place: its linear modules are wrapped until `close`, which puts
    everything back, bit for bit. One thread owns it; every method may be called from any thread,
    and requests of all threads are decoded together, each under its own plan. A request sees the
    library as it is when its decoding begins, changes made by other processes included. The
    checkpoint's own sampling defaults are not used; `checkpoint_sampling` tells them.

    Args:
        model: a causal language model of transformers.
        tokenizer: the model's.
        library: an open library, which stays the caller's to close, or the path of one, or None:
            then only plans without adapters run.
        read_only: how a library given as a path is opened.
        name: what the model is called in results and errors; by default what it was loaded from.
        allow_other_base: accepts a library made for a model of another name, if its modules fit.
        max_batch: requests decoded together, each under its own plan; others wait their turn.
        max_waiting: requests that may wait; more are refused with `BusyError`.
        map_factors: of a library given as a path; see `AdapterLibrary.open`.
        factor_cache_bytes: likewise.

    Raises:
        AdapterMismatchError: the library was made for another base model.
        LibraryError: there is no library at the path, it cannot be opened, or an open one is given
            with `map_factors` or `factor_cache_bytes`.
        ModelError: a target module is not linear, or the model is in another engine already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary | str | Path | None = None,
        *,
        read_only: bool = True,
        name: str | None = None,
        allow_other_base: bool = False,
        max_batch: int = 32,
        max_waiting: int = 1024,
        map_factors: bool = True,
        factor_cache_bytes: int | None = None,
    ) -> None:
        self._held = ExitStack()
        opened = _opened(
            library,
            self._held,
            read_only=read_only,
            map_factors=map_factors,
            factor_cache_bytes=factor_cache_bytes,
        )
        embeddings: Any = model.get_input_embeddings()
        self.model = model
        self.tokenizer = tokenizer
        self.library: AdapterLibrary | None = opened
        self.name = name or str(model.config.name_or_path) or type(model).__name__
        self._prompts = PromptEncoder(
            tokenizer,
            context_length=context_length(model.config),
            vocabulary_size=embeddings.weight.shape[0],
        )
        self._requests = RequestBuilder(model, tokenizer, prompts=self._prompts, library=opened)
        try:
            if opened is not None and not allow_other_base:
                _check_base(opened, model, name)
            self._runtime = Runtime(
                model,
                tokenizer,
                opened,
                pad_id=self._requests.pad_id,
                held=self._held,
                max_batch=max_batch,
                max_waiting=max_waiting,
            )
        except BaseException:
            self._held.close()
            raise

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        library: AdapterLibrary | str | Path | None = None,
        device: str = "auto",
        dtype: Dtype = "auto",
        quantization: Quantization | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Loads a model and makes an engine of it.

        Args:
            model: "lag-tiny", a model folder, or a hub id.
            library: as for the engine; "lag-tiny" brings its own when this is None.
            device: "auto" takes the first CUDA device, else the CPU; or a torch device name.
            dtype: "auto" keeps the checkpoint's, but runs half precision checkpoints of fewer
                than a billion parameters in float32 on a CPU; or a torch dtype or its name.
            quantization: "4bit" or "8bit" through bitsandbytes.
            revision: of the hub id.
            trust_remote_code: runs model code from the checkpoint; only for sources you trust.
            **options: as for the engine.

        Raises:
            ModelError: the model cannot be loaded.
            AdapterMismatchError: the library was made for another base model.
            LibraryError: the library cannot be opened.
        """
        if model == TINY and library is None:
            from lag_engine import tiny

            library = tiny.library_path()
        with ExitStack() as held:
            opened = _opened(  # what is wrong with it is told before a long loading
                library,
                held,
                read_only=options.pop("read_only", True),
                map_factors=options.pop("map_factors", True),
                factor_cache_bytes=options.pop("factor_cache_bytes", None),
            )
            loaded = load(
                model,
                device=device,
                dtype=dtype,
                quantization=quantization,
                revision=revision,
                trust_remote_code=trust_remote_code,
            )
            engine = cls(loaded.model, loaded.tokenizer, opened, name=loaded.name, **options)
            engine._held.push(held.pop_all())
            return engine

    @property
    def context_length(self) -> int | None:
        """The most positions the model has, prompt and answer together; None if unbounded."""
        return self._prompts.context_length

    @property
    def supports_tools(self) -> bool:
        """Whether the chat template shows tools, and writes calls in a way that is known here."""
        return self._prompts.tool_format is not None

    @property
    def is_closed(self) -> bool:
        """Whether the model was given back."""
        return self._runtime.is_closed

    def generate(
        self,
        prompt: Prompt,
        *,
        plan: str | Plan = "lag",
        trace: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Writes one answer.

        Args:
            prompt: raw text, a list of {"role", "content"} messages, or token ids.
            plan: a mode's name, with its default options, or a plan.
            trace: records the routing decisions in the answer's `trace`.
            **options: `max_new_tokens` (256), `temperature` (0: the likeliest token), `top_p`,
                `top_k`, `repetition_penalty`, `seed`, `stop`; see `Sampling`.
                `guide`: what the answer must match, a `Guide`.
                `tools`: functions in OpenAI's form, for a list of messages; `tool_choice`: "auto",
                "any", "none" (they are not shown) or a tool's name; `parallel_tool_calls` (True).
                Calls always follow the tools' schemas.
                `logprobs`: None, or how many of the likeliest tokens are told with each token.

        Raises:
            PromptTooLongError: the prompt leaves no room in the model's context.
            GenerationError: the prompt or a setting cannot be used, or the engine was closed.
            PlanError: the plan is unknown, or needs a library and there is none.
            AdapterNotFoundError: the plan names an adapter that the library does not have.
        """
        request = self._requests.one(prompt, plan, options)
        return self._runtime.answer([request], trace=trace)[0]

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        plans: str | Plan | Sequence[str | Plan] = "lag",
        trace: bool = False,
        **options: Any,
    ) -> list[Generation]:
        """Writes an answer to each prompt, all in one batch; each is what it would be alone.

        Args:
            prompts: as for `generate`.
            plans: one for all, or one for each prompt.
            trace: as for `generate`.
            **options: as for `generate`; each one value for all, or a list with one for each
                prompt. A list of strings is one `stop`, a list of tools one `tools` for all.

        Raises:
            LagError: as for `generate`; also when a list has another length than `prompts`.
        """
        requests = self._requests.many(prompts, plans, options)
        return self._runtime.answer(requests, trace=trace) if requests else []

    def stream(
        self,
        prompt: Prompt,
        *,
        plan: str | Plan = "lag",
        trace: bool = False,
        **options: Unpack[GenerationOptions],
    ) -> Generator[StreamPiece, None, None]:
        """Yields the answer of `generate` as it is written.

        Only certain text comes: whole characters, and nothing that may belong to a stop string.
        Decoding starts at the first `next`; closing the generator ends it at the next token.

        Args:
            prompt: as for `generate`.
            plan: as for `generate`.
            trace: as for `generate`.
            **options: as for `generate`.

        Raises:
            LagError: as for `generate`; what is wrong with prompt or settings at once.
        """
        request = self._requests.one(prompt, plan, options)
        return self._runtime.stream(request, trace=trace)

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        plan: str | Plan | Sequence[str | Plan],
    ) -> Tensor:
        """Returns the model's logits at every position.

        Args:
            input_ids: (B, T).
            attention_mask: 1 where a token is, 0 where padding is; (B, T); None: no padding.
            plan: one for all rows, or one for each.

        Returns:
            Logits; (B, T, V); in the model's dtype and on its device.

        Raises:
            PromptTooLongError: the rows are longer than the model's context.
            GenerationError: `input_ids` has another shape.
            PlanError: as for `generate`.
        """
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise GenerationError(
                "Expected input_ids of shape (B, T) with at least one token",
                f"got {tuple(input_ids.shape)}",
                "Add the batch dimension, as with `input_ids[None]`",
            )
        self._prompts.check_length(input_ids.shape[1], room=0)
        plans = [self._requests.resolve(p) for p in per_row("plan", plan, input_ids.shape[0])]

        return self._runtime.logits(input_ids, attention_mask, plans)

    def score(
        self, prompt: Prompt, continuation: str | Sequence[int], *, plan: str | Plan = "lag"
    ) -> float:
        """Returns the natural log-probability of the continuation after the prompt.

        Args:
            prompt: as for `generate`.
            continuation: text or token ids; text after raw text is tokenised together with it.
            plan: as for `generate`.

        Raises:
            PromptTooLongError: both together are longer than the model's context.
            GenerationError: the prompt or the continuation has no token.
            PlanError: as for `generate`.
        """
        before = self._prompts.encode(prompt)
        after = self._prompts.encode_continuation(prompt, continuation)
        self._prompts.check_length(len(before) + len(after), room=0)
        return self._runtime.score(before, after, self._requests.resolve(plan))

    def generated(
        self, adapters: Mapping[str, PeftAdapter]
    ) -> AbstractContextManager[tuple[str, ...]]:
        """Holds adapters in memory that were made for a request, without a library (DyPRAG).

        The context gives their names, in the order of `adapters`, for a `Generated` selection or
        `plan("dyprag", adapters=names)`; a name ends in a hash of the factors, so equal names mean
        equal adapters. Requests that begin inside the context keep them to their end.

        Args:
            adapters: for each name an adapter of this model.

        Raises:
            AdapterMismatchError: an adapter updates other modules or widths than the model has.
            AdapterFormatError: its factors do not fit together or are not finite.
            PlanError: too many bytes are held already.
        """
        return self._runtime.generated(adapters)

    def lend(self, work: Callable[[PreTrainedModel], R]) -> R:
        """Runs work on the bare model, gradients on, while no request is at it, and waits for it.

        Requests go on afterwards. The model must be given back as it was.
        """
        return self._runtime.lend(work)

    def tokenize_messages(self, messages: Sequence[Message], **options: Any) -> tuple[int, ...]:
        """Returns a conversation's token ids by the model's chat template, special tokens once.

        Args:
            messages: {"role", "content"} and whatever else the template reads.
            **options: for the template, as `tools`; `add_generation_prompt` is True by default.

        Raises:
            GenerationError: there is no chat template, or it refuses the messages.
        """
        return self._prompts.messages(messages, **options)

    def plan(self, mode: str, **options: Any) -> Plan:
        """Returns the plan of a mode; `Plan.from_mode` with the library at hand.

        Adapters given as a flat list, or a flat mapping to weights, go into the slot of their
        kind.

        Raises:
            PlanError: the mode or an option does not exist, or adapters are given or missing
                where they should not be.
            AdapterNotFoundError: an adapter is not in the library.
        """
        return self._requests.plan(mode, options)

    def checkpoint_sampling(self) -> SamplingOptions:
        """Returns the sampling defaults that the checkpoint brings, to pass to `generate`."""
        return checkpoint_sampling(self.model.generation_config)

    def close(self) -> None:
        """Ends all requests with an error and gives the model back as it was; safe to repeat."""
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _opened(
    library: AdapterLibrary | str | Path | None,
    held: ExitStack,
    *,
    read_only: bool,
    map_factors: bool,
    factor_cache_bytes: int | None,
) -> AdapterLibrary | None:
    """Opens a library given as a path; `held` closes it."""
    if isinstance(library, str | Path):
        return held.enter_context(
            AdapterLibrary.open(
                library,
                read_only=read_only,
                map_factors=map_factors,
                factor_cache_bytes=factor_cache_bytes,
            )
        )
    if library is not None and (factor_cache_bytes is not None or not map_factors):
        name = "map_factors" if factor_cache_bytes is None else "factor_cache_bytes"
        raise LibraryError(
            f"Expected the path of a library where {name} is given",
            f"found the open library {library.path}",
            f"pass the path, or {name} to AdapterLibrary.open",
        )
    return library


def _check_base(library: AdapterLibrary, model: PreTrainedModel, name: str | None) -> None:
    """Refuses a library of another model's name; modules and widths are the surgery's to check."""
    names = [n for n in (name, str(model.config.name_or_path)) if n]
    if not names or any(is_same_base(library.base_model, n) for n in names):
        return
    raise AdapterMismatchError(
        f"Expected a library for the base model {names[0]}",
        f"found one for {library.base_model}",
        "Open the library of this model; if the two are one model, or you want these adapters on "
        "the other model, pass allow_other_base=True in Python",
    )
