"""Messages on `feedback`: read, held against who may say so, and made lessons of.

Whatever comes is answered on `feedback/reply`, or counted where too much comes. An alarm is
silenced by nobody but an operator with a token. What comes without one, or with a forged one, takes
nothing from who has one.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import ValidationError

from edgeslm.adapters.lesson_file import LessonsUnavailableError
from edgeslm.adapters.lessons import TOKENS, LessonLog, Taught
from edgeslm.agent.recent import Recent, Said
from edgeslm.contract.base import UNKNOWN_KEY, problems_of
from edgeslm.contract.feedback import (
    MAX_FEEDBACK_BYTES,
    MAX_FEEDBACK_CHARS,
    MAX_TOKEN_CHARS,
    TOKEN,
    Claims,
    Feedback,
    FeedbackReply,
    Flag,
    Sender,
)
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.messages import SCHEMA_VERSION
from edgeslm.core.allowance import Allowance
from edgeslm.core.operators import TokenError, Where, admit, unsealed
from edgeslm.core.overlay import Kind, Lesson
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError
from edgeslm.ports import Memory

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0
_A_TOKEN: Final = re.compile(rb"%s\.[\w.-]{1,%d}" % (TOKEN.encode(), MAX_TOKEN_CHARS))
_STRANGE: Final = "?"  # stands for all tokens that were not right before
_SHOWN: Final = 5  # faults of one message that are told
_QUOTED: Final = 40  # characters of a field that there is not


class FeedbackInvalidError(RejectedError):
    """A message on `feedback` is none; names each field."""

    code = "feedback.invalid"


class FeedbackUnknownError(RejectedError):
    """It names a result, a lesson or a model that this device does not know, or no more."""

    code = "feedback.unknown"


class FeedbackUnfitError(RejectedError):
    """What it says cannot be said of this model, or of this text."""

    code = "feedback.unfit"


class FeedbackFloodError(UnavailableError):
    """More came within a minute than is heeded; it is counted in `drops` as well."""

    code = "feedback.flood"


class FeedbackReplayedError(RejectedError):
    """A signed message that was heeded before, that the broker had retained, or that is old."""

    code = "feedback.replayed"


class ModelAwayError(UnavailableError):
    """The model that it is for does not serve now."""

    code = "feedback.model_away"


class Pupil(Protocol):
    """A model of this device, as feedback sees it."""

    @property
    def memory(self) -> Memory | None:
        """Of the one that serves; None: none does, or it cannot be taught."""

    @property
    def serves(self) -> bool:
        """Whether one does."""

    @property
    def alerts(self) -> bool:
        """Whether all its results are alerts, by a route."""

    @property
    def silences(self) -> Callable[[Lesson], bool]:
        """Tells whether what its bundle knows as a fault would be none any more by a lesson."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a message.

    Args:
        reply: what is answered; None: too much comes, and it is counted.
        changed: lessons count that did not, or the other way round.
    """

    reply: FeedbackReply | None
    changed: bool = False


class Teacher:
    """Owned by the agent's main thread.

    Args:
        where: this device, and whose tokens count.
        settings: of feedback.
        log: opens what was taught.
        recent: results that may be named.
        pupils: the models, by name.
        drops: counts what is not answered.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        where: Where,
        settings: FeedbackSettings,
        *,
        log: Callable[[], LessonLog],
        recent: Recent,
        pupils: Callable[[], Mapping[str, Pupil]],
        drops: Counter[str],
    ) -> None:
        self._log = log
        self._recent = recent
        self._pupils = pupils
        self._drops = drops
        self._verified: dict[str, Claims] = {}  # whose signature need not be reckoned again
        self._tokens: set[str] | None = None  # see `_right`; None: not read yet
        self._allowances: dict[str, tuple[Allowance, Allowance]] = {}  # to be heeded, and refused
        self.live_by(where, settings)

    def live_by(self, where: Where, settings: FeedbackSettings) -> None:
        """Live by these from now on."""
        self._where = where
        self._settings = settings
        self._allowances.clear()
        self._verified.clear()

    def hear(
        self,
        payload: bytes,
        *,
        now: float,
        wall: float,
        retained: bool = False,
        trusted: bool = False,
    ) -> Heard:
        """Return what comes of a message; raises nothing.

        Args:
            payload: all of it.
            now: monotonic seconds.
            wall: seconds since 1970.
            retained: the broker had kept it, and says it to whoever comes.
            trusted: the clock that `wall` is of is synchronised.
        """
        said: Feedback | None = None
        try:
            heeded, refused = self._allowance(payload)
            if not heeded.take(now):
                self._drops["feedback_flood"] += 1
                if not refused.take(now):
                    return Heard(None)
                msg = f"more than {self._settings.per_minute} in a minute; send it again later"
                raise FeedbackFloodError(msg)
            said = parse(payload)
            if retained:
                msg = "the broker had retained it: take it away there, and publish without `retain`"
                raise FeedbackReplayedError(msg)
            if trusted:
                self._expect_fresh(said, wall)
            digest = "" if said.token is None else hashlib.sha256(payload).hexdigest()
            return self._heed(said, wall, digest)
        except EdgeSLMError as err:
            reply = self._reply("refused", wall, said or _sender(payload))
            reply["error"] = {"code": err.code, "message": str(err)}
            return Heard(reply)

    def _allowance(self, payload: bytes) -> tuple[Allowance, Allowance]:
        """Return what a message draws on, by its token, before it is read.

        A token that was right before has its own, all others have one, and what has none has one.
        """
        found = _A_TOKEN.search(payload, 0, MAX_FEEDBACK_BYTES)
        key = "" if found is None else _digest(found[0].decode())
        if key and key not in self._right():
            key = _STRANGE
        if key not in self._allowances:
            if len(self._allowances) > TOKENS:
                del self._allowances[next(iter(self._allowances))]
            each = (self._settings.per_minute, MINUTE_S)
            self._allowances[key] = Allowance(*each), Allowance(*each)
        return self._allowances[key]

    def _right(self) -> set[str]:
        """Return digests of tokens that were right once, before this agent began, too."""
        if self._tokens is None:
            try:
                self._tokens = set(self._log().tokens())
            except LessonsUnavailableError:
                return set()
        return self._tokens

    def _expect_fresh(self, said: Feedback, wall: float) -> None:
        """Hold when it was found against the clock.

        Raises:
            FeedbackReplayedError: it is signed, and of long ago.
        """
        hours = self._settings.max_age_hours
        if said.token and said.time is not None and wall - said.time > HOUR_S * hours:
            msg = f"it was found more than {hours:g} hours ago, by its `time`"
            raise FeedbackReplayedError(msg)

    def _heed(self, said: Feedback, wall: float, digest: str) -> Heard:
        """Teach or take back what a message says.

        Raises:
            EdgeSLMError: it is not heeded; says why.
        """
        if said.kind == "undo":
            return self._undo(said, wall)
        model, about = self._about(said)
        pupil, memory = self._taught(model)
        if why := memory.refuses(said.kind, said.label or ""):
            msg = f"{model}: {why}"
            raise FeedbackUnfitError(msg)
        if about is not None and about.cut and not memory.ordered:
            msg = (
                f"{model}: a text of more than {MAX_FEEDBACK_CHARS:,} characters is no intent that "
                "could be taught; publish what matters of it, by a route's `text`"
            )
            raise FeedbackUnfitError(msg)
        silences = memory.may_silence(said.kind) and _is_alarm(said, about, pupil)
        claims = self._admitted(said, model, wall, silences=silences)
        lesson = memory.understood(self._lesson(said, said.kind, about, wall))
        overlay = memory.overlay
        log = self._log()
        over, same = overlay.overrules(lesson), overlay.same(lesson)
        before = log.heeded(digest) if digest else None
        if same is not None:
            if digest and before is None:
                log.heed(digest, same.id)
            reply = self._reply("known", wall, said) | {"model": model, "lesson": same.id}
            _tell_covered(reply, memory, same)
            return Heard(_flagged(reply, _flags(None, over), over))
        if before is not None:
            msg = (
                f"it was heeded before, as lesson {before}, which counts no more, or is of another "
                "text: give each message an `id` of its own"
            )
            raise FeedbackReplayedError(msg)
        against = over or overlay.contradicted(lesson)
        flags = _flags(against, over)
        if (
            lesson.kind == "normal"
            and over is None
            and (against is not None or pupil.silences(lesson))
        ):
            flags.append("known_fault")
        taught, gone = log.add(
            Taught(
                model,
                lesson,
                operator=claims.operator if claims is not None else "",
                token=claims.id if claims is not None else "",
                arrived=max(wall, lesson.time),
                result=said.result or "",
                flags=tuple(flags),
            ),
            digest,
        )
        overlay.learn(taught.lesson)
        self._unlearn(gone)
        reply = self._reply("learnt", wall, said) | {"model": model, "lesson": taught.lesson.id}
        _tell_covered(reply, memory, lesson)
        return Heard(_flagged(reply, flags, against), changed=True)

    def _taught(self, model: str) -> tuple[Pupil, Memory]:
        """Return a model, and what it remembers.

        Raises:
            FeedbackUnknownError: there is none of this name.
            FeedbackUnfitError: it cannot be taught.
            ModelAwayError: not now.
        """
        pupil = self._pupils().get(model)
        if pupil is None:
            msg = f"no model {model!r} on this device"
            raise FeedbackUnknownError(msg)
        if pupil.memory is not None:
            return pupil, pupil.memory
        if pupil.serves:
            msg = f"{model}: a model of this task cannot be taught"
            raise FeedbackUnfitError(msg)
        msg = (
            f"{model} does not serve now, and cannot be taught; the device's state says why. "
            "Nothing was kept: send this again once it serves"
        )
        raise ModelAwayError(msg)

    def _unlearn(self, gone: list[Taught]) -> None:
        pupils = self._pupils()
        for each in gone:
            pupil = pupils.get(each.model)
            if pupil is not None and pupil.memory is not None:
                pupil.memory.overlay.unlearn(each.lesson.id)

    def _undo(self, said: Feedback, wall: float) -> Heard:
        assert said.lesson is not None  # noqa: S101 -- `Feedback` has looked
        log = self._log()
        found = log.find(said.lesson)
        if found is None or found.undone is not None:
            msg = f"no lesson {said.lesson} counts; `edgeslm feedback list` has them"
            raise FeedbackUnknownError(msg)
        claims = self._admitted(said, found.model, wall, silences=True)
        by, token = (claims.operator, claims.id) if claims is not None else ("", "")
        self._unlearn(log.undo([said.lesson], at=wall, by=by, token=token))
        reply = self._reply("undone", wall, said) | {"model": found.model, "lesson": said.lesson}
        return Heard(reply, changed=True)

    def _about(self, said: Feedback) -> tuple[str, Said | None]:
        """Return which model it is for, and which result; None: it names a text.

        Raises:
            FeedbackUnknownError: no such result, or more than one.
        """
        if said.result is None:
            assert said.model is not None  # noqa: S101 -- `Feedback` has looked
            return said.model, None
        found = self._recent.find(said.result, said.model)
        if not found:
            msg = "no result of this id is remembered; name its text or template"
            raise FeedbackUnknownError(msg)
        if len(found) > 1:
            names = sorted({name for name, _ in found})
            msg = f"{', '.join(names)} have a result of this id; name the model, too"
            if len(names) == 1:  # its publisher gave it twice, or the same text was judged anew
                msg = f"{names[0]} has several results of this id; name its text or template"
            raise FeedbackUnknownError(msg)
        return found[0]

    def _admitted(
        self, said: Feedback, model: str, wall: float, *, silences: bool
    ) -> Claims | None:
        """Return what its token says; None: it has none, and needs none.

        Raises:
            TokenError: it has none and needs one, or one that does not count.
        """
        if said.token is None:
            if silences or self._settings.signed == "always":
                msg = "this silences an alarm, or may: it takes an operator's token"
                raise TokenError(msg)
            return None
        log = self._log()
        if (claims := self._verified.get(said.token)) is None:
            claims = unsealed(said.token, self._where.keys)
            if len(self._verified) >= TOKENS:
                del self._verified[next(iter(self._verified))]
            self._verified[said.token] = claims
            if (digest := _digest(said.token)) not in self._right():
                log.note_token(digest, wall)
                self._tokens = None
        floor = log.time_floor()
        admit(claims, self._where, model=model, now=max(wall, floor))
        if claims.issued > floor:  # it was so late already when it was signed
            log.raise_floor(claims.issued)
        return claims

    def _lesson(self, said: Feedback, kind: Kind, about: Said | None, wall: float) -> Lesson:
        """Return what a message teaches.

        Raises:
            FeedbackUnfitError: the text cannot be kept.
        """
        text = about.text if about is not None else said.text or said.template or ""
        if any("\ud800" <= c <= "\udfff" for c in text):
            msg = "the text holds half a character (a lone surrogate), which cannot be kept"
            raise FeedbackUnfitError(msg)
        # The clock may have been set back since: what comes later counts later.
        latest = max(wall, self._log().newest())
        return Lesson(
            id=0,
            kind=kind,
            text=text,
            whole=said.template is None,
            source=about.source if about is not None else said.source,
            label=said.label or "",
            time=latest if said.time is None else min(said.time, latest),
            channel=about.channel if about is not None else "",
            signed=said.token is not None,
        )

    def _reply(self, status: str, wall: float, said: Feedback | Sender) -> FeedbackReply:
        reply: FeedbackReply = {
            "schema": SCHEMA_VERSION,
            "device": self._where.device,
            "time": wall,
            "status": status,  # type: ignore[typeddict-item] # one of them
        }
        if said.id is not None:
            reply["id"] = said.id
        return reply


def parse(payload: bytes) -> Feedback:
    """Return a message; total for any bytes.

    Raises:
        FeedbackInvalidError: it is none, or has a field that there is not; names each field, and
            quotes none.
    """
    if len(payload) > MAX_FEEDBACK_BYTES:
        msg = f"longer than {MAX_FEEDBACK_BYTES} bytes"
        raise FeedbackInvalidError(msg)
    try:
        return Feedback.model_validate_json(payload)
    except ValidationError as err:
        problems = problems_of(err)[:_SHOWN]
        msg = "; ".join(f"{field[:_QUOTED]}: {what}" if field else what for field, what in problems)
        if any(what == UNKNOWN_KEY for _, what in problems):
            known = sorted(field.alias or name for name, field in Feedback.model_fields.items())
            msg += f"; there are {', '.join(known)}"
        raise FeedbackInvalidError(msg) from None


def _sender(payload: bytes) -> Sender:
    """Return whom to answer, though the message is none, or was not read; total for any bytes."""
    if len(payload) <= MAX_FEEDBACK_BYTES:
        with suppress(ValidationError):
            return Sender.model_validate_json(payload)
    return Sender()


def _is_alarm(said: Feedback, about: Said | None, pupil: Pupil) -> bool:
    """Whether what is judged may be an alarm: of a line each may, of an intent by its routes."""
    return said.kind == "normal" or pupil.alerts or (about is not None and about.alert)


def _tell_covered(reply: FeedbackReply, memory: Memory, lesson: Lesson) -> None:
    """Say which lines are anomalies by a lesson; of texts that are no lines there is nothing."""
    if memory.ordered and lesson.covers is not None:
        reply["covers"] = lesson.covers


def _flags(against: Lesson | None, over: Lesson | None) -> list[Flag]:
    if over is not None:
        return ["overruled"]
    return [] if against is None else ["contradicts"]


def _flagged(reply: FeedbackReply, flags: list[Flag], against: Lesson | None) -> FeedbackReply:
    if flags:
        reply["flags"] = flags
    if against is not None:
        reply["contradicts"] = against.id
    return reply


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
