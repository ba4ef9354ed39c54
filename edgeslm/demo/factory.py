"""The factory as a source of messages: pure, seeded, and time is an argument."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from edgeslm.demo.faults import KINDS, Fault, Spoken
from edgeslm.demo.machines import MACHINES, Counter, Field, Machine, Pick, Reading
from edgeslm.demo.orders import Order, Orders

# Share of a reading's variance that is sensor noise, new in each message; the rest drifts.
_NOISE: Final = 0.3
# Seconds of factory time between two messages of the whole plant.
STEP_S: Final = 8.0
FAULT_SHARE: Final = 0.04
ORDER_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Message:
    """One message and the truth about it.

    Args:
        id: unique within a run; the publisher's own id.
        source: the machine, or the station where an order was typed.
        text: what is said.
        time: factory time, seconds since 1970.
        fault: what is wrong with a machine's line; None where it is normal.
        order: the truth about an order's text; None for a machine's line.
    """

    id: str
    source: str
    text: str
    time: float
    fault: Fault | None = None
    order: Order | None = None


class _Drift:
    """A reading's state: an Ornstein-Uhlenbeck process, exact for any step."""

    def __init__(self, field: Reading, rng: random.Random) -> None:
        self._field, self._rng = field, rng
        self._deviation = rng.gauss(0, 1)
        self._at: float | None = None

    def value(self, now: float) -> str:
        """Return what the machine prints at `now`, seconds; time must not go back."""
        if self._at is not None:
            keep = math.exp(-(now - self._at) / self._field.settle_s)
            self._deviation = keep * self._deviation + self._rng.gauss(
                0, math.sqrt(1 - keep * keep)
            )
        self._at = now
        noise = self._rng.gauss(0, 1)
        total = math.sqrt(1 - _NOISE) * self._deviation + math.sqrt(_NOISE) * noise
        return f"{self._field.level + self._field.spread * total:.{self._field.digits}f}"


def count(field: Counter, now: float) -> int:
    """What a counter shows at `now`, seconds."""
    steps = abs(field.last - field.first) + 1
    step = int(now / field.every_s) % steps
    return field.first + step if field.last >= field.first else field.first - step


class Factory:
    """All machines and the people around them; each call of `message` says one thing.

    The same seed and the same times give the same messages.

    Args:
        seed: of everything random.
        fault_share: of the machines' messages, how many are faulty, in [0, 1].
        order_share: of all messages, how many are orders typed by people, in [0, 1].
        fresh: whether orders may use phrases that training data does not hold.
    """

    def __init__(
        self,
        seed: str,
        *,
        fault_share: float = FAULT_SHARE,
        order_share: float = ORDER_SHARE,
        fresh: bool = True,
    ) -> None:
        self._rng = random.Random(seed)  # noqa: S311 -- a play, not a secret
        self._orders = Orders(self._rng, fresh=fresh)
        self._fault_share, self._order_share = fault_share, order_share
        self._drifts = {
            (machine.name, name): _Drift(field, self._rng)
            for machine in MACHINES
            for name, field in machine.fields.items()
            if isinstance(field, Reading)
        }
        self._weights = {
            machine.name: list(accumulate(line.weight for line in machine.lines))
            for machine in MACHINES
        }
        self._deck: list[str] = []
        self._count = 0

    def message(self, now: float) -> Message:
        """Return the next message, said at `now`, seconds since 1970; must not go back."""
        self._count += 1
        id_ = f"m{self._count:06d}"
        if self._rng.random() < self._order_share:
            order = self._orders.next()
            return Message(id_, order.station, order.text, now, order=order)
        if self._rng.random() < self._fault_share:
            spoken, fault = self._faulty(now)
            return Message(id_, spoken.machine.name, fault.text, now, fault=fault)
        spoken = self._speak(self._rng.choice(MACHINES), now)
        return Message(id_, spoken.machine.name, spoken.text, now)

    def _speak(self, machine: Machine, now: float) -> Spoken:
        line = self._rng.choices(machine.lines, cum_weights=self._weights[machine.name])[0]
        values = {
            name: self._value(machine, name, field, now) for name, field in machine.fields.items()
        }
        return Spoken(machine, line, values)

    def _value(self, machine: Machine, name: str, field: Field, now: float) -> str:
        match field:
            case Reading():
                return self._drifts[machine.name, name].value(now)
            case Counter():
                return str(count(field, now))
            case Pick():
                return self._rng.choice(field.words)

    def _faulty(self, now: float) -> tuple[Spoken, Fault]:
        # Dealt from a deck, so that a short run too sees every kind about equally often.
        if not self._deck:
            self._deck = list(KINDS)
            self._rng.shuffle(self._deck)
        make = KINDS[self._deck.pop()]
        while True:  # every kind fits some line of some machine (tested)
            spoken = self._speak(self._rng.choice(MACHINES), now)
            if fault := make(spoken, self._rng):
                return spoken, fault


def play(factory: Factory, start: float) -> Iterator[Message]:
    """Messages without end, `STEP_S` of factory time apart, from `start`, seconds since 1970."""
    now = start
    while True:
        yield factory.message(now)
        now += STEP_S
