"""The names under which one engine is served, and the plan that each stands for.

`BASE` is the model alone, `lag-auto` chooses among all adapters, `BASE@MODE` is any mode and
`BASE:ADAPTER` pins one adapter. What a request says under `lag` adds to its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lag_engine.errors import AdapterNotFoundError, LagError, PlanError
from lag_engine.routing import MODES, SLOTS, Generated, Latent, Pinned, Plan
from lag_engine.serving.schemas import LagExtension

if TYPE_CHECKING:
    from lag_engine.adapters.info import AdapterInfo
    from lag_engine.model.engine import LAGEngine

AUTO = "lag-auto"


class UnknownModelError(LagError):
    """The request names a model that is not served."""


class _Asked(NamedTuple):
    """What a model's name says."""

    mode: str | None
    adapters: Any
    is_fixed: bool
    """Whether the mode is the name's own and no mere default."""


class ModelNames:
    """The names of one engine's models.

    Args:
        engine: what is served.
        base: the base model's name; by default the engine's, shortened if that is a path.
        auto_mode: what `lag-auto` stands for.

    Raises:
        PlanError: `auto_mode` is no mode, or one that a request must complete with adapters.
        LagError: the base model is called `lag-auto`.
    """

    def __init__(
        self, engine: LAGEngine, base: str | None = None, *, auto_mode: str = "lag"
    ) -> None:
        self._engine = engine
        self.base = base or _short(engine.name)
        self.auto_mode = Plan.from_mode(auto_mode).mode
        if self.base == AUTO:
            raise LagError(
                "Expected the base model to have a name of its own",
                f"found {AUTO!r}, under which the routed model is served",
                "pass another served name",
            )

    @property
    def modes(self) -> list[str]:
        """The modes this engine can run."""
        has_library = self._engine.library is not None
        return [m for m in MODES if _runs(m) and (has_library or not _needs_library(m))]

    def list(self) -> Iterator[dict[str, Any]]:
        """Every served model, as OpenAI describes one."""
        yield self._card(self.base, mode="base")
        library = self._engine.library
        if library is not None:
            yield self._card(AUTO, mode=self.auto_mode)
        for mode in self.modes:
            yield self._card(f"{self.base}@{mode}", mode=mode)
        for info in library.list() if library is not None else ():
            if info.kind != "latent":  # passages mix these; alone they mean nothing
                yield self._adapter_card(info)

    def find(self, name: str) -> dict[str, Any]:
        """One served model.

        Raises:
            UnknownModelError: the name is not served.
            AdapterNotFoundError: it names an adapter that the library does not have.
        """
        asked = self._parse(name)
        if asked.adapters:
            assert self._engine.library is not None
            return self._adapter_card(self._engine.library.info(asked.adapters[0]))
        return self._card(name, mode=asked.mode or "base")

    def plan(self, name: str, lag: LagExtension | None = None) -> Plan:
        """The plan that a request asks for.

        Args:
            name: of the model.
            lag: what the request adds.

        Raises:
            UnknownModelError: the name is not served.
            AdapterNotFoundError: an adapter is not in the library.
            PlanError: name and extension contradict each other, or the mode needs something else.
        """
        lag = lag or LagExtension()
        asked = self._parse(name)
        if asked.is_fixed and lag.mode not in (None, asked.mode):
            raise _conflict(f"mode {asked.mode!r}", f"mode {lag.mode!r}", name)
        if asked.adapters and lag.adapters:
            raise _conflict(f"adapter {asked.adapters[0]!r}", "other adapters", name)
        mode, adapters = lag.mode or asked.mode, asked.adapters or lag.adapters
        if mode is None and adapters:
            return self._pinned(adapters)
        return self._engine.plan(mode or "base", adapters=adapters, **lag.options.given())

    def _pinned(self, adapters: Any) -> Plan:
        """Just these adapters, each in the slot of its kind."""
        library = self._engine.library
        if library is None:
            raise PlanError(
                "Expected a library, since the request names adapters",
                "this server has none",
                "start it with --library, or leave the adapters out",
            )
        if _is_by_slot(adapters):
            slots = {slot: Pinned(names) for slot, names in adapters.items()}
        else:
            weights = dict(Pinned(adapters).items)
            kinds = {adapter: library.info(adapter).kind for adapter in weights}
            if set(kinds.values()) == {"mixture"}:
                return Plan("polyprag", knowledge=Latent(weights))
            own = {a: "task" if kind == "task" else "knowledge" for a, kind in kinds.items()}
            slots = {
                slot: Pinned({a: w for a, w in weights.items() if own[a] == slot})
                for slot in set(own.values())
            }
        return Plan("prag" if set(slots) == {"knowledge"} else "custom", **slots)

    def _parse(self, name: str) -> _Asked:
        if name == self.base:
            return _Asked(None, None, False)
        if self._engine.library is not None and name == AUTO:
            return _Asked(self.auto_mode, None, False)
        mode = name.removeprefix(f"{self.base}@")
        if mode != name and mode in self.modes:
            return _Asked(mode, None, True)
        adapter = name.removeprefix(f"{self.base}:")
        if adapter != name and self._engine.library is not None:
            if adapter not in self._engine.library:
                known = [info.name for info in self._engine.library.list()]
                raise AdapterNotFoundError.of([adapter], known)
            return _Asked(None, [adapter], False)
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownModelError:
        if self._engine.library is None:
            known = f"{self.base!r}; there is no library, so no adapters and no {AUTO!r}"
        else:
            known = f"{self.base!r}, {AUTO!r}, '{self.base}@MODE' or '{self.base}:ADAPTER'"
        return UnknownModelError(
            f"Expected the model {known}", f"found {name!r}", "GET /v1/models lists every name"
        )

    def _card(self, name: str, *, mode: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "lag",
            "root": self.base,
            "parent": None if name == self.base else self.base,
            "lag": {"mode": mode, "needs_adapters": bool({Pinned, Latent} & _fillings(mode))},
        }

    def _adapter_card(self, info: AdapterInfo) -> dict[str, Any]:
        return {
            "id": f"{self.base}:{info.name}",
            "object": "model",
            "created": int(datetime.fromisoformat(info.created).timestamp()),
            "owned_by": "lag",
            "root": self.base,
            "parent": self.base,
            "lag": {"adapter": info.name, "kind": info.kind, "document_id": info.document_id},
        }


def _short(name: str) -> str:
    """A folder's last part; a hub id and any other name as it is."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _is_by_slot(adapters: Any) -> bool:
    """Tells a mapping by slot from one by adapter name: the latter's values are numbers."""
    return (
        isinstance(adapters, Mapping)
        and all(key in SLOTS for key in adapters)
        and not any(isinstance(value, int | float) for value in adapters.values())
    )


def _fillings(mode: str) -> set[Any]:
    return {filling for row in MODES[mode] for filling in row}


def _runs(mode: str) -> bool:
    """Whether a request can say all that the mode needs; generated adapters it cannot send."""
    return Generated not in _fillings(mode)


def _needs_library(mode: str) -> bool:
    return any(None not in row for row in MODES[mode])


def _conflict(of_name: str, of_extension: str, name: str) -> PlanError:
    return PlanError(
        f"Expected the request to say one thing: the model's name {name!r} means {of_name}",
        f"found {of_extension} under `lag`",
        "leave one of the two out",
    )
