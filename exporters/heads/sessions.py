"""Fit sessions: what came after what under one key, and how odd unseen sessions come out.

Sessions are dealt to ten folds in the order in which they began, a block each, and the lines of
each fold are scored by what the sessions of the others teach.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from edgeslm.core import calibration
from edgeslm.core.sessions import MAX_TRIPLES, NONE, Habits, Sessions

FOLDS: Final = 10
FEWEST: Final = 50
"""Sessions below which they say too little of the next one."""
FEWEST_LINES: Final = 2.0
"""Lines that a session has on average, below which keys name no sessions."""
PAUSE: Final = 5.0
"""Times the longest pause within a session of training, after which a key is another session."""


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

    A key with lines of many sources is one session. A line with the key, the time and the text of
    another is that line once more, as on a device, and left out.
    """
    lines: dict[str, list[int]] = defaultdict(list)
    seen: set[tuple[str, float, Hashable]] = set()
    for i, (key, time, text) in enumerate(zip(keys, times, texts, strict=True)):
        if key is None or (time is not None and (key, time, text) in seen):
            continue
        if time is not None:
            seen.add((key, time, text))
        lines[key].append(i)
    sessions = list(lines.values())
    if len(sessions) < FEWEST or sum(map(len, sessions)) < FEWEST_LINES * len(sessions):
        return None
    pauses = [_pause(session, times) for session in sessions]
    pause_s = PAUSE * max(pauses) if pauses and max(pauses) > 0 else None
    scores: list[float | None] = [None] * len(keys)
    ends = []
    for fold in range(FOLDS):
        start, stop = (len(sessions) * k // FOLDS for k in (fold, fold + 1))
        habits, _ = _habits([*sessions[:start], *sessions[stop:]], templates, pause_s)
        for session in sessions[start:stop]:
            past = Sessions(habits)
            odd = [past.score("", templates[i], times[i]) for i in session]
            for i, one in zip(session, odd, strict=True):
                scores[i] = one.line
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


def _habits(
    sessions: Sequence[Sequence[int]], templates: Sequence[int], pause_s: float | None
) -> tuple[Habits, int]:
    """Return what these sessions teach, and how much of it was dropped."""
    triples: Counter[tuple[int, int, int]] = Counter()
    ends: Counter[tuple[int, int]] = Counter()
    most: Counter[int] = Counter()
    for session in sessions:
        said = [NONE, NONE, *(templates[i] for i in session)]
        triples.update(zip(said, said[1:], said[2:], strict=False))
        ends[said[-2], said[-1]] += 1
        for template, count in Counter(said[2:]).items():
            most[template] = max(most[template], count)
    kept = triples.most_common(MAX_TRIPLES)
    habits = Habits(
        frozenset(triple for triple, _ in kept),
        frozenset(end for end, _ in ends.most_common(MAX_TRIPLES)),
        most,
        pause_s,
    )
    return habits, len(triples) - len(kept)


def _pause(session: Sequence[int], times: Sequence[float | None]) -> float:
    """Return the longest time between two lines of a session, seconds; 0 where it is not known."""
    known = [time for i in session if (time := times[i]) is not None]
    return max((b - a for a, b in pairwise(known)), default=0.0)
