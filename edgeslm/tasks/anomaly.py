"""Anomaly: a text's template and numbers -> normal or anomaly, with a p-value and its cause.

Two channels or more. `text`: 0 for a template that this source used in training, else how new its
words are, how far its embedding lies from the known ones (the graph's output `distance`), and how
rarely this source says anything new. `number`: how surprising a line's numbers are, given the
history of their slots in this source and template. Each becomes a p-value on lines that its
statistics had not seen; they are fused by weighted minimum and calibrated again, so
`p_value <= budget` means: among normal lines, at most that share. Where the bundle has them, there
are `window` (a source's last readings together; see `core.series`) and `session` (a line among
those with its key; see `core.sessions`), which need a memory of what was asked before.

The model reads every template once, the known ones too, although their scores do not depend on
it. That costs little (realistic traffic of 36,204 lines has 1,742 templates), and it lets the
golden file prove the model on a plant's ordinary lines. Statistics are frozen: an answer is a
pure function of the request and of those before it, of what its memory was taught, and of what a
source has learnt there that was not in training (`core.overlay`, `core.learning`).

`score` is the fused score, -ln of the weighted minimum, in nats: it ranks as the p-value does,
and goes on where that ends. `confidence` is how far a line is from the alarm line:
1 - min(p, budget) / max(p, budget), 0 on that line and 1 far from it, on either side.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from edgeslm.contract.base import parse_json
from edgeslm.contract.messages import Cause
from edgeslm.core.calibration import NUMBER, SESSION, TEXT, WINDOW, Fusion
from edgeslm.core.calibration import Scores as Said
from edgeslm.core.detector import Detector, Scores
from edgeslm.core.drift import Trained
from edgeslm.core.learnt import Parameters, TailParameters
from edgeslm.core.memory import LineMemory
from edgeslm.core.numbers import LIMIT
from edgeslm.core.overlay import Lesson
from edgeslm.core.series import Series
from edgeslm.core.sessions import NONE, PAIR, Oddness, Sessions
from edgeslm.core.template import WILD, Split, number, readable, split
from edgeslm.ports import Answer, Memory, Prepared, Request, Tensor

DISTANCE: Final = "distance"
"""Name of the graph's output, float32 [batch]: 1 - largest cosine to a reference, in [0, 2]."""

LONGEST_QUOTE: Final = 80
"""Characters of a token or a number that an explanation quotes at most."""
SESSION_END: Final = "session_end"
"""Not of the fused score: how odd the session is, if this line was its last. Where its publisher
says that it is, an alarm by itself."""


FEEDBACK: Final = "feedback"
"""Channel of what an operator has confirmed to be an anomaly: as sure as can be."""
CONFIRMED: Final = LIMIT
"""Its score, nats, at least."""
MAX_SAID: Final = 1024
"""Last answers that are kept for texts that come again: as many as brokers deliver unanswered."""


class Past(LineMemory[Any]):
    """What an anomaly bundle remembers: readings for windows, sessions, and what it was taught."""

    def __init__(
        self,
        series: Series | None,
        sessions: Sessions | None,
        name: Callable[[str], str],
        odd: Callable[[Lesson, Any], bool | None],
    ) -> None:
        super().__init__(name, odd)
        self.series = series
        self.sessions = sessions
        self.new_templates = 0
        self.repeated = 0
        self._said: OrderedDict[int, Answer] = OrderedDict()

    def said(self, request: Request) -> Answer | None:
        """Return what was answered to a text that has come before; None: it has not, or long ago.

        Its publisher's id tells, or the broker's word; one that has neither never came before.
        """
        if (mark := _mark(request)) is None or (answer := self._said.get(mark)) is None:
            return None
        self.repeated += 1
        return answer

    def say(self, request: Request, answer: Answer) -> Answer:
        """Keep an answer, in case its text comes again; return it."""
        if (mark := _mark(request)) is not None:
            self._said[mark] = answer
            if len(self._said) > MAX_SAID:
                self._said.popitem(last=False)
        return answer

    def counts(self) -> dict[str, int]:
        found = super().counts()
        found |= {"new_templates": self.new_templates, "texts_repeated": self.repeated}
        if self.series is not None:
            found |= {"series": len(self.series), **self.series.counts}
        if self.sessions is not None:
            found |= {"sessions": len(self.sessions), **self.sessions.counts}
        return found


class Anomaly:
    """The task of one bundle; immutable, so any thread may use it."""

    def __init__(self, parameters: Parameters) -> None:
        self._budget = parameters.alarm_budget
        self.trained = _trained(parameters)
        self._templates = parameters.templates
        self._detector = Detector(
            parameters.templates,
            parameters.everyone.repertoire(),
            {name: r.repertoire() for name, r in parameters.sources.items()},
        )
        channels = {TEXT: parameters.text.tail(), NUMBER: parameters.number.tail()}
        windows, sessions = parameters.windows, parameters.sessions
        if windows is not None:
            channels[WINDOW] = windows.channel.tail()
            self._gauges = windows.gauges()
            self._views = [view.tail() for view in windows.views]
        if sessions is not None:
            channels[SESSION] = sessions.channel.tail()
            self._habits = sessions.habits()
            end = sessions.end.tail()
            self._ends = {odd: end.p_value(odd) for odd in (0.0, PAIR)}
        self._has_merged = any(WILD in template for template in parameters.templates)
        self._has_windows = windows is not None
        self._has_sessions = sessions is not None
        self._fusion = Fusion(channels, parameters.fused.tail(), ranks=parameters.ranks)

    def memory(self) -> Past:
        """Return a memory of nothing yet; sources that were not in training are new to it."""
        return Past(
            Series(self._gauges, self._views) if self._has_windows else None,
            Sessions(self._habits) if self._has_sessions else None,
            self._detector.name,
            self._odd_numbers,
        )

    def prepare(self, request: Request) -> Prepared:
        """Split the text; what the model reads, and the cache's key, is its template."""
        parts = split(request.text)
        template = parts.template
        if self._has_merged and (index := self._detector.known(template)) is not None:
            template = self._templates[index]  # one reading for all that were merged
        return Prepared(request, readable(template), parts)

    def finish(
        self,
        prepared: Prepared,
        outputs: Mapping[str, Tensor] | None,
        *,
        truncated: bool,
        memory: Memory | None = None,
    ) -> Answer:
        """Score words, numbers, windows and session, fuse and judge.

        A text that comes again gets its answer again, and changes nothing.

        Raises:
            ValueError: the outputs lack `distance` (the graph is not of this task).
        """
        if outputs is None or DISTANCE not in outputs:
            msg = f"the graph gave no output {DISTANCE!r}"
            raise ValueError(msg)
        parts = cast("Split", prepared.context)
        request = prepared.request
        source = request.source
        # Rounding may leave the range by an ulp, and an accelerator may overflow to NaN.
        distance = min(2.0, max(0.0, float(outputs[DISTANCE])))
        past = self.memory() if memory is None else cast("Past", memory)
        if (said := past.said(request)) is not None:
            return said
        scores = self._detector.scores(parts, source, distance, memory=past, budget=self._budget)
        window, odd = None, self._in_session(request, scores, past)
        past.new_templates += scores.template is None
        if past.series is not None and scores.template is not None:
            window = past.series.score(source, scores.template, scores.values, request.time)
        session = None if odd is None else odd.line
        ends = request.last and odd is not None
        lesson, covered = scores.lesson, scores.covered
        if covered is not None and (silenced := covered.silenced):
            heard = {WINDOW: window is not None, SESSION: session is not None, SESSION_END: ends}
            lesson = lesson or next((by for ch, by in silenced.items() if heard[ch]), None)
            window = None if WINDOW in silenced else window
            session = None if SESSION in silenced else session
            ends = ends and SESSION_END not in silenced
        verdict = self._fusion.verdict(Said(scores.text, scores.number, window, session))
        channels = verdict.channels
        if odd is not None:
            channels[SESSION_END] = self._ends[odd.end]
        p, score, channel, budget = verdict.p_value, verdict.score, verdict.channel, self._budget
        if ends and channels[SESSION_END] < p:
            p, channel = channels[SESSION_END], SESSION_END
            score = -math.log(p)
        if covered is not None and covered.fault is not None:
            p, score, channel = min(p, math.exp(-CONFIRMED)), max(score, CONFIRMED), FEEDBACK
        anomalous = p <= budget
        if covered is not None and scores.template is None and not anomalous:
            past.gathering.take(source, self._name(parts, scores), scores.values)
        cause: tuple[Cause, ...] = ()
        if anomalous:
            cause = tuple(self._causes(request, parts, scores, channel, past, odd))
        answer = Answer(
            label="anomaly" if anomalous else "normal",
            confidence=1 - (p / budget if anomalous else budget / p),
            score=score,
            p_value=p,
            channels=channels,
            source_known=self._detector.knows(source),
            truncated=truncated,
            explanation=cause,
            lesson=None if lesson is None else lesson.id,
            new=covered is None and scores.template is None,
            template=self._name(parts, scores),
        )
        known = memory is None or answer.source_known
        return past.say(
            request, answer if known else self._of_newcomer(answer, parts, source, past)
        )

    @staticmethod
    def _in_session(request: Request, scores: Scores, past: Past) -> Oddness | None:
        """Return how odd a line is in its session; None: it is of none."""
        if past.sessions is None or request.key is None:
            return None
        # Where its publisher names each text, none is taken for another one.
        text = hash(request.text) if request.id is None else None
        return past.sessions.score(
            request.key, scores.template, request.time, text, last=request.last
        )

    def silences(
        self, lesson: Lesson, faults: Sequence[Request], memory: Memory | None = None
    ) -> bool:
        """Whether one of these lines, which are alarms, would be none any more by this lesson.

        The model is not asked. Where a lesson covers the template nothing depends on what it says;
        where it makes words of it known, beside those that lessons before made known, the least is
        taken: that the model finds it like others.
        """
        untaught, taught = (LineMemory[Any](self._detector.name) for _ in range(2))
        said_of: Callable[[str], object] = untaught.overlay.at
        if memory is not None:
            said_of = memory.overlay.at
            for each in (untaught, taught):
                each.overlay.familiar.join(memory.overlay.familiar)
        taught.overlay.learn(lesson)
        return any(self._is_silent(fault, untaught, taught, said_of) for fault in faults)

    def _is_silent(
        self,
        fault: Request,
        untaught: LineMemory[Any],
        taught: LineMemory[Any],
        said_of: Callable[[str], object],
    ) -> bool:
        parts = split(fault.text)
        scores = self._detector.scores(parts, fault.source, 0.0, memory=taught)
        if taught.overlay.at(parts.template) is None:
            if said_of(parts.template) is not None:  # by which it stays what it is
                return False
            before = self._detector.scores(parts, fault.source, 0.0, memory=untaught)
            return self._is_odd(before) and not self._is_odd(scores)
        covered = scores.covered
        if covered is None or covered.words is None or self._is_odd(scores):
            return False
        if scores.template is None:
            return True
        # What is no alarm by itself is one of a window or a session.
        alone = self._is_odd(self._detector.scores(parts, fault.source, 0.0))
        return alone or bool(covered.silenced)

    def _is_odd(self, scores: Scores) -> bool:
        """Whether a line is an alarm by its words and numbers."""
        return self._fusion.verdict(Said(scores.text, scores.number)).p_value <= self._budget

    def _odd_numbers(self, lesson: Lesson, speaker: Any) -> bool | None:
        """Whether the numbers of a lesson's line are unusual; None: nothing is known of them."""
        parts = split(lesson.text)
        line = self._detector.line(parts, lesson.source or "", speaker)
        if line is None:
            return None
        values = [number(slot) for slot in parts.slots]
        if self._fusion.verdict(Said(0.0, line.score(values))).p_value <= self._budget:
            return True
        seen = zip(values, line.seen, strict=True)
        return any(low <= high and not low <= value <= high for value, (low, high) in seen)

    def _of_newcomer(self, answer: Answer, parts: Split, source: str, past: Past) -> Answer:
        """Let a source that was not in training learn; return the answer with how far it is."""
        if past.school.learnt(source) is not None:
            past.school.hear(source)
            return answer._replace(source_known=True)
        template = self._detector.template_of(parts.template, past)
        alarm = answer.label == "anomaly"
        learning = past.school.take(source, template, parts.slots, alarm=alarm)
        return answer._replace(learning=learning)

    def _name(self, parts: Split, scores: Scores) -> str:
        """Return the known template that a line is of, or its own."""
        return parts.template if scores.template is None else self._templates[scores.template]

    def _causes(  # noqa: C901, PLR0913, PLR0917 -- a case for each channel; what `finish` knows
        self,
        request: Request,
        parts: Split,
        scores: Scores,
        channel: str,
        past: Past,
        odd: Oddness | None,
    ) -> Iterator[Cause]:
        """Yield what made `channel` the lowest, up to three words or numbers, the worst first.

        A window's mean says little of a reading beyond all of training: that is named behind it.
        """
        if channel == NUMBER and scores.line is not None:
            quiet = () if scores.covered is None else scores.covered.quiet
            for slot, expected in scores.line.worst(scores.values, quiet):
                value = parts.slots[slot][:LONGEST_QUOTE]
                yield {"channel": channel, "slot": slot, "value": value, "expected": expected}
        elif channel == TEXT:
            for place, token in enumerate(scores.unseen):
                cause: Cause = {"channel": channel, "token": token[:LONGEST_QUOTE]}
                if not place and scores.template is None:
                    near = self._detector.near(parts.template)
                    cause["near"] = [template[:LONGEST_QUOTE] for template in near]
                yield cause
        elif channel == WINDOW and past.series and scores.template is not None:
            worst = past.series.worst(request.source, scores.template)
            cause = {
                "channel": channel,
                "slot": worst.slot,
                "value": f"{worst.mean:g}",
                "expected": f"{worst.low:g} to {worst.high:g}",
                "readings": worst.readings,
            }
            if worst.steps:
                cause["steps"] = True
            yield cause
            if scores.line is not None and (beyond := scores.line.beyond(scores.values)):
                slot, expected = beyond
                value = parts.slots[slot][:LONGEST_QUOTE]
                yield {"channel": NUMBER, "slot": slot, "value": value, "expected": expected}
        else:
            cause = {"channel": channel}
            if channel in {SESSION, SESSION_END}:
                cause["token"] = parts.template[:LONGEST_QUOTE]
                if odd is not None and odd.after != NONE:
                    cause["after"] = self._templates[odd.after][:LONGEST_QUOTE]
            yield cause


def _mark(request: Request) -> int | None:
    """Return what a text that comes again has in common with its first coming; None: nothing."""
    if request.id is None:
        return request.delivery
    return hash((request.id, request.source, request.time, request.text))


def _trained(parameters: Parameters) -> Trained:
    """Return what training says of what is heard."""
    worth = {TEXT: 1.0}
    if parameters.everyone.histories:  # else no line has numbers
        # Bundles of before do not say how far readings depend on each other.
        worth[NUMBER] = 0.0 if parameters.drift is None else parameters.drift.number
    return Trained(worth, _above_nothing(parameters.text))


def _above_nothing(tail: TailParameters) -> float:
    """Return the share of lines with a score above 0."""
    return math.exp(tail.log_p_above[0]) if tail.scores[0] == 0 else 1.0


def load(parameters: bytes) -> Anomaly:
    """Return the task of a bundle from the bytes of its `parameters` artifact.

    Raises:
        InvalidFileError: the bytes are not parameters of this task; names each field.
    """
    return Anomaly(
        parse_json(
            Parameters,
            parameters,
            file="parameters.json",
            remedy="Export the bundle again with `edgeslm-export anomaly`.",
        )
    )
