"""Structured output: the schema guides the engine, and the answer is the schema's value."""

from __future__ import annotations

import json
from typing import Annotated, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1

from lag_engine import GenerationError, Guide, Plan, ToolCall

ROSA = {"name": "Rosa Sinclair", "age": 34}


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class PersonV1(BaseModelV1):
    """Somebody."""

    name: str
    age: int


class PersonDict(TypedDict):
    """Somebody."""

    name: Annotated[str, ..., "their name"]
    age: Annotated[int, ..., "their age"]


JSON_SCHEMA = Person.model_json_schema()
TOOL = {"name": "Person", "description": "Somebody.", "parameters": JSON_SCHEMA}
SCHEMAS = {
    "pydantic": Person,
    "pydantic v1": PersonV1,
    "TypedDict": PersonDict,
    "JSON schema": JSON_SCHEMA,
    "tool": TOOL,
}


class Options(BaseCallbackHandler):
    def __init__(self):
        self.seen = []

    def on_chat_model_start(self, serialized, messages, *, options=None, **kwargs):
        self.seen.append(options)


@pytest.fixture
def engine(make_engine):
    return make_engine(json.dumps(ROSA))


def calling(make_engine, name="Person"):
    return make_engine("", tool_calls=[ToolCall(name, ROSA, "call_1")])


def as_dict(value):
    return value if isinstance(value, dict) else value.__dict__


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_json_schema_guides_the_answer_and_returns_the_schemas_value(llm, engine, schema):
    value = llm.with_structured_output(schema).invoke("Who?")
    assert as_dict(value) == ROSA
    if isinstance(schema, type) and schema is not PersonDict:
        assert isinstance(value, schema)
    guide = engine.calls[-1][1]["guide"]
    assert guide.kind == "json_schema"
    assert set(json.loads(guide.source)["properties"]) == {"name", "age"}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_function_calling_asks_for_one_call_of_that_tool(make_llm, make_engine, schema):
    name = schema.__name__ if isinstance(schema, type) else "Person"
    engine = calling(make_engine, name)
    structured = make_llm(engine).with_structured_output(schema, method="function_calling")
    assert as_dict(structured.invoke("Who?")) == ROSA
    options = engine.calls[-1][1]
    assert options["tool_choice"] == name
    assert options["parallel_tool_calls"] is False


def test_json_mode_keeps_to_its_schema_or_without_one_to_any_object(llm, engine):
    assert llm.with_structured_output(Person, method="json_mode").invoke("Who?") == Person(**ROSA)
    assert engine.calls[-1][1]["guide"] == Guide.json_schema(JSON_SCHEMA)
    assert llm.with_structured_output(method="json_mode").invoke("Who?") == ROSA
    assert engine.calls[-1][1]["guide"] == Guide.json_object()


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("strict", [None, True, False])
def test_every_method_takes_strict(make_llm, make_engine, method, strict):
    engine = calling(make_engine) if method == "function_calling" else make_engine(json.dumps(ROSA))
    structured = make_llm(engine).with_structured_output(Person, method=method, strict=strict)
    assert structured.invoke("Who?") == Person(**ROSA)


@pytest.mark.parametrize("schema", [Person, JSON_SCHEMA], ids=["pydantic", "JSON schema"])
async def test_streams_end_with_the_whole_value(llm, schema):
    structured = llm.with_structured_output(schema)
    *_, last = structured.stream("Who?")
    assert as_dict(last) == ROSA
    *_, last = [value async for value in structured.astream("Who?")]
    assert as_dict(last) == ROSA
    assert as_dict(await structured.ainvoke("Who?")) == ROSA


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_raw_answers_come_along_if_asked_for(make_llm, make_engine, method):
    engine = calling(make_engine) if method == "function_calling" else make_engine(json.dumps(ROSA))
    llm = make_llm(engine)
    structured = llm.with_structured_output(Person, method=method, include_raw=True)
    result = structured.invoke("Who?")
    assert set(result) == {"raw", "parsed", "parsing_error"}
    assert result["parsed"] == Person(**ROSA)
    assert result["parsing_error"] is None
    assert "lag_routing" in result["raw"].response_metadata


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_an_answer_that_was_cut_off_is_an_error_and_not_repaired(
    make_llm, make_engine, method
):
    engine = make_engine('{"name": "Rosa Sinclair", "age": 3', cut=True)
    if method == "function_calling":
        engine = make_engine("", broken_tool_call='<tool_call>{"name": "Person"', cut=True)
    llm = make_llm(engine)
    for schema in (Person, JSON_SCHEMA):
        structured = llm.with_structured_output(schema, method=method)
        with pytest.raises(OutputParserException, match="max_tokens"):
            structured.invoke("Who?")
        with pytest.raises(OutputParserException, match="max_tokens"):
            list(structured.stream("Who?"))
        with pytest.raises(OutputParserException, match="max_tokens"):
            [value async for value in structured.astream("Who?")]
    kept = llm.with_structured_output(Person, method=method, include_raw=True).invoke("Who?")
    assert kept["parsed"] is None
    assert isinstance(kept["parsing_error"], OutputParserException)
    assert kept["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_callbacks_are_told_the_schema(make_llm, make_engine, method):
    engine = calling(make_engine) if method == "function_calling" else make_engine(json.dumps(ROSA))
    structured = make_llm(engine).with_structured_output(Person, method=method)
    options = Options()
    structured.invoke("Who?", {"callbacks": [options]})
    list(structured.stream("Who?", {"callbacks": [options]}))
    for seen in options.seen:
        told = seen["ls_structured_output_format"]
        assert told["schema"] == convert_to_json_schema(Person)
        assert told["kwargs"]["method"] == method


def test_call_arguments_may_be_bound_with_the_schema(llm, engine):
    structured = llm.with_structured_output(Person, mode="base", max_tokens=9)
    structured.invoke("Who?")
    options = engine.calls[-1][1]
    assert options["plan"] == Plan.from_mode("base")
    assert options["max_new_tokens"] == 9


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"schema": Person, "method": "yaml"}, "'yaml'"),
        ({"schema": None}, "without a schema"),
        ({"schema": Person, "method": "json_mode", "strict": True}, "with `strict`"),
    ],
)
def test_a_method_that_cannot_be_is_refused_at_once(llm, arguments, found):
    with pytest.raises(GenerationError, match=found):
        llm.with_structured_output(**arguments)


def test_a_json_schema_needs_no_title(llm, engine):
    schema = {"type": "array", "items": {"type": "string"}}
    engine.reply = '["a", "b"]'
    assert llm.with_structured_output(schema).invoke("Which?") == ["a", "b"]


def test_any_guide_may_be_given_to_a_call(llm, engine):
    llm.invoke("Yes or no?", guide=Guide.choices(["yes", "no"]))
    assert engine.calls[-1][1]["guide"] == Guide.choices(["yes", "no"])
