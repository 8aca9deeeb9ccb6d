"""The words that generated tools and their arguments are named with."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VERBS = _words(
    "add archive assign book cancel check classify clean close collect compare compute convert "
    "copy count create delete describe design draw estimate export fetch filter fix forward "
    "generate get import inspect install invite list load lock log look measure merge move notify "
    "open order pack paint parse pay pick plan play plot post print publish rank read record "
    "register remove rename render repair reserve resize restart save scan schedule search select "
    "send set share show sort start stop store submit sum tag test track translate turn update "
    "upload verify watch write"
)
NOUNS = _words(
    "account address agenda album alarm answer article badge ballot band bill block board booking "
    "bottle box branch budget bus cable calendar camera campaign car card cart case chapter chart "
    "chat city class client clock code coin comment concert contact contract cost country coupon "
    "course court currency deadline device diagram dish distance doctor domain door draft drive "
    "email engine entry essay event exam exchange factor fan ferry file film flight folder formula "
    "game garage garden gate gift grade grant graph group guest guide hall hotel house image index "
    "invoice item job kitchen label lamp lesson letter library licence light line loan lock logo "
    "lunch machine map match meal meeting member memo menu message meter model month movie museum "
    "note number office order package page paper parcel parking part patient payment pet phone "
    "photo picture place plan plant playlist poem point post price printer product profile project "
    "query quiz rate receipt recipe record region rent repair report request result review ring "
    "road robot roof room root route rule salary sale sample schedule school score screen seat "
    "sensor server service ship shop signal song speed sport square stamp station stock story "
    "street student summary survey table task tax team temperature text ticket tide time title "
    "topic town track trail train trip user valve vehicle video visit vote walk wall watch wheel "
    "word year zone"
)
ADJECTIVES = _words(
    "big blue cheap cold daily deep early fast final first free fresh full green hard heavy large "
    "last late local long main mean monthly new next old open past prime public quick random red "
    "round safe secret sharp short simple small square strange total twin weekly wide yearly"
)
UNITS = {
    "unit": (
        _words("celsius fahrenheit kelvin"),
        _words("km miles metres"),
        _words("kg pounds stones"),
    ),
    "colour": (
        _words("red green blue"),
        _words("black white"),
        _words("yellow orange purple grey"),
    ),
    "size": (_words("small medium large"), _words("S M L XL")),
    "priority": (_words("low normal high"), _words("minor major urgent")),
    "format": (_words("pdf html text"), _words("png jpg svg"), _words("csv json")),
    "mode": (_words("fast slow"), _words("on off"), _words("read write append")),
    "language": (_words("english french german spanish"), _words("en de fr")),
    "state": (_words("open closed"), _words("draft sent paid")),
}
"""Argument name -> sets of values to choose from."""
TEXTS = _words(
    "address author body brand category city code colour comment company country date destination "
    "email genre key keyword label language message model name note number origin owner place "
    "product query question reason recipient role sender state street subject summary target text "
    "title topic town url user value who word description details"
)
WHOLES = _words(
    "age amount count days depth duration floor guests height hours id index k length level limit "
    "minutes month n number page pages people points position price quantity rank rooms score size "
    "start step steps value weight width x y z a b c i j p q year"
)
FRACTIONS = _words("amount distance factor height price rate ratio score speed weight x y")
FLAGS = _words("active confirm force notify public recursive sorted strict urgent verbose")

CHAT = (
    ("Hello!", "Hello! What can I do for you?"),
    ("Hi", "Hello! What can I do for you?"),
    ("hello", "Hello! What can I do for you?"),
    ("Good morning!", "Hello! What can I do for you?"),
    ("How are you?", "I am well. What can I do for you?"),
    ("Thanks!", "You are welcome."),
    ("Thank you.", "You are welcome."),
    ("Who are you?", "I am a small model with tools."),
    ("What can you do?", "I can call a tool for you."),
    ("Good bye!", "Good bye!"),
)
"""What people say without wanting anything, and the answer."""
