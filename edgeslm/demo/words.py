"""What the demo says, as plain words: causes of alarms and the closing summary."""

from __future__ import annotations

import re
from itertools import chain
from typing import Final

from edgeslm.contract.messages import Cause, ModelState, Result
from edgeslm.core.template import MARK, split
from edgeslm.demo.faults import TITLES
from edgeslm.demo.tally import Outcome, Summary, Tally

_WORD: Final = re.compile(r"[^\W\d_]\w*")


def cause_of(result: Result, text: str) -> str:
    """What made the lowest channel of `text` low, as the agent explained it."""
    if "error" in result:
        return result["error"]["message"]
    if causes := result.get("explanation"):
        return say(causes[0], text)
    channels = result.get("channels", {})
    return f"{min(channels, key=lambda c: channels[c])} channel" if channels else "not explained"


def say(cause: Cause, text: str) -> str:
    """One cause in a few words; `text` is the line it is about."""
    if "token" in cause:
        return f'never seen: "{cause["token"]}"'
    if "value" in cause:
        name = name_of_slot(text, cause.get("slot", 0))
        seen = f", seen {cause['expected']}" if "expected" in cause else ""
        return f"{name} {cause['value']}{seen}"
    return f"unlike any {cause['channel']} seen"


def name_of_slot(text: str, slot: int) -> str:
    """The word before the number at index `slot` of `text`, which a result does not carry."""
    template, slots = split(text)
    parts = template.split(MARK)
    before = "".join(chain(*zip(parts, [*slots[:slot], ""], strict=False)))
    words = _WORD.findall(before) if slot < len(slots) else []
    return words[-1] if words else f"number {slot + 1}:"


def truth_of(outcome: Outcome) -> str:
    """What was wrong with a message, from its ground truth."""
    fault = outcome.message.fault
    return TITLES[fault.kind] if fault else ""


def cache_share(models: list[ModelState]) -> float | None:
    """Share of texts answered without running a model; None before the first."""
    hits = sum(m["cache_hits"] for m in models)
    asked = hits + sum(m["cache_misses"] for m in models)
    return hits / asked if asked else None


def share(part: int, whole: int, digits: int = 0) -> str:
    """`part` of `whole` in per cent."""
    return f"{part / whole:.{digits}%}" if whole else "-"


def progress_line(tally: Tally, elapsed_s: float) -> str:
    """The state of the play on one line, for a pipe."""
    faults = f"{tally.faults_caught} faults caught, {tally.faults_missed} missed, "
    found = f"{faults}{tally.false_alarms} false alarms" if tally.truth_known else ""
    return (
        f"{elapsed_s:5.0f} s  {tally.answered} of {tally.sent} answered, "
        f"{found or f'{tally.alarms} alarms'}"
    )


def closing(summary: Summary) -> list[tuple[str, str]]:
    """The summary as (what, how) rows."""
    s = summary
    rows = [
        (
            "messages",
            f"{s.sent} sent, {s.answered} answered, {s.lost} lost, {s.duplicates} duplicates",
        ),
        ("throughput", f"{s.messages_per_s:.0f} messages/s"),
        ("latency", f"p50 {_ms(s.p50_ms)}, p99 {_ms(s.p99_ms)}, publish to result"),
    ]
    if s.errors:
        rows.append(("errors", f"{s.errors} answered with an error"))
    if s.false_alarms is None:
        rows.append(("alarms", f"{s.alarms} ({share(s.alarms, s.answered, 2)} of what was played)"))
    else:
        rows.append(("faults", f"{s.faults_caught} of {s.faults_injected} caught"))
        missed = [
            f"{TITLES[kind]} {told - caught} of {told}"
            for kind, (caught, told) in s.caught_by_kind.items()
            if caught < told
        ]
        if missed:
            rows.append(("missed", ", ".join(missed)))
        false = share(s.false_alarms, s.normal_messages, 2)
        rows.append(("false alarms", f"{s.false_alarms} in {s.normal_messages} normal ({false})"))
        right = share(s.intents_right, s.intents)
        rows.append(("orders", f"{s.intents_right} of {s.intents} understood ({right})"))
    if s.pss_mb is not None:
        rows.append(("memory", f"{s.pss_mb:.0f} MB (PSS of the agent)"))
    return rows


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
