"""Which encoder `lag encode` runs, with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lag_engine.errors import DocumentError

if TYPE_CHECKING:
    from lag_engine.documents import DyPRAGSettings, PolyPRAGSettings, PRAGSettings
    from lag_engine.documents.encoder import PassageEncoder
    from lag_engine.documents.revisions import Augment
    from lag_engine.model.engine import LAGEngine

MethodName = Literal["prag", "polyprag", "dyprag"]

_OWN = {
    "prag": {"clip", "stop_loss", "shared_lora_a"},
    "polyprag": {"latents", "top_k", "routing_epochs"},
    "dyprag": {"clip", "stop_loss", "shared_lora_a", "translator_epochs", "translator_rate"},
}
"""Method: the options that not all have."""


@dataclass(frozen=True)
class EncodingMethod:
    """An encoder and its settings.

    Attributes:
        encodes: The name of what encodes the passages.
        settings: Of it.
        translator: The settings of the translator that is trained afterwards; None: none is.
    """

    encodes: Literal["prag", "polyprag"]
    settings: PRAGSettings | PolyPRAGSettings
    translator: DyPRAGSettings | None = None

    @classmethod
    def of(cls, name: MethodName, common: dict[str, Any], own: dict[str, Any]) -> EncodingMethod:
        """The method of that name.

        Args:
            name: As it is asked for.
            common: Settings that all encoders have.
            own: Options that not all have; None or False for what was not given.

        Raises:
            DocumentError: An option is another method's.
        """
        from lag_engine.documents import DyPRAGSettings, PolyPRAGSettings, PRAGSettings

        given = {option: value for option, value in own.items() if value not in (None, False)}
        _refuse_others(name, given)
        if name == "polyprag":
            renamed = {"n_latents" if o == "latents" else o: v for o, v in given.items()}
            return cls("polyprag", PolyPRAGSettings(**common, **renamed))
        training = {"clip": own["clip"], "stop_loss": own["stop_loss"]}
        prag = PRAGSettings(
            **common,
            **training,
            shared_lora_A=own["shared_lora_a"],
            shared_start=name == "dyprag",
        )
        if name == "prag":
            return cls("prag", prag)
        translating = {
            setting: given[option]
            for setting, option in (
                ("epochs", "translator_epochs"),
                ("learning_rate", "translator_rate"),
            )
            if option in given
        }
        kept = {key: common[key] for key in ("alpha", "batch_size", "questions", "seed")}
        return cls("prag", prag, DyPRAGSettings(**kept, **translating))

    def encoder(
        self, engine: LAGEngine, augment: Augment | None, options: dict[str, Any]
    ) -> PassageEncoder:
        """The encoder on an engine."""
        from lag_engine.documents import PRAG, PolyPRAG

        kind: type[PassageEncoder] = PRAG if self.encodes == "prag" else PolyPRAG
        return kind.from_engine(engine, settings=self.settings, augment=augment, **options)


def targets_of(text: str) -> tuple[str, ...]:
    """NAME,...: ends of module paths; that the model has them is checked with the model."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise DocumentError(
            "Expected --targets to name modules, as in gate_proj,up_proj",
            f"found {text!r}",
            "leave it out for gate_proj, up_proj and down_proj",
        )
    return names


def layers_of(text: str | None) -> tuple[int, ...] | None:
    """NUMBER,...: layers from 0; None for all."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise DocumentError(
            "Expected --layers to be numbers from 0, as in 1,2",
            f"found {text!r}",
            "leave it out for all layers",
        )
    return tuple(sorted({int(part) for part in parts}))


def _refuse_others(name: MethodName, given: dict[str, Any]) -> None:
    others = sorted(set(given) - _OWN[name])
    if others:
        told = ", ".join("--" + option.replace("_", "-") for option in others)
        raise DocumentError(
            f"Expected options of --method {name}", f"found {told}", "leave them out"
        )
