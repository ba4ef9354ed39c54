"""The form of a roll-out, as text fields; and the plan that it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from edgeslm.contract.base import problems_of
from edgeslm.contract.rollout import Plan
from edgeslm.errors import RejectedError

FIRST: Final[Mapping[str, str]] = {
    "model": "",
    "where": "",
    "targets": "frozen",
    "waves": "1%, 10%, 100%",
    "canaries": "1",
    "soak": "1h",
    "deadline": "1d",
    "hours": "",
    "failed": "5%",
    "silent": "20%",
    "error_share": "0.01",
    "latency_ratio": "2",
    "alarm_ratio": "1.5",
    "answers": "100",
    "on_breach": "abort",
    "late": "catch_up",
}
"""The fields, and what they hold at first: what `contract.rollout` has, too."""
MAX_CHARS: Final = 2000
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(s|min|m|h|d|)")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_WHOLE: Final = re.compile(r"[0-9]{1,15}")
# The fields whose name in a plan is another.
_NAMES: Final = {
    "version": "model",
    "canaries_per_type": "canaries",
    "soak_s": "soak",
    "deadline_s": "deadline",
}


class FormError(RejectedError):
    """What was typed is no plan.

    Args:
        faults: what is wrong, by field of the form.
    """

    code = "rollout.form"

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {what}" for field, what in faults.items()))
        self.faults = dict(faults)


def fields_of(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a form, bounded; what is not there is as it is at first."""
    return {
        name: str(given[name])[:MAX_CHARS].strip() if name in given else first
        for name, first in FIRST.items()
    }


def plan_of(form: Mapping[str, str]) -> Plan:
    """Return the plan that is asked for.

    Raises:
        FormError: names each field that is wrong, and how.
    """
    read = _Reader(form)
    model, version = read.model()
    asked = {
        "model": model,
        "version": version,
        "where": form["where"],
        "targets": form["targets"],
        "waves": _listed(form["waves"]),
        "canaries_per_type": read.count("canaries"),
        "soak_s": read.seconds("soak"),
        "deadline_s": read.seconds("deadline"),
        "hours": _listed(form["hours"]),
        "on_breach": form["on_breach"],
        "late": form["late"],
        "limits": {
            "failed": form["failed"],
            "silent": form["silent"],
            "error_share": read.number("error_share") or 0.0,
            "latency_ratio": read.number("latency_ratio", empty=True),
            "alarm_ratio": read.number("alarm_ratio", empty=True),
            "answers": read.count("answers"),
        },
    }
    try:
        plan = Plan.model_validate_json(json.dumps(asked))  # strict: JSON has no tuples
    except ValidationError as err:
        raise FormError(_faults(err) | read.faults) from None
    if read.faults:
        raise FormError(read.faults)
    return plan


class _Reader:
    """Reads fields of a form; what is wrong with them is in `faults`.

    Args:
        form: the fields.
    """

    def __init__(self, form: Mapping[str, str]) -> None:
        self._form = form
        self.faults: dict[str, str] = {}

    def model(self) -> tuple[str, int]:
        model, _, version = self._form["model"].rpartition(" ")
        if not _WHOLE.fullmatch(version):
            self.faults["model"] = "choose a model and its version"
            return "none", 1
        return model, int(version)

    def count(self, field: str) -> int:
        if not _WHOLE.fullmatch(self._form[field]):
            self.faults[field] = "not a whole number"
            return 1
        return int(self._form[field])

    def seconds(self, field: str) -> float:
        found = _SPAN.fullmatch(self._form[field])
        if found is None:
            self.faults[field] = "not a time, such as 30m, 2h or 1d"
            return 1.0
        return float(found[1]) * _UNITS[found[2]]

    def number(self, field: str, *, empty: bool = False) -> float | None:
        if empty and not self._form[field]:
            return None
        if not _NUMBER.fullmatch(self._form[field]):
            self.faults[field] = "not a number"
            return None
        return float(self._form[field])


def _faults(err: ValidationError) -> dict[str, str]:
    """Return what is wrong with a plan, by field of the form; "": of the whole."""
    faults: dict[str, str] = {}
    for where, what in problems_of(err):
        field, _, rest = where.partition(".")
        field = rest if field == "limits" else field or "waves"
        field = _NAMES.get(field, field)
        faults.setdefault(field if field in FIRST else "", what.removeprefix("waves: "))
    return faults


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
