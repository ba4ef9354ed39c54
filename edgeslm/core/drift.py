"""Whether a model still hears what it was trained on: a sequential test by betting.

A channel's p-value is at most u with a chance of at most u, if nothing has changed. So whoever bets
on small ones, at odds that are fair or worse, does not grow rich; if he does, something has
changed. That holds at any time, which is why the test can look after every message.

Readings are not independent, and no plant is quite what it was. So it is not single readings that
are bet on:

- Of a block of `BLOCK` messages it is the share with a p-value of at most u; or the mean of the
  shares of each kind, a template of a source, where that is less: what one machine repeats is one
  kind of many.
- Where a kind's numbers follow each other slowly, it is heard as seldom as they are worth a
  reading (`numbers.History.effective`).
- The share may be u + `TOLERANCE`: a fault here and there is no drift, nor is calibration on few
  lines.
- No block multiplies a stake by more than `MOST`, so that one bad moment does not do it.

What is won is added up over all moments at which the change may have begun. While the expected
share of each block, given all before it, is at most u + TOLERANCE, the sum grows by one a block at
most, in expectation, whatever depends on what; with the number of blocks that are left of n it is
a supermartingale that begins at n. A channel is suspected at a limit of 2 / (rate * `BLOCK`), for
there are two. So among n messages the chance of a false report is at most n * rate (Ville's
inequality), and on average at least 1 / rate messages pass before one.

Source:
    Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric framework for sequential change
    detection", New Engl. J. Stat. Data Sci. 2(2), arXiv:2203.03532: the sum, of Shiryaev and
    Roberts, and its bound. Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021, "Retrain
    or not retrain", PMLR 152: betting on conformal p-values to know when. Waudby-Smith & Ramdas
    2024, J. R. Stat. Soc. B 86:1: bets on the mean of what is bounded.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

BLOCK: Final = 5
"""Messages that are bet on together."""
LEVELS: Final = (0.02, 0.05, 0.1, 0.2)
"""p-values that are looked at: few that are tiny, or many that are smallish."""
TOLERANCE: Final = 0.1
"""Share of votes beyond what a p-value promises that is no drift."""
MOST: Final = 3.0
"""Most by which a block multiplies a stake."""
STAKES: Final = (0.25, 0.5, 1.0)
"""Of the largest stake that `MOST` allows."""
NEW: Final = "text"
"""Channel whose p-value is below 1 where a template is new to its source."""
CHANNELS: Final = (NEW, "number")
"""Those that are tested; each has its share of the rate of false reports. What looks at windows or
sessions looks at the same readings again and again, and is left out."""
KINDS: Final = 4096
"""Kinds whose slowness is kept in mind; the one not heard for longest gives way."""
RECENT: Final = 500
"""Messages that rates are told of."""
_NOTHING: Final = [0.0] * len(LEVELS)
_RICHEST: Final = 1e300  # far beyond any limit, and finite

Kind = tuple[str, str]
"""Source and template."""


class Sighting(NamedTuple):
    """What an answer tells of drift."""

    kind: Kind
    channels: Mapping[str, float]
    """p-value of each, in (0, 1]."""
    worth: float = 1.0
    """Independent readings that this one is worth, in (0, 1]."""
    shared: bool = False
    """Its text may leave the device."""


class Unusual(NamedTuple):
    """A message with a p-value that is looked at."""

    channel: str
    kind: Kind
    shared: bool


def bound(level: float) -> float:
    """Return the share of p-values of at most `level` that is no drift."""
    return level + TOLERANCE


# What is bet: index of the level, the share that is no drift, and the stake.
_BETS: Final = [
    (i, bound(level), stake * (MOST - 1) / (1 - bound(level)))
    for i, level in enumerate(LEVELS)
    for stake in STAKES
]
_LOST: Final = [1.0 - q * stake for _, q, stake in _BETS]  # where nothing is small


class Bets:
    """What is won by bets on one channel: a mean over levels and stakes."""

    __slots__ = ("_back", "_sums", "evidence")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._sums = [0.0] * len(_BETS)
        self._back = [0.0] * len(LEVELS)
        self.evidence = 0.0

    def on_change(self, shares: Sequence[float]) -> float:
        """Bet that more than may be are small; return the evidence that there are."""
        if shares is _NOTHING:  # nearly always
            sums = [(won + 1.0) * lost for won, lost in zip(self._sums, _LOST, strict=True)]
        else:
            sums = [
                min(_RICHEST, (won + 1.0) * (1.0 + stake * (shares[i] - q)))
                for won, (i, q, stake) in zip(self._sums, _BETS, strict=True)
            ]
        self._sums = sums
        self.evidence = sum(sums) / len(sums)
        return self.evidence

    def on_return(self, shares: Sequence[float]) -> float:
        """Bet that fewer than may be are small; return the evidence that so it is at each level."""
        for i, level in enumerate(LEVELS):
            q = bound(level)
            won = (self._back[i] + 1.0) * (1.0 + (q - shares[i]) / (1.0 - q))
            self._back[i] = min(won, _RICHEST)
        return min(self._back)


class Drift:
    """The test of one model; `take` is called with each answer, in about the order they came.

    Args:
        false_rate: false reports a message, at most, in (0, 1).

    Attributes:
        suspected: channels that have changed; while there are any, drift is reported.
        messages: how many were taken.
    """

    def __init__(self, false_rate: float) -> None:
        self.false_rate = false_rate
        self.suspected: set[str] = set()
        self.messages = 0
        self._bets = {name: Bets() for name in CHANNELS}
        self._credit: OrderedDict[Kind, float] = OrderedDict()
        self._heard = 0  # messages of this block
        self._kinds: dict[Kind, int] = {}  # how many of each
        # By channel, those with a p-value to look at.
        self._small: dict[str, list[tuple[float, Kind]]] = {name: [] for name in CHANNELS}
        self._left = BLOCK
        self._new: deque[bool] = deque(maxlen=RECENT)
        self._news = 0
        self._unusual: deque[tuple[int, Unusual]] = deque(maxlen=RECENT)

    @property
    def limit(self) -> float:
        """Evidence at which a channel is suspected."""
        return max(1.0, len(CHANNELS) / (self.false_rate * BLOCK))

    @property
    def evidence(self) -> float:
        """Most that is won on any channel that is not suspected yet."""
        return max(bets.evidence for bets in self._bets.values())

    @property
    def new_rate(self) -> float | None:
        """Share of the last messages whose template is new to its source; None: there were none."""
        return self._news / len(self._new) if self._new else None

    def take(self, sighting: Sighting) -> bool:
        """Hear an answer; return whether what is suspected has changed."""
        kind, channels, worth, shared = sighting
        self.messages += 1
        self._count(channels.get(NEW, 1.0) < 1.0)
        for name in CHANNELS:
            if channels.get(name, 1.0) <= LEVELS[-1]:
                self._unusual.append((self.messages, Unusual(name, kind, shared)))
        if worth >= 1.0 or self._is_due(kind, worth):
            self._hear(kind, channels)
        self._left -= 1
        if self._left:
            return False
        changed = self._settle() if self._heard else False
        self._left, self._heard = BLOCK, 0
        self._kinds.clear()
        for small in self._small.values():
            small.clear()
        return changed

    def unusual(self) -> Iterator[Unusual]:
        """Yield those of the last messages that were unusual, one for each channel."""
        since = self.messages - RECENT
        yield from (one for number, one in self._unusual if number > since)

    def _count(self, is_new: bool) -> None:  # noqa: FBT001 -- what is counted
        if len(self._new) == RECENT:
            self._news -= self._new[0]
        self._new.append(is_new)
        self._news += is_new

    def _is_due(self, kind: Kind, worth: float) -> bool:
        """Whether a kind has come often enough since it was heard last to be worth a reading."""
        credit = self._credit.pop(kind, 1.0) + worth
        due = credit >= 1.0
        self._credit[kind] = credit - 1.0 if due else credit
        if len(self._credit) > KINDS:
            self._credit.popitem(last=False)
        return due

    def _hear(self, kind: Kind, channels: Mapping[str, float]) -> None:
        self._heard += 1
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        for name, small in self._small.items():
            p = channels.get(name, 1.0)
            if p <= LEVELS[-1]:
                small.append((p, kind))

    def _settle(self) -> bool:
        """Pay out a block's bets; return whether what is suspected has changed."""
        limit, before = self.limit, len(self.suspected)
        for name, small in self._small.items():
            bets = self._bets[name]
            shares = self._shares(small) if small else _NOTHING
            if name in self.suspected:
                if bets.on_return(shares) >= limit:
                    self.suspected.discard(name)
                    bets.forget()
            elif bets.on_change(shares) >= limit:
                self.suspected.add(name)
                bets.forget()
        return len(self.suspected) != before

    def _shares(self, small: Sequence[tuple[float, Kind]]) -> list[float]:
        """Return the share of this block with a p-value of at most each level."""
        kinds = self._kinds
        found = []
        for level in LEVELS:
            at_most = [kinds[kind] for p, kind in small if p <= level]
            of_kinds = sum(1 / count for count in at_most) / len(kinds)
            found.append(min(len(at_most) / self._heard, of_kinds))
        return found
