"""What can be told of a model before its weights are in memory."""

from __future__ import annotations

from typing import NamedTuple

from lag_integrations.engines import EngineKey, get_engine, loaded_engine
from lag_integrations.model_files import find_model_files


class ModelFacts(NamedTuple):
    """What frameworks ask of a model before the first call.

    Attributes:
        context_length: the most positions, prompt and answer together; None if unbounded.
        has_chat_template: whether it reads conversations.
        supports_tools: whether its chat template shows tools.
    """

    context_length: int | None
    has_chat_template: bool
    supports_tools: bool


def model_facts(key: EngineKey) -> ModelFacts:
    """The facts of the key's model: its engine's if it is loaded, else those of its files.

    A model whose files are not on this machine yet is loaded, since only its files can tell.

    Raises:
        ModelError: there is no such model.
    """
    files = None if loaded_engine(key) else find_model_files(key.model, key.revision)
    if files is not None:
        template = files.chat_template
        return ModelFacts(files.context_length, bool(template), "tools" in template)
    engine = get_engine(key)
    has_template = bool(engine.tokenizer.chat_template)
    return ModelFacts(engine.context_length, has_template, engine.supports_tools)
