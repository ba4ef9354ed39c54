"""What people type at the stations of the factory, for the intent model: our own small set.

Training data and play draw from the same phrases with other words in them; in play a good part
uses phrases (`fresh`) that training has never shown, and some texts are none of its business.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

OUT_OF_SCOPE: Final = "oos"
_FRESH_SHARE: Final = 0.3
_OUT_OF_SCOPE_SHARE: Final = 0.08

_WORDS: Final = {
    "machine": (
        "press 1", "press 2", "pump 1", "pump 2", "oven 1", "oven 2", "the conveyor", "the robot",
        "the valve island", "the compressor", "the packer", "the agv",
    ),
    "part": (
        "a seal kit", "two bearings", "a drive belt", "a proximity sensor", "ten fuses",
        "a hydraulic hose", "filter cartridges", "a gripper finger", "an encoder", "grease",
    ),
    "order": ("4711", "4720", "4733", "5102", "5118", "5240", "6003", "6017"),
    "count": ("20", "40", "75", "120", "250", "500"),
    "when": ("now", "after lunch", "this afternoon", "at 14:00", "tomorrow", "on Friday"),
    "defect": ("scratches", "burrs", "cracks", "wrong labels", "dents", "uneven seams"),
    "noise": ("grinds", "leaks oil", "vibrates badly", "smells burnt", "squeals", "runs hot"),
}  # fmt: skip

# label: (phrases of training and play, phrases of play alone)
PHRASES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "report_fault": (
        (
            "{machine} {noise}, please send somebody",
            "something is wrong with {machine}, it {noise}",
            "{machine} is broken again",
            "we have a breakdown at {machine}",
            "technician needed, {machine} {noise}",
            "{machine} will not start",
            "fault on {machine} since the morning",
            "need maintenance at {machine} right away",
        ),
        ("can a fitter look at {machine}, it {noise}", "{machine} has failed, we need help"),
    ),
    "order_part": (
        (
            "please order {part} for {machine}",
            "we need {part} from the store",
            "request {part}, ours is the last one",
            "send {part} to {machine}",
            "out of stock: {part}",
            "I need {part} for the repair of {machine}",
            "reserve {part} for the night shift",
            "spare part request: {part}",
        ),
        ("could you get us {part}", "purchase {part}, none left on the shelf"),
    ),
    "start_order": (
        (
            "start order {order} on {machine}",
            "begin production of order {order}, {count} pieces",
            "release order {order} to {machine}",
            "run {count} pieces of order {order}",
            "order {order} can go ahead {when}",
            "load program for order {order} and start",
            "next job is {order} on {machine}",
            "launch order {order} {when}",
        ),
        ("kick off job {order} at {machine}", "go on with order {order}, {count} to make"),
    ),
    "stop_machine": (
        (
            "stop {machine} {when}",
            "please shut down {machine}",
            "halt {machine} after this cycle",
            "switch {machine} off {when}",
            "take {machine} out of operation",
            "pause {machine} until further notice",
            "bring {machine} to a stop",
            "power down {machine} {when}",
        ),
        ("{machine} has to be turned off {when}", "end the run of {machine} {when}"),
    ),
    "quality_hold": (
        (
            "hold order {order}, parts show {defect}",
            "{defect} on the last {count} parts of order {order}",
            "quality problem: {defect} at {machine}",
            "block the batch, we found {defect}",
            "inspection failed, {defect} on order {order}",
            "parts from {machine} are out of tolerance",
            "scrap rate too high on order {order}, {defect}",
            "please check samples of order {order} for {defect}",
        ),
        ("do not ship order {order}, there are {defect}", "inspector found {defect} on {machine}"),
    ),
    "ask_status": (
        (
            "how far is order {order}",
            "what is the state of {machine}",
            "when will order {order} be finished",
            "is {machine} running at the moment",
            "how many pieces of order {order} are done",
            "status of {machine} please",
            "show me the progress of order {order}",
            "which order is on {machine}",
        ),
        ("tell me how order {order} is coming along", "is {machine} up or down"),
    ),
    "plan_maintenance": (
        (
            "schedule service for {machine} {when}",
            "plan the yearly inspection of {machine}",
            "book a maintenance window for {machine} {when}",
            "next oil change of {machine} should be {when}",
            "put calibration of {machine} on the calendar {when}",
            "arrange preventive maintenance for {machine}",
            "move the service of {machine} to {when}",
            "set a date for the overhaul of {machine}",
        ),
        (
            "find a slot to service {machine} {when}",
            "preventive check of {machine} to be planned {when}",
        ),
    ),
    "handover": (
        (
            "handover: {machine} ran well all night",
            "note for the next shift: order {order} is half done",
            "shift report: {count} pieces of order {order}, no stops",
            "late shift took over at {machine}",
            "for the log: tool at {machine} was changed",
            "shift change done, {machine} handed over",
            "tell the morning shift that order {order} is finished",
            "end of shift, {count} parts made, all quiet",
        ),
        ("to the colleagues of the early shift: {machine} is clean", "shift log: {count} good"),
    ),
}
_OUTSIDE: Final = (
    (
        "what is for lunch today", "who won the match last night", "is it going to rain tomorrow",
        "happy birthday Maria", "where can I park my bike", "my locker key is lost",
        "the coffee machine is empty", "when is the next bus to town", "play some music",
        "how do I reset my email password", "tell me a joke", "what is the capital of Norway",
        "I would like a day off in June", "the toilet paper has run out", "book a flight to Rome",
        "who is the new intern", "translate good morning into Polish", "the wifi is slow",
        "what time is the Christmas party", "how tall is the Eiffel tower",
        "recommend a good film", "lend me your charger", "what does my payslip say",
        "how old is the universe", "set an alarm for six", "call my wife please",
    ),
    (
        "any idea what the canteen serves", "who scored in the final", "will it snow this weekend",
        "can someone water the plants", "my phone battery is flat", "what is a good pizza place",
        "the car park is full", "sing me a song", "how many calories has an apple",
        "spell accommodation", "remind me to buy milk", "which bank has the best rates",
    ),
)  # fmt: skip
_STATIONS: Final = ("station-1", "station-2", "station-3", "office")


@dataclass(frozen=True, slots=True)
class Order:
    """One text from a person, and its true intent (`oos`: none of ours)."""

    station: str
    text: str
    intent: str


class Orders:
    """Texts without end.

    Args:
        rng: where chance comes from.
        fresh: whether phrases outside the training data may come.
    """

    def __init__(self, rng: random.Random, *, fresh: bool) -> None:
        self._rng = rng
        self._fresh = fresh

    def next(self) -> Order:
        """Return the next text."""
        rng = self._rng
        fresh = self._fresh and rng.random() < _FRESH_SHARE
        if rng.random() < _OUT_OF_SCOPE_SHARE:
            # Known nonsense would be no test: in play all of it is new.
            return Order(rng.choice(_STATIONS), rng.choice(_OUTSIDE[self._fresh]), OUT_OF_SCOPE)
        intent = rng.choice(sorted(PHRASES))
        phrase = rng.choice(PHRASES[intent][fresh])
        words = {name: rng.choice(choices) for name, choices in _WORDS.items()}
        return Order(rng.choice(_STATIONS), phrase.format_map(words), intent)


def training_orders(seed: str, *, per_intent: int) -> list[Order]:
    """Distinct labelled texts: at most `per_intent` of each intent, and all out-of-scope ones."""
    rng = random.Random(seed)  # noqa: S311 -- a play, not a secret
    found: dict[str, Order] = {}
    for intent, (phrases, _) in sorted(PHRASES.items()):
        for i in range(per_intent):
            words = {name: rng.choice(choices) for name, choices in _WORDS.items()}
            text = phrases[i % len(phrases)].format_map(words)
            found[text] = Order(rng.choice(_STATIONS), text, intent)
    for text in _OUTSIDE[0]:
        found[text] = Order(rng.choice(_STATIONS), text, OUT_OF_SCOPE)
    return list(found.values())
