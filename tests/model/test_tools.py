"""Tools: formats are found by rendering, and calls follow the tools whatever the model prefers."""

from __future__ import annotations

import json

import pytest

from lag_engine.errors import GenerationError
from lag_engine.model.prompts import PromptEncoder
from lag_engine.model.tools import HERMES, LLAMA, MISTRAL, ToolCall, read_tools

jsonschema = pytest.importorskip("jsonschema")

ALL = [
    "hermes, markers spelled",
    "hermes, markers added",
    "hermes, markers special",
    "hermes, reasoning",
    "hermes, reasoning opened",
    "llama",
    "llama, tag special",
    "mistral",
    "mistral, marker special",
]
FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}


def family(name):
    return name.split(",", maxsplit=1)[0]


def thought(name):
    """What ends the reasoning that the prompt or the model has opened."""
    return {
        "hermes, reasoning": "<think>hm</think>\n",
        "hermes, reasoning opened": "hm</think>\n",
    }.get(name, "")


def opening(name):
    """How a call begins after a text; Llama's have none before them."""
    return {"hermes": "Let me see.\n<tool_call>", "mistral": "Well: [TOOL_CALLS]"}.get(
        family(name), '<|python_tag|>{"name"' if "tag" in name else '{"name"'
    )


def check(calls, tools):
    schemas = {t["function"]["name"]: t["function"].get("parameters") for t in tools}
    for call in calls:
        jsonschema.validate(call.arguments, schemas[call.name] or {"maxProperties": 0})
        assert call.id.startswith("call_")
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize("name", ALL)
def test_the_format_is_what_the_template_writes(writers, name):
    assert writers[name].requests.prompts.tool_format == FORMATS[family(name)]


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] }}{{ m['tool_calls'] }}{% endfor %}",
        "{{ tools }}{% for m in messages %}{% for c in m['tool_calls'] or [] %}"  # noqa: ISC004
        "<function={{ c['function']['name'] }}>{% endfor %}{% endfor %}",
        "{{ tools | tojson }}{{ raise_exception('no tools, please') }}",
        # the tools are shown in a form that is like a call's
        "{{ tools | tojson }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    ],
)
def test_a_template_that_writes_no_call_we_know_has_no_tools(make_writer, byte_tokenizer, template):
    tokenizer = type(byte_tokenizer)(
        tokenizer_object=byte_tokenizer.backend_tokenizer,
        chat_template=template,
        eos_token="</s>",
        bos_token="<s>",
    )
    prompts = PromptEncoder(tokenizer, context_length=None, vocabulary_size=300)
    assert prompts.tool_format is None
    message = "chat template" if template else "shows tools"
    with pytest.raises(GenerationError, match=message):
        make_writer(tokenizer).row(tools=[{"function": {"name": "a"}}])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_any_makes_the_model_call_offered_tools_by_their_schemas(
    writers, tools, name, is_parallel, seed
):
    answer, _ = writers[name].write(
        thought(name),
        seed=seed,
        tools=tools,
        tool_choice="any",
        parallel_tool_calls=is_parallel,
        temperature=0.9,
    )
    assert answer.text == ""
    check(answer.tool_calls, tools)
    if answer.finish_reason == "length":
        assert is_parallel
    else:
        assert answer.finish_reason == "tool_calls"
        assert answer.broken_tool_call == ""
        assert answer.tool_calls
        assert is_parallel or len(answer.tool_calls) == 1


@pytest.mark.parametrize("choice", ["get_weather", "get_time"])
@pytest.mark.parametrize("name", ALL)
def test_a_tools_name_asks_for_one_call_of_it(writers, tools, name, choice):
    answer, _ = writers[name].write(thought(name), tools=tools, tool_choice=choice)
    assert answer.finish_reason == "tool_calls"
    assert [call.name for call in answer.tool_calls] == [choice]
    check(answer.tool_calls, tools)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ALL)
def test_auto_guides_what_comes_after_the_model_has_begun_a_call(writers, tools, name, seed):
    lead = thought(name) + opening(name)
    answer, _ = writers[name].write(lead, seed=seed, tools=tools, parallel_tool_calls=False)
    assert answer.finish_reason == "tool_calls"
    assert len(answer.tool_calls) == 1
    assert answer.text == {"hermes": "Let me see.", "llama": "", "mistral": "Well:"}[family(name)]
    assert answer.reasoning == ("hm" if thought(name) else "")
    check(answer.tool_calls, tools)


@pytest.mark.parametrize("name", ALL)
def test_auto_lets_the_model_answer_in_text(writers, tools, name):
    writer = writers[name]
    text = "It is <tool>, 京都 {ok} \\ [TOOL].\n\n"
    answer, _ = writer.write(thought(name) + text + "</s>", tools=tools)
    assert (answer.text, answer.finish_reason) == (text, "stop")
    assert answer.tool_calls == ()


@pytest.mark.parametrize("name", ALL)
def test_none_shows_no_tools_and_reads_no_calls(writers, tools, name):
    writer = writers[name]
    without = writer.row()
    row = writer.row(tools=tools, tool_choice="none")
    assert row.request.prompt_ids == without.request.prompt_ids
    assert row.request.guide is None
    assert row.request.reply == without.request.reply


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_length_cuts_is_told_as_it_is(writers, tools, name):
    lead = thought(name) + opening(name)
    n = len(writers[name].tokenizer(lead, add_special_tokens=False)["input_ids"]) + 20
    answer, _ = writers[name].write(lead, tools=tools, max_new_tokens=n)
    assert answer.finish_reason == "length"
    assert answer.tool_calls == ()
    assert '{"name": "get' in answer.broken_tool_call
    assert answer.broken_tool_call.startswith(opening(name).split()[-1].split("{")[0])


def test_the_whole_calls_before_a_broken_one_are_kept(writers, tools):
    whole = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>\n<tool_call>{"name": '
    answer, _ = writers["hermes, markers added"].write(whole, tools=tools, max_new_tokens=62)
    assert answer.finish_reason == "length"
    assert [call.name for call in answer.tool_calls] == ["get_time"]
    assert answer.broken_tool_call.startswith('<tool_call>{"name":')


@pytest.mark.parametrize("name", ALL)
def test_markup_inside_an_argument_is_the_arguments(writers, name):
    text = 'a </tool_call> } "]" <tool_call> [TOOL_CALLS] {"name": 1}'
    tool = {
        "function": {
            "name": "say",
            "parameters": {
                "type": "object",
                "properties": {"text": {"const": text}},
                "required": ["text"],
            },
        }
    }
    answer, _ = writers[name].write(
        thought(name), tools=[tool], tool_choice="any", parallel_tool_calls=False
    )
    assert [call.arguments for call in answer.tool_calls] == [{"text": text}]


def test_a_stop_string_inside_a_call_does_not_cut_it(writers, tools):
    answer, _ = writers["hermes, markers spelled"].write(
        opening("hermes"), tools=tools, parallel_tool_calls=False, stop=['"name"', "}", "weather"]
    )
    assert answer.finish_reason == "tool_calls"
    cut, _ = writers["hermes, markers spelled"].write(opening("hermes"), tools=tools, stop="me s")
    assert (cut.text, cut.finish_reason, cut.tool_calls) == ("Let ", "stop", ())


def test_half_a_surrogate_pair_in_an_argument_can_be_encoded():
    call = HERMES.call_of('{"name": "a", "arguments": {"x": ["\\ud800", "\\ud83c\\udfef"]}}')
    assert call.arguments == {"x": ["\ufffd", "🏯"]}


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ([{"type": "function"}], "Expected tools like"),
        ([{"function": {"name": ""}}], "Expected tools like"),
        ([{"function": {"name": "a", "parameters": "none"}}], "Expected tools like"),
        ([lambda: None], "Expected tools like"),
        ([{"function": {"name": "a"}}, {"function": {"name": "a"}}], "Found 'a' more than once"),
    ],
)
def test_tools_of_another_form_are_refused(tools, reason):
    with pytest.raises(GenerationError, match=reason):
        read_tools(tools)


def test_a_tool_without_parameters_takes_none(writers):
    for parameters in (None, {}, {"type": "object", "properties": {}}):
        function = {"name": "now", **({} if parameters is None else {"parameters": parameters})}
        answer, _ = writers["llama"].write(tools=[{"function": function}], tool_choice="now")
        assert answer.tool_calls[0].arguments == {}


def test_what_cannot_be_called_is_refused_before_decoding(writers, tools):
    row = writers["hermes, markers spelled"].row
    with pytest.raises(GenerationError, match="Got 'get_whether', and the tools are get_weather, "):
        row(tools=tools, tool_choice="get_whether")
    with pytest.raises(GenerationError, match="Expected tools, since"):
        row(tool_choice="any")
    with pytest.raises(GenerationError, match="either tools or a guide"):
        row(tools=tools, guide=writers and _guide())
    with pytest.raises(GenerationError, match="list of messages"):
        writers["llama"].requests.one("raw text", "base", {"tools": tools})
    with pytest.raises(GenerationError, match="list of messages"):
        writers["llama"].requests.one([1, 2], "base", {"tools": tools})
    with pytest.raises(GenerationError, match="to be a Guide"):
        row(guide="yes|no")
    bad = {"function": {"name": "bad", "parameters": {"type": "array", "contains": {}}}}
    with pytest.raises(GenerationError, match=r"the tool 'bad'.*contains"):
        row(tools=[*tools, bad])


def _guide():
    from lag_engine.model.guided import Guide

    return Guide.choices(["a"])


def test_calls_are_values_with_an_id_of_their_own():
    one, other = ToolCall("a", {}), ToolCall("a", {})
    assert one.id != other.id
    assert ToolCall("a", {"x": 1}, "call_1") == ToolCall("a", {"x": 1}, "call_1")


def test_what_a_call_is_rendered_as_is_read_as_that_call(writers, tools):
    arguments = {"city": 'Zoë "京都" </s>', "unit": "°C"}
    call = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": arguments}
    asked = [{"role": "user", "content": "Hi"}]
    for name in ("hermes, markers spelled", "llama", "mistral"):
        prompts = writers[name].requests.prompts
        before = prompts.messages(asked, tools=tools)
        said = [*asked, {"role": "assistant", "content": None, "tool_calls": [call]}]
        after = prompts.messages(said, tools=tools, add_generation_prompt=False)
        text = writers[name].tokenizer.decode(after[len(before) - 1 :], skip_special_tokens=False)
        body = text[text.index("{") : text.rindex("}") + 1]
        assert FORMATS[family(name)].call_of(body).arguments == json.loads(json.dumps(arguments))
