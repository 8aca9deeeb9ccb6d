"""What may come in an answer, and how it is read: guides, tools and reasoning of one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lag_engine.errors import GenerationError
from lag_engine.model.grammars import answer_grammar, calls_guide
from lag_engine.model.guided import CompiledGuide, Guide, GuideCompiler
from lag_engine.model.prompts import is_conversation
from lag_engine.model.reply import THINK_MARKERS, ReplyFormat, ThinkMarkers
from lag_engine.model.tools import ToolUse, read_tools

if TYPE_CHECKING:
    from lag_engine.model.prompts import Prompt, PromptEncoder

_TAIL = 16
"""How many of a prompt's last tokens tell whether it has opened the reasoning."""


class Asked(NamedTuple):
    """What a request asks of its answer.

    Args:
        shown: the tools that the prompt shows.
        use: the calls that the answer may make; None for none.
        guide: what the answer must match; None for anything.
    """

    shown: Sequence[Mapping[str, Any]] | None = None
    use: ToolUse | None = None
    guide: Guide | None = None


class ReplyBuilder:
    """Finds out what the answers of one model may hold, and compiles what they must match.

    Args:
        prompts: of the model.
        end_ids: the tokens that end an answer.
    """

    def __init__(self, prompts: PromptEncoder, *, end_ids: Iterable[int]) -> None:
        self._prompts = prompts
        self._tokenizer = prompts.tokenizer
        self._compiler = GuideCompiler(
            self._tokenizer, vocabulary_size=prompts.vocabulary_size, end_ids=end_ids
        )
        template = str(self._tokenizer.chat_template or "")
        self._think = next((t for t in THINK_MARKERS if all(m in template for m in t)), None)
        added = self._tokenizer.added_tokens_decoder
        self._tokens = {token.content: i for i, token in added.items()}
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._space, self._keeps_space = _first_space(self._tokenizer)

    def asked(self, prompt: Prompt, options: Mapping[str, Any]) -> Asked:
        """What the options ask for.

        With `tool_choice` "none" the model is not shown the tools, and its answer is text.

        Raises:
            GenerationError: an option cannot be used, or not with another one.
        """
        guide, tools = options.get("guide"), options.get("tools")
        choice = options.get("tool_choice") or "auto"
        if guide is not None and not isinstance(guide, Guide):
            raise GenerationError(
                "Expected `guide` to be a Guide",
                f"got {type(guide).__name__}",
                "make one with `Guide.json_schema`, `regex`, `choices` or `grammar`",
            )
        if not tools or choice == "none":
            _check_without_tools(choice, tools)
            return Asked(guide=guide)
        if guide is not None:
            raise GenerationError(
                "Expected either tools or a guide",
                "got both",
                "leave one out, or make the guided answer a tool of its own",
            )
        read = read_tools(tools)
        is_parallel = options.get("parallel_tool_calls", True)
        return Asked(tools, self._use(prompt, read, choice, is_parallel is not False))

    def of(
        self, prompt: Prompt, prompt_ids: Sequence[int], asked: Asked
    ) -> tuple[ReplyFormat | None, CompiledGuide | None]:
        """How the answer to a prompt is read, and what it must match.

        Raises:
            GenerationError: what it must match cannot be compiled.
        """
        think, is_thinking = self._reasoning(prompt, prompt_ids)
        is_guided = asked.guide is not None
        known = asked.use.format if asked.use else None
        markers = (*(known.markers if known else ()), *(think or ()))
        shown_ids = self._special_ids & {self._tokens.get(marker, -1) for marker in markers}
        reply = ReplyFormat(
            calls=known,
            think=think,
            is_thinking=is_thinking,
            skips_space=self._keeps_space and (is_guided or is_conversation(prompt)),
            hidden_ids=self._special_ids - shown_ids if shown_ids else None,
        )
        guide = self._guide(asked, reply)
        return (None if reply == ReplyFormat() else reply), guide

    def _use(self, prompt: Prompt, tools: Any, choice: str, is_parallel: bool) -> ToolUse:
        if not is_conversation(prompt):
            raise GenerationError(
                "Expected a list of messages, since tools are shown by the chat template",
                f"got {type(prompt).__name__} as the prompt",
                'pass [{"role": "user", "content": ...}]',
            )
        known = self._prompts.tool_format
        if known is None:
            raise GenerationError(
                "Expected a model whose chat template shows tools and writes calls in a known way",
                f"that of {self._tokenizer.name_or_path or 'this model'!r} does not",
                "leave the tools out, or set a `tokenizer.chat_template` that writes calls as "
                "Hermes and Qwen, Llama 3 or Mistral do",
            )
        return ToolUse.of(known, tools, choice=choice, is_parallel=is_parallel)

    def _guide(self, asked: Asked, reply: ReplyFormat) -> CompiledGuide | None:
        if asked.guide is not None:
            grammar = answer_grammar(reply, self._tokens, space=self._space)
            return self._compiler.compile(asked.guide, grammar=grammar)
        if asked.use is None:
            return None
        grammar = answer_grammar(reply, self._tokens, space="")
        try:
            return self._compiler.compile(
                calls_guide(asked.use, reply, self._tokens), grammar=grammar
            )
        except GenerationError:
            for tool in asked.use.tools:
                self._check_tool(tool.name, Guide.json_schema(tool.parameters))
            raise

    def _check_tool(self, name: str, guide: Guide) -> None:
        try:
            self._compiler.compile(guide)
        except GenerationError as error:
            raise GenerationError(
                f"Expected parameters of the tool '{name}' that can guide its calls",
                error.found,
                error.action,
            ) from error

    def _reasoning(
        self, prompt: Prompt, prompt_ids: Sequence[int]
    ) -> tuple[ThinkMarkers | None, bool]:
        """The markers that may come, and whether the prompt ends within the reasoning."""
        if self._think is None or not is_conversation(prompt):
            return None, False
        tail = str(self._tokenizer.decode(list(prompt_ids[-_TAIL:]))).rstrip()
        if tail.endswith(self._think.closer):
            return None, False
        return self._think, tail.endswith(self._think.opener)


def _check_without_tools(choice: object, tools: object) -> None:
    if choice not in ("auto", "none") and not tools:
        raise GenerationError(
            f"Expected tools, since `tool_choice` is {choice!r}",
            "got none",
            "pass `tools`, or leave `tool_choice` out",
        )


def _first_space(tokenizer: Any) -> tuple[str, bool]:
    """The space a tokenizer puts before a text, and whether decoding leaves it there."""
    first = tokenizer("x", add_special_tokens=False)["input_ids"]
    if not first or tokenizer.convert_ids_to_tokens(first)[0][:1] not in ("Ġ", "▁"):
        return "", False
    return " ", str(tokenizer.decode(first)).startswith(" ")
