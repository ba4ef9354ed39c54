"""What people send, and tokens that nobody signed: refused by a code, or heeded; never a fault."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from edgeslm.adapters.lessons import LessonLog
from edgeslm.agent.feedback import FeedbackInvalidError, Teacher, parse
from edgeslm.agent.recent import Recent, Said
from edgeslm.contract.feedback import FEEDBACK_REPLY
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.core.memory import LineMemory
from edgeslm.core.operators import TokenError, Where, unsealed
from tests.agent.lines import Signer
from tests.agent.test_teacher import Pupil
from tests.fuzz.harness import fuzz

SIGNER = Signer()
TOKEN = SIGNER.token()
MESSAGES: tuple[dict[str, Any], ...] = (
    {"kind": "normal", "result": "r1", "id": "1", "token": TOKEN},
    {"kind": "anomaly", "text": "motor temp=¤ C 1.5 nan", "model": "m", "source": "a", "time": 5},
    {"kind": "normal", "template": "motor temp=¤ C", "model": "m", "token": TOKEN},
    {"kind": "intent", "label": "on", "result": "r1"},
    {"kind": "undo", "lesson": 1, "token": TOKEN},
)
SEEDS = [json.dumps(message).encode() for message in MESSAGES]


def test_messages(targets: int) -> None:
    fuzz(parse, SEEDS, allowed=(FeedbackInvalidError,), targets=targets)


def test_tokens(targets: int) -> None:
    """A mutant is refused, or says what the token says: base64 and JSON have one form here."""

    def check(raw: bytes) -> None:
        claims = unsealed(raw.decode("utf-8", "replace"), (SIGNER.public,))
        assert raw == TOKEN.encode(), claims

    fuzz(check, [TOKEN.encode()], allowed=(TokenError,), targets=targets)


def test_what_is_heard_is_answered(targets: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    log = LessonLog(folder / "log", max_lessons=20, max_bytes=2**18)
    memory: LineMemory[Any] = LineMemory()
    recent = Recent(16)
    recent.add("m", Said("r1", "motor temp=99 C", "a", "anomaly", alert=True, channel="number"))
    teacher = Teacher(
        Where("dev1", {}, (SIGNER.public,), frozenset()),
        FeedbackSettings(per_minute=6000),
        log=lambda: log,
        recent=recent,
        pupils=lambda: {"m": Pupil(memory)},
        drops=Counter(),
    )
    minutes = iter(range(10**9))

    def hear(raw: bytes) -> None:
        heard = teacher.hear(raw, now=60.0 * next(minutes), wall=1e9)
        FEEDBACK_REPLY.validate_python(heard.reply)
        for text in ("motor temp=99 C", "motor temp=x C"):
            memory.overlay.at(text)

    fuzz(hear, SEEDS, targets=targets)
