"""Which series got windows, of which lengths, and why the others got none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_SHOWN: Final = 3  # series that are named, of each reason, and lengths
_TEMPLATE: Final = 60  # characters of it that are quoted


class Why(StrEnum):
    """Why a series has no windows, as it goes on after "with"."""

    FEW = "too few readings"
    UNTIMED = "no times, which lengths in seconds need"
    FIXED = "no number that varies"
    PAUSES = "pauses so often that no window fills"
    MANY = "fewer readings than the series that a bundle has room for"


@dataclass(frozen=True, slots=True)
class Without:
    """A series that got no windows.

    Args:
        why: it got none.
        source: whose it is.
        template: its index.
        readings: that it has.
        needed: that it would need; 0: more would not help.
    """

    why: Why
    source: str
    template: int
    readings: int
    needed: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of all series.

    Args:
        lengths: of the windows, in readings, of those that got some.
        without: the others, those with most readings first.
    """

    lengths: Counter[tuple[int, ...]] = field(default_factory=Counter)
    without: list[Without] = field(default_factory=list)

    def sentence(self, templates: Sequence[str]) -> str | None:
        """Return all of it in a sentence; None where there are no series.

        Args:
            templates: by index.
        """
        got, of = self.lengths.total(), self.lengths.total() + len(self.without)
        if not of:
            return None
        said = f"windows: {got or 'none'} of {of} series (what one source says in one template)"
        if got:
            most = self.lengths.most_common(_SHOWN)
            shown = [f"{' and '.join(map(str, lengths))} readings" for lengths, _ in most]
            if len(most) > 1:
                shown = [f"{one} ({n})" for one, (_, n) in zip(shown, most, strict=True)]
            said += f" have them, over {_listed(shown, len(self.lengths))}"
        else:
            said += " has them"
        for why, count in Counter(one.why for one in self.without).most_common():
            series = [one for one in self.without if one.why is why]
            shown = [_named(one, templates) for one in series[:_SHOWN]]
            said += f"; {count} with {why} ({_listed(shown, count)})"
        return said


def _listed(shown: Sequence[str], of: int) -> str:
    return ", ".join(shown) + (", ..." if of > len(shown) else "")


def _named(one: Without, templates: Sequence[str]) -> str:
    text = templates[one.template]
    if len(text) > _TEMPLATE:
        text = f"{text[: _TEMPLATE - 1]}\N{HORIZONTAL ELLIPSIS}"
    whose = f" of {one.source}" if one.source else ""
    of = f" of {one.needed}" if one.needed else ""
    return f"{text!r}{whose}: {one.readings}{of}"
