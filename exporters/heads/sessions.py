"""Fit sessions: what came after what under one key, and how odd unseen sessions come out.

A key is parted into sessions by the pause after which a device begins another one. Sessions are
dealt to ten folds in the order in which they began, a block each, and the lines of each fold are
scored by what the sessions of the others teach.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from edgeslm.core import calibration
from edgeslm.core.sessions import MAX_TRIPLES, NONE, Habits, Sessions

FOLDS: Final = 10
FEWEST: Final = 50
"""Sessions below which they say too little of the next one."""
FEWEST_LINES: Final = 2.0
"""Lines that a session has on average, below which keys name no sessions."""
PAUSE: Final = 5.0
"""Times the longest pause within a session of training, after which a key is another session."""
USUAL: Final = 0.2
"""Share of the keys from which on sessions are known to begin, or to end, with a template."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What sessions have learnt.

    Args:
        parameters: `core.learnt.SessionsParameters`, but `channel`.
        scores: of each line by what the others teach; None where it has no key, or comes again.
        dropped: what was seen least often and would not fit.
    """

    parameters: dict[str, Any]
    scores: list[float | None]
    dropped: int


def fit(
    keys: Sequence[str | None],
    templates: Sequence[int],
    times: Sequence[float | None],
    texts: Sequence[Hashable],
) -> Fitted | None:
    """Fit sessions on lines in time order; None if there are none.

    A key with lines of many sources is one session, until it pauses for so long that a device takes
    it for another. A line with the key, the time and the text of another is that line once more, as
    on a device, and left out.
    """
    lines: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, float, Hashable]] = set()
    for i, (key, time, text) in enumerate(zip(keys, times, texts, strict=True)):
        if key is None or (time is not None and (key, time, text) in seen):
            continue
        if time is not None:
            seen.add((key, time, text))
        lines[key].append(i)
    pause_s = _pause_s(list(lines.values()), templates, times)
    parts = [part for session in lines.values() for part in _parted(session, times, pause_s)]
    parts.sort(key=lambda part: part[0])
    if len(parts) < FEWEST or sum(map(len, parts)) < FEWEST_LINES * len(parts):
        return None
    sessions = _told(parts, times)
    scores: list[float | None] = [None] * len(keys)
    ends = []
    for fold in range(FOLDS):
        start, stop = (len(sessions) * k // FOLDS for k in (fold, fold + 1))
        habits, _ = _habits([*sessions[:start], *sessions[stop:]], templates, pause_s)
        for session in sessions[start:stop]:
            past = Sessions(habits)
            odd = [past.score("", templates[i], times[i]) for i in session.lines]
            for i, one in zip(session.lines, odd, strict=True):
                scores[i] = one.line
            if session.is_over:
                ends.append(odd[-1].end)
    habits, dropped = _habits(sessions, templates, pause_s)
    parameters = {
        "triples": sorted(habits.triples),
        "ends": sorted(habits.ends),
        "most": dict(habits.most),
        "pause_s": habits.pause_s,
        "end": asdict(calibration.tail(ends)),
    }
    return Fitted(parameters, scores, dropped)


class _Session(NamedTuple):
    lines: list[int]
    is_over: bool
    """Whether its last line is where it ended, as far as that can be told."""


def _habits(
    sessions: Sequence[_Session], templates: Sequence[int], pause_s: float | None
) -> tuple[Habits, int]:
    """Return what these sessions teach, and how much of it was dropped."""
    triples: Counter[tuple[int, int, int]] = Counter()
    ends: Counter[tuple[int, int]] = Counter()
    most: Counter[int] = Counter()
    for session in sessions:
        said = [NONE, NONE, *(templates[i] for i in session.lines)]
        triples.update(zip(said, said[1:], said[2:], strict=False))
        ends[said[-2], said[-1]] += session.is_over
        for template, count in Counter(said[2:]).items():
            most[template] = max(most[template], count)
    kept = triples.most_common(MAX_TRIPLES)
    habits = Habits(
        frozenset(triple for triple, _ in kept),
        frozenset(end for end, count in ends.most_common(MAX_TRIPLES) if count),
        most,
        pause_s,
    )
    return habits, len(triples) - len(kept)


def _pause_s(
    keyed: Sequence[list[int]], templates: Sequence[int], times: Sequence[float | None]
) -> float | None:
    """Return after how long without a line a key is another session, seconds; None: never.

    Where most keys come again, the time until then tells nothing of how long a session may be
    silent. It is known by what is said before it and after it: what keys end and begin with.
    """
    begin = _usual(templates[lines[0]] for lines in keyed)
    end = _usual(templates[lines[-1]] for lines in keyed)
    within, between = 0.0, [0.0] * len(keyed)
    for key, lines in enumerate(keyed):
        for place, pause in _pauses(lines, times):
            if templates[lines[place - 1]] in end and templates[lines[place]] in begin:
                between[key] = max(between[key], pause)
            else:
                within = max(within, pause)
    again = sum(pause > PAUSE * within for pause in between)
    longest = within if within > 0 and 2 * again > len(keyed) else max([within, *between])
    return PAUSE * longest if longest > 0 else None


def _usual(templates: Iterable[int]) -> frozenset[int]:
    """Return the templates that are a fifth of these or more."""
    counts = Counter(templates)
    return frozenset(t for t, count in counts.items() if count >= USUAL * counts.total())


def _pauses(lines: Sequence[int], times: Sequence[float | None]) -> Iterator[tuple[int, float]]:
    """Yield for each of a session's lines, but the first, how long before it there was none.

    As on a device: a line without a time goes on, and so does one that comes late.
    """
    latest: float | None = None
    for place, i in enumerate(lines):
        time = times[i]
        if time is None:
            continue
        if latest is not None and time > latest:
            yield place, time - latest
        latest = time if latest is None else max(latest, time)


def _parted(
    lines: list[int], times: Sequence[float | None], pause_s: float | None
) -> list[list[int]]:
    """Return the lines of a key, parted where a device would begin another session."""
    if pause_s is None:
        return [lines]
    cuts = [place for place, pause in _pauses(lines, times) if pause > pause_s]
    return [lines[a:b] for a, b in zip([0, *cuts], [*cuts, len(lines)], strict=True)]


def _told(parts: Sequence[list[int]], times: Sequence[float | None]) -> list[_Session]:
    """Return sessions, of which those are over that were silent for longer than any goes on after.

    The others may be cut by the end of the data. Where they are most of them, as in a file of a
    short time, that cannot be told, and all count as over.
    """
    longest = max((pause for part in parts for _, pause in _pauses(part, times)), default=0.0)
    known = [time for time in times if time is not None]
    if not known or not longest:
        return [_Session(part, is_over=True) for part in parts]
    until = max(known) - longest
    lasts = [max((t for i in part if (t := times[i]) is not None), default=None) for part in parts]
    over = [last is None or last < until for last in lasts]
    tell = 2 * sum(over) > len(over)
    return [_Session(part, not tell or is_over) for part, is_over in zip(parts, over, strict=True)]
