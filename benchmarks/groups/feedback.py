"""BGL in time order, whose normal lines change for good: what it is worth that people say so.

Somebody judges each notice truly, and some messages later; nothing else is ever taught. The same
classes do it as on a device: `edgeslm.agent.notices` decides what is told, `core.overlay` learns.
The lines are a sample of seven months, so their times say nothing of how often somebody is told
again: a message a second is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks import bundles, cases
from benchmarks.answering import request
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import once
from edgeslm.agent.notices import Notices, Seen
from edgeslm.contract.learning import NoticeSettings
from edgeslm.core.overlay import Kind, Lesson
from edgeslm.runtime.model import Model, load_model
from exporters.data import ANOMALY, NORMAL, Row

_BUDGET: Final = 0.05  # of the figures that name one; notices are counted at `bundles.BUDGET`
_SOON, _LATE = 1, 50
_THOUSAND: Final = 1000.0


def feedback(setup: Setup) -> dict[str, Measured]:
    """The five figures, from runs of two bundles, which differ by their alarm budget."""
    train, rows = (cases.rows(setup, "bgl-stream", part) for part in ("train", "eval"))
    bundle = bundles.anomaly(setup, "bgl-stream", train, rows, budget=_BUDGET)
    model = load_model(bundle)
    untaught = play(model, rows, late=None, review=True)
    soon = play(model, rows, late=_SOON, review=True)
    late = play(model, rows, late=_LATE, review=True)
    strict = bundles.anomaly(setup, "bgl-stream-strict", train, rows)
    alarms = play(load_model(strict), rows, late=_LATE, review=False)
    setup.tell(
        f"shown in review: {len(soon.notices)} of {len(rows)} when judged soon, "
        f"{len(late.notices)} when late"
    )
    return {
        "feedback-auroc-1": once(soon.auroc, untaught.auroc),
        "feedback-auroc-50": once(late.auroc, untaught.auroc),
        "feedback-recall": once(soon.recall, untaught.recall),
        "feedback-false-alarms": once(soon.false_alarms, untaught.false_alarms),
        "feedback-notices": replace(
            once(
                _THOUSAND * alarms.notices.count("alarm_raised") / len(rows),
                _THOUSAND * sum(alarms.alarms) / len(rows),
            ),
            note=f"and {alarms.notices.count('alarm_repeated')} events that count alarms on",
        ),
    }


@dataclass(slots=True)
class Played:
    """What came of one run.

    Attributes:
        bad: which lines are anomalies.
        scores: of each line.
        alarms: which lines were alarms.
        notices: what people were told.
    """

    bad: Sequence[bool]
    scores: list[float] = field(default_factory=list)
    alarms: list[bool] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def auroc(self) -> float:
        return float(roc_auc_score(self.bad, self.scores))

    @property
    def recall(self) -> float:
        return float(np.mean([a for a, b in zip(self.alarms, self.bad, strict=True) if b]))

    @property
    def false_alarms(self) -> float:
        """For each 1,000 messages."""
        false = sum(a and not b for a, b in zip(self.alarms, self.bad, strict=True))
        return _THOUSAND * false / len(self.bad)


def play(model: Model, rows: Sequence[Row], *, late: int | None, review: bool) -> Played:
    """Answer lines in order, and judge each notice `late` messages later; None: nobody does."""
    memory = model.memory()
    assert memory is not None  # noqa: S101 -- an anomaly bundle has one
    played = Played([row.label != NORMAL for row in rows])
    told: list[str] = []

    def tell(event: str, of: str, detail: Mapping[str, str | float]) -> None:
        del of, detail
        told.append(event)

    notices = Notices(tell, lambda _: ())
    waiting: deque[tuple[int, Row, str]] = deque()  # (when it is judged, what, what made the alarm)
    number = 0
    for i, row in enumerate(rows):
        while waiting and waiting[0][0] <= i:
            number += 1
            _, judged, channel = waiting.popleft()
            kind: Kind = "normal" if judged.label == NORMAL else "anomaly"
            lesson = Lesson(number, kind, judged.text, source=judged.source, channel=channel)
            memory.overlay.learn(memory.understood(lesson))
            if kind == "normal":
                notices.judged("m", judged.text, judged.source)
        answer = model.answer(request(row), memory)
        alarm = answer.label == ANOMALY
        played.scores.append(answer.score)
        played.alarms.append(alarm)
        told.clear()
        seen = Seen(
            "m",
            str(i),
            float(i),
            alarm,
            "none",
            review=review,
            again_s=NoticeSettings().again_s,
            per_minute=NoticeSettings().per_minute,
        )
        notices.take(seen, answer, request(row))
        played.notices += told
        if told and late is not None:
            cause = answer.explanation[0]["channel"] if answer.explanation else ""
            waiting.append((i + late, row, cause))
    return played
