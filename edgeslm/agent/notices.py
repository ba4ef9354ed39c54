"""What is told to people: one event for all alarms that are alike, and each new template once.

An alarm stays what it is, a result. A notice is an event on `events`, of which there is one where
there may be thousands of results: by template, and where numbers are the cause, by source, since
all machines of a kind say the same words. A source that says ever new words is told of so often in
a minute, and of the rest how many there were.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edgeslm.contract.routes import Share
from edgeslm.core.allowance import Allowance
from edgeslm.core.template import WILD, canonical, split
from edgeslm.ports import Answer, Request

KEPT: Final = 4096
"""Kinds of alarms, and templates of each model, that are known to have been told."""
QUOTED: Final = 300
"""Characters of a text that a notice quotes at most, where its route shares texts."""
SAVE_S: Final = 5.0
MINUTE_S: Final = 60.0
SOURCES: Final = 256
"""Whose notices are bounded apart."""
TOGETHER: Final = 5
"""All sources together may be told of so many times as often as one of them."""
_WORDS: Final = frozenset({"text", "feedback"})
_SHARED: Final = frozenset({"explanation", "text"})

Detail = Mapping[str, str | float]
Tell = Callable[[str, str, Detail], None]
"""Tells an event: event, model, detail."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A result, beside what it says.

    Args:
        model: whose.
        id: its own.
        at: when, monotonic seconds.
        alarm: it is one.
        share: what its route shares of texts.
        review: new templates of this model are shown.
        again_s: an alarm that was quiet for so long is told as a new one.
        per_minute: notices of one source, at most.
    """

    model: str
    id: str
    at: float
    alarm: bool
    share: Share
    review: bool
    again_s: float
    per_minute: int


class _Alike:
    """Alarms that are alike."""

    __slots__ = ("at", "count", "told")

    def __init__(self, now: float) -> None:
        self.at = now
        self.count = 0
        self.told = 0


class Notices:
    """Owned by the agent's main thread.

    Args:
        tell: see `Tell`.
        shown: returns which templates of a model were shown before, by digest.
    """

    def __init__(self, tell: Tell, shown: Callable[[str], Iterable[str]]) -> None:
        self._tell = tell
        self._shown_before = shown
        self._alike: dict[str, _Alike] = {}  # the one that was longest quiet first
        self._shown: dict[str, dict[str, None]] = {}
        self._unsaved: dict[str, list[str]] = {}
        self._save_at = 0.0
        self._allowed: dict[tuple[str, str], Allowance] = {}  # by model and source
        self._per_minute = 1
        self._in_all = Allowance(TOGETHER, MINUTE_S)
        self._more: Counter[str] = Counter()  # by model: what was to be told, and too much
        self._more_at = 0.0

    def take(self, seen: Seen, answer: Answer, request: Request) -> None:
        """Tell of a result what is to be told of it."""
        if not (seen.alarm or (seen.review and answer.new)):
            return
        model, template = seen.model, _template(answer, request)
        by_template = _digest(model, template, "")
        is_new = seen.review and answer.new and by_template not in self._shown_of(model)
        found: dict[str, str | float]
        if seen.alarm:
            cause = answer.explanation[0] if answer.explanation else {"channel": "text"}
            by_words = cause["channel"] in _WORDS
            digest = by_template if by_words else _digest(model, template, request.source)
            alike = self._counted(digest, seen.at, seen.again_s)
            # The first, the tenth, the hundredth.
            if alike.count < 10 * alike.told or not self._may_tell(seen, request.source):
                return
            event = "alarm_repeated" if alike.told else "alarm_raised"
            alike.told = alike.count
            found = {"notice": digest, "count": alike.count}
            if is_new:
                found["review"] = True
        elif is_new and self._may_tell(seen, request.source):
            event = "template_shown"
            found = {"notice": by_template}
        else:
            return
        if is_new:
            self._show(model, by_template)
        if more := self._more.pop(model, 0):
            found["more"] = more
        self._tell(event, model, _detail(seen, answer, request) | found)

    def tend(self, now: float) -> None:
        """Tell how many were too much to be told, where nothing else is told."""
        if now < self._more_at:
            return
        self._more_at = now + MINUTE_S
        more, self._more = self._more, Counter()
        for model, count in more.items():
            self._tell("notices_withheld", model, {"more": count})

    def judged(self, model: str, text: str, source: str | None) -> None:
        """Somebody has called an alarm normal: one that is like it, and still comes, is told."""
        template = canonical(split(text).template)
        for about in ("", source or ""):
            self._alike.pop(_digest(model, template, about), None)

    def unsaved(self, now: float) -> dict[str, list[str]]:
        """Return which templates were shown and are not known to the disk, if it is time."""
        if not self._unsaved or now < self._save_at:
            return {}
        self._save_at = now + SAVE_S
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def _counted(self, digest: str, now: float, again_s: float) -> _Alike:
        """Count an alarm; return those that are like it."""
        alike = self._alike.pop(digest, None)
        if alike is None or now >= alike.at + again_s:
            alike = _Alike(now)
        self._alike[digest] = alike
        while len(self._alike) > KEPT:
            del self._alike[next(iter(self._alike))]
        alike.at = now
        alike.count += 1
        return alike

    def _may_tell(self, seen: Seen, source: str) -> bool:
        """Whether there may be a notice now; it is counted if not, and told the next time."""
        if seen.per_minute != self._per_minute:
            self._per_minute = seen.per_minute
            self._allowed.clear()
            self._in_all = Allowance(TOGETHER * seen.per_minute, MINUTE_S)
        key = seen.model, source
        allowed = self._allowed.pop(key, None) or Allowance(seen.per_minute, MINUTE_S)
        self._allowed[key] = allowed
        while len(self._allowed) > SOURCES:
            del self._allowed[next(iter(self._allowed))]
        if seen.at >= self._in_all.due_at() and allowed.take(seen.at):
            return self._in_all.take(seen.at)
        self._more[seen.model] += 1
        return False

    def _shown_of(self, model: str) -> dict[str, None]:
        shown = self._shown.get(model)
        if shown is None:
            shown = self._shown[model] = dict.fromkeys(self._shown_before(model))
        return shown

    def _show(self, model: str, digest: str) -> None:
        shown = self._shown_of(model)
        shown[digest] = None
        while len(shown) > KEPT:
            del shown[next(iter(shown))]
        self._unsaved.setdefault(model, []).append(digest)


def _template(answer: Answer, request: Request) -> str:
    """Return what `judged` makes of the same text; by what the model has called it, if it can."""
    known = answer.template
    if known is None or WILD in known:  # of several that were merged
        known = split(request.text).template
    return canonical(known)


def _detail(seen: Seen, answer: Answer, request: Request) -> dict[str, str | float]:
    """Return what a notice says of a result, as far as its route shares that."""
    detail: dict[str, str | float] = {"result": seen.id, "source": request.source}
    if answer.p_value is not None:
        detail["p_value"] = answer.p_value
    if seen.share in _SHARED and answer.explanation:
        causes = answer.explanation
        odd = (cause for cause in causes if cause["channel"] == "number")
        detail |= _flat(next(odd, causes[0]))  # a number says more than a window's mean
    if seen.share == "text":
        detail["text"] = request.text[:QUOTED]
    return detail


def _flat(cause: Mapping[str, object]) -> dict[str, str | float]:
    """Return what was unusual as an event can say it."""
    found: dict[str, str | float] = {}
    for key, value in cause.items():
        if isinstance(value, str | int):
            found[key] = value
        elif isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
            found[key] = ", ".join(value)
    return found


def _digest(*parts: str) -> str:
    """Return what tells alarms that are alike, and says nothing of their words."""
    whole = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=8).hexdigest()
