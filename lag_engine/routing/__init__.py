"""Who is chosen: scores, routers, plans and the record of their decisions, over tensors only."""

from lag_engine.routing.choice import NOT_APPLIED, Choice, Fused, Router, Update
from lag_engine.routing.plan import MODES, Plan
from lag_engine.routing.products import GROUPED, REFERENCE, Form, Stack
from lag_engine.routing.recorder import Decisions, Recorder
from lag_engine.routing.routers import LAG, Arrow, SpectR
from lag_engine.routing.scores import SCORES, Score
from lag_engine.routing.selections import (
    SLOTS,
    Generated,
    Latent,
    Pinned,
    Routed,
    Selection,
    Slot,
)
from lag_engine.routing.trace import Record, RoutingTrace

__all__ = [
    "GROUPED",
    "LAG",
    "MODES",
    "NOT_APPLIED",
    "REFERENCE",
    "SCORES",
    "SLOTS",
    "Arrow",
    "Choice",
    "Decisions",
    "Form",
    "Fused",
    "Generated",
    "Latent",
    "Pinned",
    "Plan",
    "Record",
    "Recorder",
    "Routed",
    "Router",
    "RoutingTrace",
    "Score",
    "Selection",
    "Slot",
    "SpectR",
    "Stack",
    "Update",
]
