"""From what a caller says to checked requests: plans resolved, prompts tokenised, limits known."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypedDict

from lag_engine.errors import GenerationError, PlanError
from lag_engine.model.generation import Request
from lag_engine.model.replies import ReplyBuilder
from lag_engine.model.sampling import Sampling, checked_logprobs
from lag_engine.routing import MODES, SLOTS, Generated, Pinned, Plan

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.model.guided import Guide
    from lag_engine.model.prompts import Prompt, PromptEncoder


class SamplingOptions(TypedDict, total=False):
    """The settings of `Sampling`, as keyword arguments."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int | None
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str] | None


class GenerationOptions(SamplingOptions, total=False):
    """All that can be asked of an answer, as keyword arguments."""

    guide: Guide | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str
    parallel_tool_calls: bool
    logprobs: int | None


class RequestBuilder:
    """Makes the requests of one engine.

    Args:
        model: its model, which knows its end tokens.
        tokenizer: the model's.
        prompts: tokenises and refuses what is too long.
        library: its adapters; None for none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompts: PromptEncoder,
        library: AdapterLibrary | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.library = library
        self.end_ids = _end_ids(model, tokenizer)
        self.replies = ReplyBuilder(prompts, end_ids=self.end_ids)

    @property
    def pad_id(self) -> int:
        """Fills a batch; always masked, so any token does."""
        pad_id = self.tokenizer.pad_token_id
        return int(pad_id) if pad_id is not None else min(self.end_ids, default=0)

    def one(self, prompt: Prompt, plan: str | Plan, options: Mapping[str, Any]) -> Request:
        """The request of one prompt; raises as `LAGEngine.generate`."""
        sampling = _sampling(options)
        logprobs = checked_logprobs(options.get("logprobs"))
        chosen = self.resolve(plan)
        asked = self.replies.asked(prompt, options)
        prompt_ids = self.prompts.encode(prompt, tools=asked.shown)
        reply, guide = self.replies.of(prompt, prompt_ids, asked)
        context = self.prompts.context_length
        room = sampling.max_new_tokens if context is None else context - len(prompt_ids)
        return Request(
            prompt_ids,
            chosen,
            sampling,
            end_ids=self.end_ids | self._special_stops(sampling.stop),
            max_new_tokens=min(sampling.max_new_tokens, room),
            guide=guide,
            reply=reply,
            logprobs=logprobs,
        )

    def many(
        self, prompts: Sequence[Prompt], plans: object, options: Mapping[str, Any]
    ) -> list[Request]:
        """The requests of a batch; raises as `LAGEngine.generate_batch`."""
        if isinstance(prompts, str):
            raise GenerationError(
                "Expected a list of prompts",
                "got one string",
                "Use `generate` for it, or put it into a list",
            )
        n = len(prompts)
        each_plan = per_row("plans", plans, n)
        columns = {name: per_row(name, value, n) for name, value in options.items()}
        return [
            self.one(prompt, each_plan[i], {name: column[i] for name, column in columns.items()})
            for i, prompt in enumerate(prompts)
        ]

    def resolve(self, plan: str | Plan) -> Plan:
        """A mode's name as its plan; refuses adapters where there is no library."""
        chosen = Plan.from_mode(plan) if isinstance(plan, str) else plan
        if not isinstance(chosen, Plan):
            raise PlanError(
                "Expected a plan or a mode's name",
                f"found {type(plan).__name__}",
                "Make one with `engine.plan(mode, ...)`",
            )
        needs_library = [s for s in chosen.slots if not isinstance(chosen.selection(s), Generated)]
        if needs_library and self.library is None:
            raise PlanError(
                f"Expected a library for mode '{chosen.mode}', which applies adapters",
                "this engine has none",
                "Give the engine a `library`, or ask for plan='base'",
            )
        return chosen

    def plan(self, mode: str, options: Mapping[str, Any]) -> Plan:
        """The plan of a mode, flat `adapters` split into slots by their kinds."""
        _check_options(options)
        adapters = options.get("adapters")
        if adapters is None or self.library is None or _is_by_slot(adapters):
            return Plan.from_mode(mode, **options)
        if mode in MODES and Pinned not in MODES[mode][1]:  # what is named there has no kind
            return Plan.from_mode(mode, **options)
        return Plan.from_mode(mode, **{**options, "adapters": self._by_kind(adapters)})

    def _by_kind(self, adapters: object) -> dict[str, Any]:
        assert self.library is not None
        names = [adapters] if isinstance(adapters, str) else adapters
        if not isinstance(names, Mapping | Sequence):
            raise PlanError(
                "Expected `adapters` to be names, or a mapping from names to weights",
                f"found {type(adapters).__name__}",
                "Pass a list like ['a', 'b'] or a mapping like {'a': 1.0}",
            )
        kinds = {name: self.library.info(name).kind for name in names}
        split: dict[str, Any] = {}
        for slot in SLOTS:
            chosen = [name for name in names if kinds[name] == slot]
            if chosen:
                weights = isinstance(names, Mapping)
                split[slot] = {n: names[n] for n in chosen} if weights else chosen
        return split

    def _special_stops(self, stops: Sequence[str]) -> frozenset[int]:
        """Stop strings that are a special token: they end the answer, though they have no text."""
        if not stops:
            return frozenset()
        added = self.tokenizer.get_added_vocab()
        return frozenset(added[stop] for stop in stops if stop in added)


def _check_options(options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(Plan.from_mode).parameters)[1:]
    for unknown in (name for name in options if name not in known):
        near = difflib.get_close_matches(unknown, known, n=1)
        raise PlanError(
            f"Expected options of a plan, which are {', '.join(known)}",
            f"found {unknown!r}",
            f"Did you mean {near[0]!r}?" if near else "Leave it out",
        )


def per_row(name: str, value: object, n: int) -> Sequence[Any]:
    """One value for each of n rows, from one for all or a list with one for each.

    Raises:
        GenerationError: the list has another length.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [value] * n
    if name == "stop" and all(isinstance(item, str) for item in value):
        return [value] * n
    if name == "tools" and all(isinstance(item, Mapping) for item in value):
        return [value] * n
    if len(value) != n:
        raise GenerationError(
            f"Expected `{name}` to be one value, or a list with one for each of {n} rows",
            f"found a list of {len(value)}",
            f"Pass one `{name}` for all, or {n} of them",
        )
    return value


def checkpoint_sampling(config: GenerationConfig | None) -> SamplingOptions:
    """Returns the sampling defaults of a checkpoint; none if it takes the likeliest token."""
    if config is None or not config.do_sample:
        return {}
    options: SamplingOptions = {"temperature": config.temperature or 1.0}
    if config.top_p:
        options["top_p"] = config.top_p
    if config.top_k:
        options["top_k"] = config.top_k
    if config.repetition_penalty:
        options["repetition_penalty"] = config.repetition_penalty
    return options


def _sampling(options: Mapping[str, Any]) -> Sampling:
    of_sampling = [field.name for field in fields(Sampling)]
    known = [*of_sampling, *(set(GenerationOptions.__annotations__) - set(of_sampling))]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise GenerationError(
            f"Expected settings among {', '.join(sorted(known))}",
            f"found {', '.join(unknown)}",
            "Leave it out or correct its name",
        )
    return Sampling(**{name: options[name] for name in of_sampling if name in options})


def _is_by_slot(adapters: object) -> bool:
    return (
        isinstance(adapters, Mapping)
        and all(key in SLOTS for key in adapters)
        and not any(isinstance(value, int | float) for value in adapters.values())
    )


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends an answer: the checkpoint may name several, the tokenizer one."""
    of_model = model.generation_config.eos_token_id if model.generation_config else None
    ids = of_model if isinstance(of_model, list) else [of_model]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)
