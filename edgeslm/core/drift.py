"""Whether a model still hears what it was trained on: a sequential test by betting.

A channel's p-value is at most u with a chance of at most u, if nothing has changed. So whoever bets
on small ones, at odds that are fair or worse, does not grow rich; if he does, something has
changed. That holds at any time, which is why the test can look after every message.

Readings are not independent, and no plant is quite what it was. So it is not single readings that
are bet on:

- Of a block of messages it is the share with a p-value of at most u; or the mean of the shares of
  each kind, a template of a source, where that is less: what one machine repeats is one kind of
  many. A block is as long as it takes for `BLOCK` independent messages, by what training says one
  is worth (`exporters.heads.steadiness`); where training was too short to say, nothing is bet.
- The share may be u + `TOLERANCE`: a fault here and there is no drift, nor is calibration on few
  lines.
- Of templates that are new to their source, and were not heard among the last `RECENT` messages,
  the share may be that of training + `MARGIN`.
- No block multiplies a stake by more than `MOST`, so that one bad moment does not do it.

What is won is added up over all moments at which the change may have begun. While the expected
share of each block, given all before it, is at most what it may be, the sum grows by one a block at
most, in expectation, whatever depends on what; with the number of blocks that are left of n it is
a supermartingale that begins at n. A channel is suspected at a limit of c / (rate * `BLOCK`), for
there are c. So among n messages the chance of a false report is at most n * rate (Ville's
inequality), and on average at least 1 / rate messages pass before one.

Source:
    Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric framework for sequential change
    detection", New Engl. J. Stat. Data Sci. 2(2), arXiv:2203.03532: the sum, of Shiryaev and
    Roberts, and its bound. Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021, "Retrain
    or not retrain", PMLR 152: betting on conformal p-values to know when. Waudby-Smith & Ramdas
    2024, J. R. Stat. Soc. B 86:1: bets on the mean of what is bounded.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import truediv
from typing import Final, NamedTuple

BLOCK: Final = 5
"""Independent messages that are bet on together."""
LEVELS: Final = (0.02, 0.05, 0.1, 0.2)
"""p-values that are looked at: few that are tiny, or many that are smallish."""
TOLERANCE: Final = 0.1
"""Share of p-values beyond what a level promises that is no drift."""
MARGIN: Final = 0.05
"""Share of new templates beyond that of training that is no drift."""
MOST: Final = 3.0
"""Most by which a block multiplies a stake."""
STAKES: Final = (0.25, 0.5, 1.0)
"""Of the largest stake that `MOST` allows."""
NEW: Final = "text"
"""Channel whose p-value is below 1 where a template is new to its source."""
NUMBER: Final = "number"
INTENT: Final = "intent"
"""Channel of an answer whose p-value has no channels: how far a text is out of scope."""
KINDS: Final = 4096
"""Kinds that are told apart in one block; those beyond count as one."""
RECENT: Final = 500
"""Messages that rates are told of, and after which a new template counts once more."""
_OTHERS: Final = ("", None)
_MOST_TOLERATED: Final = 0.9
"""Share of new templates in training beyond which their rate says nothing."""
_RICHEST: Final = 1e300  # far beyond any limit, and finite

Kind = tuple[str, Hashable]
"""Source, and what stands for its template or text."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training says of what a model will hear.

    Args:
        worth: by channel that is tested, how many independent messages one is worth, in [0, 1];
            0: training was too short to say, and nothing is bet on it. What looks at windows or
            sessions looks at the same readings again and again, and is not among them.
        new_rate: share of lines held out whose template was new to their source; None: unknown.
    """

    worth: Mapping[str, float] = field(default_factory=lambda: {INTENT: 1.0})
    new_rate: float | None = None

    @property
    def untested(self) -> list[str]:
        """Channels that nothing is bet on."""
        return sorted(name for name, worth in self.worth.items() if not worth)


class Sighting(NamedTuple):
    """What an answer tells of drift."""

    kind: Kind
    channels: Mapping[str, float]
    """p-value of each, in (0, 1]."""
    text: str | None = None
    """The beginning of its template or text, if that may leave the device."""


class Unusual(NamedTuple):
    """A message with a p-value that is looked at."""

    channel: str
    kind: Kind
    text: str | None


def bound(level: float) -> float:
    """Return the share of p-values of at most `level` that is no drift."""
    return level + TOLERANCE


BOUNDS: Final = tuple(map(bound, LEVELS))


class Bets:
    """What is won by bets on one channel: a mean over shares that are looked at, and stakes.

    Args:
        bounds: of each share, what is no drift, in (0, 1).
    """

    __slots__ = ("_back", "_bounds", "_lost", "_nothing", "_stakes", "_sums", "evidence")

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self._bounds = bounds
        self._stakes = [[stake * (MOST - 1) / (1 - q) for stake in STAKES] for q in bounds]
        self._nothing = [0.0] * len(bounds)
        self._lost = self._won(self._nothing)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._sums = [0.0] * len(self._lost)
        self._back = [0.0] * len(self._bounds)
        self.evidence = 0.0

    def on_change(self, shares: Sequence[float]) -> float:
        """Bet that more than may be are small; return the evidence that there are."""
        if shares == self._nothing:  # nearly always
            sums = [(won + 1.0) * lost for won, lost in zip(self._sums, self._lost, strict=True)]
        else:
            sums = [
                min(_RICHEST, (won + 1.0) * by)
                for won, by in zip(self._sums, self._won(shares), strict=True)
            ]
        self._sums = sums
        self.evidence = sum(sums) / len(sums)
        return self.evidence

    def on_return(self, shares: Sequence[float]) -> float:
        """Bet that fewer than may be are small; return the evidence that so it is at each share."""
        for i, q in enumerate(self._bounds):
            won = (self._back[i] + 1.0) * (1.0 + (q - shares[i]) / (1.0 - q))
            self._back[i] = min(won, _RICHEST)
        return min(self._back)

    def _won(self, shares: Sequence[float]) -> list[float]:
        """Return by how much each stake is multiplied, share by share."""
        return [
            1.0 + stake * (share - q)
            for share, q, stakes in zip(shares, self._bounds, self._stakes, strict=True)
            for stake in stakes
        ]


class _Channel:
    """One channel: its bets, and the block that it hears.

    Args:
        worth: see `Trained`, > 0.
        fresh: share of fresh messages that is no drift; None: nothing is bet on it.
    """

    __slots__ = ("_fresh", "_heard", "_length", "_small", "bets", "counts")

    def __init__(self, worth: float, fresh: float | None) -> None:
        self.bets = Bets(BOUNDS if fresh is None else (*BOUNDS, fresh))
        self._fresh = fresh is not None
        self._length = math.ceil(BLOCK / worth)
        self._begin()

    def _begin(self) -> None:
        self._heard = 0
        self.counts: dict[Kind, int] = {}
        self._small: dict[Kind, list[int]] = {}  # of those that have any, how many by share

    def hear(self, kind: Kind, p: float, *, fresh: bool) -> list[float] | None:
        """Hear a message; return the shares of its block where it is the last."""
        counts = self.counts
        before = counts.get(kind, 0)
        if not before and len(counts) >= KINDS:
            kind = _OTHERS
            before = counts.get(kind, 0)
        counts[kind] = before + 1
        self._heard += 1
        if p <= LEVELS[-1] or fresh:
            small = self._small.get(kind)
            if small is None:
                small = self._small[kind] = [0] * (len(LEVELS) + self._fresh)
            for i in range(bisect_left(LEVELS, p), len(LEVELS)):
                small[i] += 1
            if self._fresh:
                small[-1] += fresh
        if self._heard < self._length:
            return None
        shares = self._shares()
        self._begin()
        return shares

    def _shares(self) -> list[float]:
        if not self._small:
            return [0.0] * (len(LEVELS) + self._fresh)
        counts = [self.counts[kind] for kind in self._small]
        heard, kinds = self._heard, len(self.counts)
        return [
            min(sum(found) / heard, sum(map(truediv, found, counts)) / kinds)
            for found in zip(*self._small.values(), strict=True)
        ]


class Drift:
    """The test of one model; `take` is called with each answer, in about the order they came.

    Args:
        false_rate: false reports a message, at most, in (0, 1).
        trained: what training says of what the model will hear.

    Attributes:
        suspected: channels that have changed; while there are any, drift is reported.
        messages: how many were taken.
    """

    def __init__(self, false_rate: float, trained: Trained) -> None:
        self.false_rate = false_rate
        self.suspected: set[str] = set()
        self.messages = 0
        self._channels = {
            name: _Channel(worth, _tolerated(trained) if name == NEW else None)
            for name, worth in trained.worth.items()
            if worth
        }
        self._knows_new = NEW in trained.worth
        self._new: deque[int] = deque(maxlen=RECENT)  # when new ones were heard
        self._last: OrderedDict[Kind, int] = OrderedDict()  # and each kind of them last
        self._unusual: deque[tuple[int, str, Kind, str | None]] = deque(maxlen=RECENT)

    @property
    def limit(self) -> float:
        """Evidence at which a channel is suspected."""
        return max(1.0, len(self._channels) / (self.false_rate * BLOCK))

    @property
    def evidence(self) -> float:
        """Most that is won on any channel that is not suspected yet."""
        return max((one.bets.evidence for one in self._channels.values()), default=0.0)

    @property
    def new_rate(self) -> float | None:
        """Share of the last messages whose template is new to its source; None: nobody says."""
        if not self.messages or not self._knows_new:
            return None
        since = self.messages - RECENT
        return sum(number > since for number in self._new) / min(self.messages, RECENT)

    def take(self, sighting: Sighting) -> bool:
        """Hear an answer; return whether what is suspected has changed."""
        kind, channels, text = sighting
        number = self.messages = self.messages + 1
        fresh = channels.get(NEW, 1.0) < 1.0 and self._is_fresh(kind)
        changed = False
        for name, channel in self._channels.items():
            p = channels.get(name, 1.0)
            if p <= LEVELS[-1]:
                self._unusual.append((number, name, kind, text))
            shares = channel.hear(kind, p, fresh=fresh and name == NEW)
            if shares is not None:
                changed |= self._settle(name, channel.bets, shares)
        return changed

    def unusual(self) -> Iterator[Unusual]:
        """Yield those of the last messages that were unusual, one for each channel."""
        since = self.messages - RECENT
        for number, channel, kind, text in self._unusual:
            if number > since:
                yield Unusual(channel, kind, text)

    def _is_fresh(self, kind: Kind) -> bool:
        """Count a message with a new template; return whether that was not heard for long."""
        self._new.append(self.messages)
        last = self._last
        while last and next(iter(last.values())) <= self.messages - RECENT:
            last.popitem(last=False)
        heard = kind in last
        last[kind] = self.messages
        last.move_to_end(kind)
        return not heard

    def _settle(self, name: str, bets: Bets, shares: Sequence[float]) -> bool:
        """Pay out a block's bets; return whether the channel is suspected now, or no longer."""
        if name in self.suspected:
            if bets.on_return(shares) < self.limit:
                return False
            self.suspected.discard(name)
        else:
            if bets.on_change(shares) < self.limit:
                return False
            self.suspected.add(name)
        bets.forget()
        return True


def _tolerated(trained: Trained) -> float | None:
    """Return the share of fresh messages that is no drift; None: none can be named."""
    if trained.new_rate is None or trained.new_rate > _MOST_TOLERATED - MARGIN:
        return None
    return trained.new_rate + MARGIN
