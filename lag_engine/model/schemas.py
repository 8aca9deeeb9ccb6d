"""JSON schemas made ready to guide: as strict as meant, in words that the library knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KNOWN_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
MOST = 2**53 - 1
"""The largest integer that every JSON reader takes exactly (RFC 8259, section 6)."""

FRACTION = 1e-9
"""Numbers are multiples of it: nine digits after the point, and no exponent."""

_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_CHOSEN = frozenset(("enum", "const", "multipleOf"))

_MERGING = ("allOf", "anyOf", "oneOf", "$ref")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def prepared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema to guide by; whatever matches it matches the given one.

    - An object that lists its properties and does not say what others may come has no others: a
      small model would go on inventing them. Where parts of an object's schema are merged (`allOf`,
      or a reference beside properties) all are left as they are.
    - An integer or number without bounds is at most `MOST`, and a number has at most nine digits
      after the point, so that its digits come to an end.
    - OpenAPI's `nullable` becomes JSON schema's own null.
    - A `format` outside JSON schema's own is an annotation by its rules, and is dropped.
    """
    closes = not _merges(schema)
    result: dict[str, Any] = _prepare(schema, closes)
    return result


def _prepare(node: Any, closes: bool) -> Any:
    if not isinstance(node, Mapping):
        return node
    schema = dict(node)
    for key in _SCHEMAS:
        if key in schema:
            schema[key] = _prepare(schema[key], closes)
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            schema[key] = [_prepare(part, closes) for part in schema[key]]
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            schema[key] = {name: _prepare(part, closes) for name, part in schema[key].items()}
    if "format" in schema and schema["format"] not in KNOWN_FORMATS:
        del schema["format"]
    if schema.get("type") in ("integer", "number") and not _CHOSEN & set(schema):
        schema = _ending(schema)
    if closes and _is_open_object(schema):
        schema["additionalProperties"] = False
    return _with_null(schema) if schema.pop("nullable", False) is True else schema


def _ending(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An integer's or number's schema under which its digits come to an end."""
    ending = dict(schema)
    given = [abs(schema[key]) for key in _BOUNDS & set(schema)]
    if not given:
        ending |= {"minimum": -MOST, "maximum": MOST}
    # Between bounds that are finer than a fraction there may be no multiple of it.
    if schema["type"] == "number" and not any(0 < bound < 1 for bound in given):
        ending["multipleOf"] = FRACTION
    return ending


def _is_open_object(schema: Mapping[str, Any]) -> bool:
    listed = schema.get("properties")
    required = schema.get("required", [])
    return (
        isinstance(listed, Mapping)
        and isinstance(required, list)
        and set(required) <= set(listed)
        and not {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(schema)
    )


def _with_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _merges(node: Any) -> bool:
    """Whether two schemas describe one object together anywhere in this one."""
    if isinstance(node, list):
        return any(_merges(part) for part in node)
    if not isinstance(node, Mapping):
        return False
    parts = [key for key in _MERGING if key in node]
    several = isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1
    if several or len(parts) > 1 or (parts and "properties" in node):
        return True
    return any(
        _merges(list(part.values()) if key in _NAMED and isinstance(part, Mapping) else part)
        for key, part in node.items()
        if key in (*_SCHEMAS, *_LISTS, *_NAMED)
    )
