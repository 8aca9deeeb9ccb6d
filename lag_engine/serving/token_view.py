"""An answer as HTML: each token on the colour of the adapter it was routed to."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from lag_engine.heat_map import OTHER, adapter_colours

if TYPE_CHECKING:
    from lag_engine.model.generation import Generation
    from lag_engine.routing import RoutingTrace, Slot
    from lag_engine.routing.trace import Shares

MOST = 3
"""Adapters that a token's tooltip names."""


def token_view(generation: Generation) -> str:
    """Returns one block for each slot of the plan: a legend, and the answer's tokens.

    A token's colour is that of the adapter most of its modules were routed to; pointing at it tells
    the shares. Tokens on the base model have no colour. The last written token is not there: the
    model never read it, so nothing was chosen for it.
    """
    trace = generation.trace
    if trace is None or not trace.decisions:
        return "<p>No adapters were applied.</p>"
    first = len(generation.prompt_token_ids)
    return "".join(_block(trace, slot, first) for slot in trace.slots)


def _block(trace: RoutingTrace, slot: Slot, first: int) -> str:
    colours = adapter_colours(trace.to_dict(), slot)
    shares = trace.share(by="token", slot=slot)
    tokens = "".join(
        _token(trace.tokens[i], shares.get(i, {}), colours) for i in range(first, len(trace.tokens))
    )
    legend = "".join(_patch(name, colour) for name, colour in colours.items())
    return (
        f"<p><b>{slot} adapters</b> {legend}</p>"
        f'<p style="font-family:monospace;line-height:2;white-space:pre-wrap">{tokens}</p>'
    )


def _token(text: str, shares: Shares, colours: dict[str, str]) -> str:
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    told = ", ".join(f"{name or 'base model'} {share:.0%}" for name, share in ranked[:MOST])
    most = ranked[0][0] if ranked else None
    colour = "transparent" if most is None else colours.get(most, OTHER)
    return _span(text, colour, title=told)


def _patch(name: str, colour: str) -> str:
    return _span(name, colour) + " "


def _span(text: str, colour: str, *, title: str = "") -> str:
    style = f"background:{colour};color:black;padding:2px;border-radius:3px"
    return f'<span style="{style}" title="{escape(title)}">{escape(text)}</span>'
