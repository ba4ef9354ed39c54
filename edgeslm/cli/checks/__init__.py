"""What `edgeslm doctor` looks at: one module for each part of the world, one function each check.

A check is a generator of findings over the settings, which are None where no file was given. It
changes nothing on the device and disturbs no agent that runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from edgeslm.errors import EXIT_UNAVAILABLE, EdgeSLMError, InvalidFileError

Level = Literal["ok", "warning", "error"]
INTERNAL: Final = "internal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        check: what, in dotted words.
        level: "error" where the agent would not serve, or its updater not run; "warning" where
            they would, and somebody should know.
        found: how it is.
        remedy: what to do about it; "" where all is well.
        code: of docs/error-codes.md, where the agent would say the same.
        status: exit status that stands for it; 0 unless it is an error.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""
    code: str = ""
    status: int = 0


def ok(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    """Return what somebody should know, though all would run."""
    return Finding(check, "warning", found, remedy)


def error(check: str, found: str, remedy: str, *, status: int, code: str = "") -> Finding:
    """Return what keeps the agent from serving, or its updater from running."""
    return Finding(check, "error", found, remedy, code, status)


def raised(check: str, err: EdgeSLMError, *, remedy: str) -> Iterator[Finding]:
    """Return an error as findings: one for each field, where it names fields.

    Args:
        check: which check.
        err: what was raised.
        remedy: for an error that has none of its own.
    """
    if isinstance(err, InvalidFileError):
        for field, what in err.problems:
            found = f"{err.file}: {field}: {what}" if field else f"{err.file}: {what}"
            yield error(check, found, err.remedy, status=err.exit_status, code=err.code)
    else:
        yield error(check, str(err), remedy, status=err.exit_status, code=err.code)


def guarded(
    check: str, find: Callable[[], Iterable[Finding]], *, remedy: str = ""
) -> Iterator[Finding]:
    """Yield what `find` finds; whatever it raises is a finding too, and the others go on."""
    try:
        yield from find()
    except EdgeSLMError as err:
        yield from raised(check, err, remedy=remedy)
    except Exception as err:  # noqa: BLE001 -- a device is examined because it is not well
        found = f"the check itself failed: {type(err).__name__}: {err}"
        what_to_do = "Install edgeslm again; if it stays, report this as a fault of ours."
        yield error(check, found, what_to_do, status=EXIT_UNAVAILABLE, code=INTERNAL)
