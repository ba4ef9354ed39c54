"""What is told to people: one event for all alarms that are alike, and each new template once.

An alarm stays what it is, a result. A notice is an event on `events`, of which there is one where
there may be thousands of results: by template, and where numbers are the cause, by source, since
all machines of a kind say the same words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edgeslm.contract.settings import Share
from edgeslm.core.template import canonical, split
from edgeslm.ports import Answer, Request

KEPT: Final = 4096
"""Kinds of alarms, and templates of each model, that are known to have been told."""
QUOTED: Final = 300
"""Characters of a text that a notice quotes at most, where its route shares texts."""
SAVE_S: Final = 5.0
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
    """

    model: str
    id: str
    at: float
    alarm: bool
    share: Share
    review: bool
    again_s: float


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

    def take(self, seen: Seen, answer: Answer, request: Request) -> None:
        """Tell of a result what is to be told of it."""
        if not (seen.alarm or (seen.review and answer.new)):
            return
        model, template = seen.model, canonical(split(request.text).template)
        is_new = seen.review and answer.new and self._is_shown_now(model, template)
        detail: dict[str, str | float] = {"result": seen.id, "source": request.source}
        if answer.p_value is not None:
            detail["p_value"] = answer.p_value
        if seen.share in _SHARED and answer.explanation:
            cause = answer.explanation[0]
            detail |= {key: value for key, value in cause.items() if isinstance(value, str | int)}
        if seen.share == "text":
            detail["text"] = request.text[:QUOTED]
        if seen.alarm:
            cause = answer.explanation[0] if answer.explanation else {"channel": "text"}
            by_words = cause["channel"] in _WORDS
            digest = _digest(model, template, "" if by_words else request.source)
            count = self._count(digest, seen.at, seen.again_s)
            if count is None:
                return
            detail |= {"notice": digest, "count": count}
            if is_new:
                detail["review"] = True
            self._tell("alarm_raised" if count == 1 else "alarm_repeated", model, detail)
        elif is_new:
            detail["notice"] = _digest(model, template, "")
            self._tell("template_shown", model, detail)

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

    def _count(self, digest: str, now: float, again_s: float) -> int | None:
        """Count an alarm; return how many there were, if that is to be told."""
        alike = self._alike.pop(digest, None)
        if alike is None or now >= alike.at + again_s:
            alike = _Alike(now)
        self._alike[digest] = alike
        while len(self._alike) > KEPT:
            del self._alike[next(iter(self._alike))]
        alike.at = now
        alike.count += 1
        # The first, the tenth, the hundredth.
        if alike.count < 10 * alike.told:
            return None
        alike.told = alike.count
        return alike.count

    def _is_shown_now(self, model: str, template: str) -> bool:
        """Whether a template was not shown before; it has been then."""
        shown = self._shown.get(model)
        if shown is None:
            shown = self._shown[model] = dict.fromkeys(self._shown_before(model))
        digest = _digest(model, template, "")
        if digest in shown:
            return False
        shown[digest] = None
        while len(shown) > KEPT:
            del shown[next(iter(shown))]
        self._unsaved.setdefault(model, []).append(digest)
        return True


def _digest(*parts: str) -> str:
    """Return what tells alarms that are alike, and says nothing of their words."""
    whole = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=8).hexdigest()
