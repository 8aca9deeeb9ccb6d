"""What a request may say: OpenAI's fields, and ours under `lag`.

A field that would change the answer and that this server cannot honour is refused. Fields that are
not known here are kept apart (`unknown_fields`), so that the reply can name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lag_engine.errors import GenerationError
from lag_engine.model.generation import TraceDetail

Names = str | list[str] | dict[str, float]
Slot = Literal["task", "knowledge"]
PositiveInt = Annotated[int, Field(ge=1)]

MAX_ROWS = 128


class PlanOptions(BaseModel):
    """The options of `Plan.from_mode`; those that are not given keep its defaults."""

    model_config = ConfigDict(extra="forbid")

    retrieve_k: int | Literal["adaptive"] | None = None
    score: str | None = None
    top_k: int | None = None
    temperature: float | None = None
    floor: float | None = None
    approximate: bool | None = None
    candidates: str | list[str] | dict[Slot, list[str] | None] | None = None
    knowledge_routed: bool | None = None

    def given(self) -> dict[str, Any]:
        """What the request says."""
        return self.model_dump(exclude_none=True)


class LagExtension(BaseModel):
    """Our own part of a request.

    Attributes:
        mode: a mode's name; wins over what the model's name implies.
        adapters: to pin: names, weights by name, or either by slot.
        options: of the mode.
        trace: how much of the routing stands in the reply's `lag_routing`; the server's own
            setting if None.
    """

    model_config = ConfigDict(extra="forbid")

    mode: str | None = None
    adapters: Names | dict[Slot, Names] | None = None
    options: PlanOptions = PlanOptions()
    trace: TraceDetail | None = None


class StreamOptions(BaseModel):
    """How a stream is written."""

    include_usage: bool | None = None


class CommonRequest(BaseModel):
    """What both kinds of request share."""

    model_config = ConfigDict(extra="allow")

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "frequency_penalty": (None, 0),
        "presence_penalty": (None, 0),
        "logit_bias": (None, {}),
    }
    """Fields that are refused, unless they have one of these values and so ask for nothing."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ROWS)] | None = None
    lag: LagExtension = LagExtension()

    @property
    def unknown_fields(self) -> list[str]:
        """What the request says beyond the known fields; it is ignored."""
        return sorted(set(self.model_extra or {}) - set(self.NEUTRAL))

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> dict[str, Any]:
        """The engine's sampling settings that the request names."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value not in (None, [])}

    def refuse_unsupported(self) -> None:
        """Raises where a field would change the answer and cannot be honoured.

        Raises:
            GenerationError: with the field's name.
        """
        for name, value in (self.model_extra or {}).items():
            if name in self.NEUTRAL and value not in self.NEUTRAL[name]:
                raise GenerationError(
                    f"Expected a request without `{name}`, which this server does not support",
                    f"found {str(value)!r:.80}",
                    "leave it out",
                )


class ChatRequest(CommonRequest):
    """POST /v1/chat/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **CommonRequest.NEUTRAL,
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "prediction": (None,),
        "web_search_options": (None,),
    }

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: PositiveInt | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class CompletionRequest(CommonRequest):
    """POST /v1/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        **CommonRequest.NEUTRAL,
        "suffix": (None, ""),
        "echo": (None, False),
        "best_of": (None, 1),
    }

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One for each answer that is asked for."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        several = [item for item in self.prompt if not isinstance(item, int)]
        if several:
            return several
        return [[item for item in self.prompt if isinstance(item, int)]]
