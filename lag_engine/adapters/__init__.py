"""Adapters at rest: PEFT folders read and written, the spectral form, the library on disk."""

from lag_engine.adapters.audit import AuditReport, WinShare, audit
from lag_engine.adapters.base_model import BaseModel
from lag_engine.adapters.duplicates import Duplicate
from lag_engine.adapters.info import AdapterInfo, AdapterSource
from lag_engine.adapters.library import AdapterLibrary
from lag_engine.adapters.mixtures import MixtureSource
from lag_engine.adapters.peft_format import LoraModule, PeftAdapter, read_peft, write_peft
from lag_engine.adapters.snapshot import LibrarySnapshot
from lag_engine.adapters.spectral import (
    SpectralForm,
    rebuild,
    to_spectral,
    to_spectral_batched,
    truncate,
)
from lag_engine.adapters.stack import AdapterKind, Block, ModuleShape, ModuleStack
from lag_engine.adapters.store import VerifyReport

__all__ = [
    "AdapterInfo",
    "AdapterKind",
    "AdapterLibrary",
    "AdapterSource",
    "AuditReport",
    "BaseModel",
    "Block",
    "Duplicate",
    "LibrarySnapshot",
    "LoraModule",
    "MixtureSource",
    "ModuleShape",
    "ModuleStack",
    "PeftAdapter",
    "SpectralForm",
    "VerifyReport",
    "WinShare",
    "audit",
    "read_peft",
    "rebuild",
    "to_spectral",
    "to_spectral_batched",
    "truncate",
    "write_peft",
]
