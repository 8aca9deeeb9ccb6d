"""Adapters at work on a Hugging Face model: bank, surgery, generation and the engine over them."""

from lag_engine.model.bank import AdapterBank
from lag_engine.model.engine import LAGEngine
from lag_engine.model.generation import Generation, StreamPiece, TokenLogprob, Usage
from lag_engine.model.guided import Guide
from lag_engine.model.linear import RoutedLinear
from lag_engine.model.sampling import Sampling
from lag_engine.model.surgery import Surgery, install
from lag_engine.model.tools import ToolCall

__all__ = [
    "AdapterBank",
    "Generation",
    "Guide",
    "LAGEngine",
    "RoutedLinear",
    "Sampling",
    "StreamPiece",
    "Surgery",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "install",
]
