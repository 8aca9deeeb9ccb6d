"""What one call asks of the engine, in any framework: its plan, its sampling and its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lag_engine import GenerationError, PlanError
from lag_integrations.generated import PassagePlan
from lag_integrations.modes import encoding_of, pins_adapters

if TYPE_CHECKING:
    from lag_engine import LAGEngine, Plan

TraceDetail = Literal["none", "summary", "full"]

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
PLANNING = ("plan", "mode", "adapters", "routing")
DECODING = ("guide", "logprobs", "tools", "tool_choice", "parallel_tool_calls")


class Defaults(Protocol):
    """The settings of a framework's model object, used where a call says nothing."""

    mode: str
    adapters: Any
    routing: dict[str, Any]
    translator: str | None
    stop: list[str] | None
    trace: TraceDetail


def engine_options(
    defaults: Defaults, engine: LAGEngine, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of `LAGEngine.generate` for a call's arguments.

    The plan of a mode that makes adapters of passages is a `PassagePlan`, which `ready` completes.

    Raises:
        PlanError: the mode, its adapters and its options do not fit together.
    """
    sampling = {name: arguments.get(name, getattr(defaults, name)) for name in SAMPLING}
    decoding = {n: arguments[n] for n in DECODING if arguments.get(n) is not None}
    return {
        "max_new_tokens": sampling.pop("max_tokens"),
        **sampling,
        "plan": _plan(defaults, engine, arguments),
        "stop": stop_strings(arguments.get("stop"), defaults.stop),
        "trace": arguments.get("trace", defaults.trace) != "none",
        **decoding,
    }


def stop_strings(asked: str | Iterable[str] | None, own: list[str] | None) -> list[str] | None:
    """A call's stop strings, which replace the model's own."""
    if asked is None:
        return own
    return [asked] if isinstance(asked, str) else list(asked)


def refuse_unknown(arguments: Mapping[str, Any], *, more: Iterable[str]) -> None:
    """Raises GenerationError if a call has an argument that nothing reads.

    Args:
        arguments: of the call.
        more: names that the framework's model takes besides the common ones.
    """
    known = (*SAMPLING, *PLANNING, *DECODING, "stop", "trace", *more)
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise GenerationError(
            f"Expected call arguments among {', '.join(known)}",
            f"found {', '.join(unknown)}",
            "Leave out what the model cannot do",
        )


def _plan(
    defaults: Defaults, engine: LAGEngine, arguments: Mapping[str, Any]
) -> Plan | PassagePlan:
    plan: Plan | None = arguments.get("plan")
    if plan is not None:
        _refuse_two_plans(arguments)
        return plan
    mode = str(arguments.get("mode") or defaults.mode)
    # The model's own adapters serve another mode of this call too, if that mode pins any.
    own = defaults.adapters if mode == defaults.mode or pins_adapters(mode) else None
    routing = {**defaults.routing, **(arguments.get("routing") or {})}
    adapters = arguments.get("adapters", own)
    if encoding_of(mode) == "dyprag":
        return PassagePlan.of(mode, adapters, routing=routing, translator=defaults.translator)
    return engine.plan(mode, adapters=adapters, **routing)


def _refuse_two_plans(arguments: Mapping[str, Any]) -> None:
    others = [name for name in PLANNING[1:] if arguments.get(name) is not None]
    if others:
        raise PlanError(
            "Expected either `plan` or its parts",
            f"found `plan` and {', '.join(others)}",
            "A plan already says everything; leave the others out",
        )
