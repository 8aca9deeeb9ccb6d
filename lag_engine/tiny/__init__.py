"""The embedded default: a synthetic world, the model and adapters trained on it.

``lag-tiny`` names the shipped model wherever a model id is taken. To remake everything here from
the seed, run ``python -m lag_engine.tiny.build``.
"""

from lag_engine.tiny.shipped import (
    CONTEXT_PROMPT,
    TinyDocument,
    TinyQuestion,
    adapters_path,
    documents,
    embedder_path,
    library_path,
    model_path,
    questions,
)

__all__ = [
    "CONTEXT_PROMPT",
    "TinyDocument",
    "TinyQuestion",
    "adapters_path",
    "documents",
    "embedder_path",
    "library_path",
    "model_path",
    "questions",
]
