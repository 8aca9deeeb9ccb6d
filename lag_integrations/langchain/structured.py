"""Structured output: a schema as a guide for the engine, and the answer as the schema's value."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import BaseGenerationOutputParser, BaseOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import (
    Runnable,
    RunnableGenerator,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from lag_engine import GenerationError

if TYPE_CHECKING:
    from lag_engine import Guide

Method = Literal["json_schema", "function_calling", "json_mode"]
Schema = dict[str, Any] | type
Parser = BaseOutputParser[Any] | BaseGenerationOutputParser[Any]

METHODS = ("json_schema", "function_calling", "json_mode")
TOOL_KEYS = ({"type", "function"}, {"name", "parameters"}, {"name", "input_schema"}, {"toolSpec"})
"""By which of them a dictionary is a provider's tool, and not a JSON schema."""


def check_method(method: str, schema: Schema | None, *, strict: bool | None) -> None:
    """Refuses a way of structuring that does not exist or lacks its schema.

    Raises:
        GenerationError: what is wrong with the arguments of `with_structured_output`.
    """
    if method not in METHODS:
        found = f"found {method!r}"
    elif schema is None and method != "json_mode":
        found = f"found {method!r} without a schema"
    elif strict is not None and method == "json_mode":
        found = "found 'json_mode' with `strict`, which only a schema can be"
    else:
        return
    raise GenerationError(
        "Expected a schema and one of the methods 'json_schema', 'function_calling' (a tool of "
        "that schema) or 'json_mode' (needs none)",
        found,
        "Choose the method that fits",
    )


def json_schema_of(schema: Schema) -> dict[str, Any]:
    """The JSON schema of a pydantic class of either version, a TypedDict, a tool, or itself."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        of_class = cast("Any", schema)
        make = getattr(of_class, "model_json_schema", None) or of_class.schema
        return dict(make())
    if isinstance(schema, dict) and not any(keys <= set(schema) for keys in TOOL_KEYS):
        return schema
    return convert_to_json_schema(schema)


def guide_of(schema: Schema | None) -> Guide:
    """What the text of the answer must match: the schema, or any JSON object without one."""
    from lag_engine import Guide

    return Guide.json_object() if schema is None else Guide.json_schema(json_schema_of(schema))


def answer_parser(schema: Schema | None) -> Parser:
    """Reads a JSON answer: an instance of a pydantic class, else a dictionary."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def call_parser(schema: Schema, name: str) -> Parser:
    """Reads the arguments of the one call: an instance of a pydantic class, else a dictionary."""
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def parsed(
    llm: Runnable[Any, AIMessage], parser: Parser, *, include_raw: bool
) -> Runnable[Any, Any]:
    """The model's answer parsed; with `include_raw` also as it was, and any parsing error.

    The model is the first step in both forms, because arguments that are bound to the whole reach
    the first step only.
    """
    whole: Runnable[AIMessage, AIMessage] = RunnableGenerator(_refuse_cut, _arefuse_cut)
    if not include_raw:
        return llm | whole | parser
    read = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | whole | parser, parsing_error=lambda _: None
    )
    unread = RunnablePassthrough.assign(parsed=lambda _: None)
    keep_raw: Runnable[AIMessage, dict[str, Any]] = RunnableMap({"raw": RunnablePassthrough()})
    return llm | keep_raw | read.with_fallbacks([unread], exception_key="parsing_error")


def _refuse_cut(answers: Iterator[AIMessage]) -> Iterator[AIMessage]:
    # LangChain's parsers would close the brackets of half an object and return it as a whole one.
    for answer in answers:
        _check_end(answer)
        yield answer


async def _arefuse_cut(answers: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for answer in answers:
        _check_end(answer)
        yield answer


def _check_end(answer: AIMessage) -> None:
    if answer.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "Expected a whole answer of the schema. The model wrote as many tokens as it may and "
            "was cut off. Raise `max_tokens`, or bound the schema's strings and lists.",
            llm_output=answer.text,
        )
