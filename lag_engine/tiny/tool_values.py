"""Values of generated arguments: words, names in many scripts, numbers; how a request says them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from lag_engine.tiny.tool_words import ADJECTIVES, NOUNS
from lag_engine.tiny.tools import Argument, random_word
from lag_engine.tiny.world import KINDS, Split, names

SCRIPTS = (
    (0x4E00, 0x9FA5),
    (0x4E00, 0x9FA5),
    (0x3041, 0x3096),
    (0x30A1, 0x30FA),
    (0xAC00, 0xD7A3),
    (0x0410, 0x044F),
    (0x03B1, 0x03C9),
    (0x0621, 0x064A),
    (0x05D0, 0x05EA),
    (0x0905, 0x0939),
    (0x1F300, 0x1F5FF),
)
"""Code point ranges that unicode strings are drawn from; each string keeps to one or two."""
ACCENTED = "áàâäãåçéèêëíìîïñóòôöõøúùûüýÿšžčřůğıłńœæß"


def random_value(argument: Argument, side: Split, rng: random.Random) -> Any:
    """A value of the argument's type; names of the world are of the given side."""
    if argument.type == "choice":
        return rng.choice(argument.choices)
    if argument.type == "boolean":
        return rng.random() < 0.5
    if argument.type == "integer":
        size = 10 ** rng.choice((1, 1, 2, 2, 3, 4, 5))
        return rng.randrange(size) * (-1 if rng.random() < 0.1 else 1)
    if argument.type == "number":
        return round(rng.uniform(0, 10 ** rng.randrange(1, 4)), rng.choice((1, 1, 2)))
    return random_text(side, rng)


def random_text(side: Split, rng: random.Random) -> str:
    """A value of type string: a name, a place, other scripts, an identifier, some words."""
    return rng.choices(_TEXTS, _TEXT_SHARES)[0](side, rng)


def place(rng: random.Random) -> str:
    """A place as people write it: one to three capitalised words, maybe a region's letters."""
    words = [
        random_word(rng, rng.choice((1, 2, 2))).capitalize() for _ in range(rng.choice((1, 1, 2)))
    ]
    prefix = rng.choice(("", "", "", "New ", "Port ", "San ", "Los ", "Saint "))
    region = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=2))
    return prefix + " ".join(words) + (f", {region}" if rng.random() < 0.4 else "")


def person(rng: random.Random) -> str:
    """A first name, or two names, of random letters."""
    count = rng.choice((1, 1, 2))
    return " ".join(random_word(rng, rng.choice((1, 2))).capitalize() for _ in range(count))


def unicode_text(rng: random.Random) -> str:
    """A short string of one or two scripts that are not Latin, or Latin with accents."""
    if rng.random() < 0.2:
        return "".join(
            rng.choice(ACCENTED) if rng.random() < 0.4 else letter for letter in place(rng)
        )
    parts = rng.choice((1, 1, 1, 2))
    text = []
    for _ in range(parts):
        low, high = rng.choice(SCRIPTS)
        text.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
    return rng.choice(("", "", " ")).join(text)


def phrase(rng: random.Random) -> str:
    """Two to four common words."""
    words = rng.choices(NOUNS + ADJECTIVES, k=rng.randint(1, 3))
    return " ".join([*words, rng.choice(NOUNS)])


def _world_name(side: Split, rng: random.Random) -> str:
    return rng.choice(names(rng.choice(KINDS), side))


def _identifier(rng: random.Random) -> str:
    letters = rng.choices("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHXYZ", k=rng.randint(2, 6))
    return rng.choice(("", "", "#", "id-", "v")) + "".join(letters)


def _address(rng: random.Random) -> str:
    name = random_word(rng)
    return rng.choice((f"{name}@{random_word(rng)}.com", f"www.{name}.org", f"{name}.txt"))


_TEXTS: tuple[Callable[[Split, random.Random], str], ...] = (
    lambda side, rng: place(rng),
    lambda side, rng: person(rng),
    lambda side, rng: unicode_text(rng),
    lambda side, rng: random_word(rng),
    lambda side, rng: phrase(rng),
    _world_name,
    lambda side, rng: _identifier(rng),
    lambda side, rng: _address(rng),
)
_TEXT_SHARES = (20, 15, 22, 12, 13, 10, 5, 3)


def spoken(value: Any, rng: random.Random) -> str:
    """The value as a request says it; a text sometimes in quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    if rng.random() < (0.3 if value.isascii() else 0.6):
        return quoted(value, rng)
    return value


def quoted(text: str, rng: random.Random) -> str:
    """The text in single or double quotes."""
    mark = rng.choice("'\"")
    return f"{mark}{text}{mark}"
