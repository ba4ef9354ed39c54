"""Results as they are published: the same payload from `edgeslm infer` and over MQTT."""

from __future__ import annotations

from typing import Final

from edgeslm.contract.messages import SCHEMA_VERSION, ModelRef, Result
from edgeslm.ports import Answer, Request

_EXPLAINED: Final = frozenset({"explanation", "text"})


def answered(  # noqa: PLR0913 -- the fields of one message
    answer: Answer,
    *,
    ref: ModelRef,
    task: str,
    device: str,
    topic: str | None,
    id: str,  # noqa: A002 -- the field's name
    time_in: float,
    time_out: float,
    latency_ms: float,
    request: Request,
    share: str = "none",
    redelivered: bool = False,
    retained: bool = False,
) -> Result:
    """Return the result that carries `answer`; fields that do not apply are left out.

    Args:
        answer: what the model said of `request`.
        ref: the model that answered.
        task: its task.
        device: this device's id.
        topic: where the input came from; None from files.
        id: the same again when the same input is redelivered.
        time_in: when the input came, seconds since 1970.
        time_out: now, seconds since 1970.
        latency_ms: from received to answered, by the monotonic clock.
        request: the input, as read.
        share: "none", "explanation", or "text" (which includes the explanation).
        redelivered: the broker sent it before.
        retained: it was a retained message.
    """
    result = _envelope(ref, task, device, topic, id, time_in, time_out, latency_ms, request, share)
    result["label"] = answer.label
    if answer.accepted is not None:
        result["accepted"] = answer.accepted
    result["confidence"] = answer.confidence
    result["score"] = answer.score
    if answer.p_value is not None:
        result["p_value"] = answer.p_value
    if answer.channels:
        result["channels"] = dict(answer.channels)
    if answer.stage is not None:
        result["stage"] = answer.stage
    if answer.source_known is not None:
        result["source_known"] = answer.source_known
    if answer.learning is not None:
        lines, of, heard = answer.learning
        result["learning"] = {"lines": lines, "of": of, "heard": heard}
    if answer.lesson is not None:
        result["lesson"] = answer.lesson
    result["truncated"] = answer.truncated
    if answer.explanation and share in _EXPLAINED:
        result["explanation"] = list(answer.explanation)
    _mark(result, redelivered=redelivered, retained=retained)
    return result


def refused(  # noqa: PLR0913 -- the fields of one message
    error_code: str,
    message: str,
    *,
    ref: ModelRef,
    task: str,
    device: str,
    topic: str | None,
    id: str,  # noqa: A002 -- the field's name
    time_in: float,
    time_out: float,
    latency_ms: float,
    request: Request | None,
    share: str = "none",
    redelivered: bool = False,
    retained: bool = False,
) -> Result:
    """Return the result of an input that could not be answered.

    Args are those of `answered`, but `error_code` (listed in docs/error-codes.md), `message` (for
    people; quotes no text) and `request`, which is None where the input could not even be read.
    """
    result = _envelope(ref, task, device, topic, id, time_in, time_out, latency_ms, request, share)
    result["error"] = {"code": error_code, "message": message}
    _mark(result, redelivered=redelivered, retained=retained)
    return result


def _mark(result: Result, *, redelivered: bool, retained: bool) -> None:
    if redelivered:
        result["redelivered"] = True
    if retained:
        result["retained"] = True


def _envelope(  # noqa: PLR0913, PLR0917 -- by position: this runs for every message
    ref: ModelRef,
    task: str,
    device: str,
    topic: str | None,
    id_: str,
    time_in: float,
    time_out: float,
    latency_ms: float,
    request: Request | None,
    share: str,
) -> Result:
    result: Result = {
        "schema": SCHEMA_VERSION,
        "id": id_,
        "device": device,
        "topic": topic,
        "source": (request.source or None) if request is not None else None,
        "time_in": time_in,
        "time_out": time_out,
        "latency_ms": round(latency_ms, 3),
        "task": task,
        "model": ref,
    }
    if request is not None:
        if request.time is not None:
            result["time"] = request.time
        if request.key is not None:
            result["key"] = request.key
        if share == "text":
            result["text"] = request.text
    return result
