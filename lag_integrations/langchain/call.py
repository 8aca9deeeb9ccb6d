"""One call to the model: its engine, its messages, and what the engine is asked to do."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import BaseMessage

from lag_engine import GenerationError, PlanError
from lag_integrations.engines import get_engine
from lag_integrations.langchain.messages import to_engine_messages
from lag_integrations.langchain.results import TraceDetail, response_metadata
from lag_integrations.modes import pins_adapters

if TYPE_CHECKING:
    from lag_engine import Generation, LAGEngine, Plan, StreamPiece
    from lag_integrations.langchain.chat_model import LAGChatModel

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
PLANNING = ("plan", "mode", "adapters", "routing")
OTHER = ("model", "trace", "lag_documents")
BY_THE_FRAMEWORK = ("stream", "ls_structured_output_format")


@dataclass(frozen=True)
class Call:
    """A prepared call.

    Args:
        engine: answers it.
        model: the name the engine was asked for by.
        messages: in the engine's form.
        options: keyword arguments of `LAGEngine.generate` and `LAGEngine.stream`.
        trace: how much routing the answer tells.
        extra: more response metadata.
    """

    engine: LAGEngine
    model: str
    messages: list[dict[str, str]]
    options: dict[str, Any]
    trace: TraceDetail
    extra: dict[str, Any]

    def stream(self) -> Generator[StreamPiece, None, None]:
        """The engine's pieces of the answer; closing it ends the generation."""
        yield from self.engine.stream(self.messages, **self.options)

    def metadata(self, generation: Generation) -> dict[str, Any]:
        """The response metadata of the finished answer."""
        return response_metadata(generation, model=self.model, trace=self.trace, extra=self.extra)


def prepare(
    llm: LAGChatModel,
    messages: list[BaseMessage],
    *,
    stop: list[str] | None,
    arguments: dict[str, Any],
) -> Call:
    """Checks a call's keyword arguments and fills in the model's own settings for the rest.

    Raises:
        GenerationError: an argument is unknown, or a message cannot be read by the model.
        PlanError: the mode, its adapters and its options do not fit together.
        LagError: the engine cannot be loaded.
    """
    _refuse_unknown(arguments)
    name = str(arguments.get("model") or llm.model)
    engine = get_engine(llm.engine_key.for_model(name))
    trace: TraceDetail = cast("TraceDetail", arguments.get("trace", llm.trace))
    sampling = {key: arguments.get(key, getattr(llm, key)) for key in SAMPLING}
    options = {
        "max_new_tokens": sampling.pop("max_tokens"),
        **sampling,
        "plan": _plan(llm, engine, arguments),
        "stop": stop if stop is not None else llm.stop,
        "trace": trace != "none",
    }
    documents = arguments.get("lag_documents")
    extra = {} if documents is None else {"lag_documents": documents}
    return Call(engine, name, to_engine_messages(messages), options, trace, extra)


def key_of(argument: Any) -> Any:
    """A call argument as it stands in a cache key: a plan by its own complete key."""
    return getattr(argument, "key", argument)


def _plan(llm: LAGChatModel, engine: LAGEngine, arguments: dict[str, Any]) -> Plan:
    plan: Plan | None = arguments.get("plan")
    if plan is not None:
        _refuse_two_plans(arguments)
        return plan
    mode = str(arguments.get("mode") or llm.mode)
    # The model's own adapters serve another mode of this call too, if that mode pins any.
    own = llm.adapters if mode == llm.mode or pins_adapters(mode) else None
    routing = {**llm.routing, **(arguments.get("routing") or {})}
    return engine.plan(mode, adapters=arguments.get("adapters", own), **routing)


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    known = (*SAMPLING, *PLANNING, *OTHER, *BY_THE_FRAMEWORK)
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise GenerationError(
            f"Expected call arguments among {', '.join((*SAMPLING, *PLANNING, 'model', 'trace'))}",
            f"found {', '.join(unknown)}",
            "Leave out what the model cannot do",
        )


def _refuse_two_plans(arguments: dict[str, Any]) -> None:
    others = [name for name in PLANNING[1:] if arguments.get(name) is not None]
    if others:
        raise PlanError(
            "Expected either `plan` or its parts",
            f"found `plan` and {', '.join(others)}",
            "A plan already says everything; leave the others out",
        )
