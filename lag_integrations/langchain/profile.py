"""What a model can do, as LangChain asks for it: from its configuration and its chat template."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from lag_integrations.engines import EngineKey, loaded_engine
from lag_integrations.model_files import find_model_files

READS_TEXT_ONLY = ModelProfile(
    text_inputs=True,
    image_inputs=False,
    image_url_inputs=False,
    pdf_inputs=False,
    audio_inputs=False,
    video_inputs=False,
    image_tool_message=False,
    pdf_tool_message=False,
    text_outputs=True,
    image_outputs=False,
    audio_outputs=False,
    video_outputs=False,
    attachment=False,
    open_weights=True,
    structured_output=True,
    temperature=True,
)


def model_profile(key: EngineKey) -> ModelProfile | None:
    """The profile of a loaded model, or of one whose files are on this machine; else None."""
    engine = loaded_engine(key)
    if engine is not None:
        template = engine.tokenizer.chat_template or ""
        return _profile(key.model, engine.context_length, str(template))
    files = find_model_files(key.model, key.revision)
    if files is None:
        return None
    return _profile(key.model, files.context_length, files.chat_template)


def _profile(name: str, context_length: int | None, template: str) -> ModelProfile:
    calls_tools = "tools" in template
    profile = ModelProfile(
        **READS_TEXT_ONLY,
        name=name,
        tool_calling=calls_tools,
        tool_choice=calls_tools,
        tool_call_streaming=calls_tools,
        reasoning_output="think" in template or "reasoning" in template,
    )
    if context_length is not None:
        profile["max_input_tokens"] = profile["max_output_tokens"] = context_length
    return profile
