"""Every error edgeslm raises on purpose.

Roots by what an operator can do about them: fix the input (`RejectedError`), fix the
configuration (`ConfigError`, a `RejectedError`), or wait (`UnavailableError`). Anything
else that escapes is a bug. Each carries a stable `code` (sent over MQTT and printed) and
each root a sysexits(3) status, listed in docs/exit-codes.md.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Final

EXIT_REJECTED: Final = 65  # EX_DATAERR
EXIT_UNAVAILABLE: Final = 75  # EX_TEMPFAIL: systemd and scripts may retry
EXIT_CONFIG: Final = 78  # EX_CONFIG
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


class EdgeSLMError(Exception):
    """Base class; never raised itself."""

    code: ClassVar[str]
    exit_status: ClassVar[int]


def exit_status_of(errors: Collection[EdgeSLMError]) -> int:
    """Return the status of a command that ended with these; 0: with none.

    Waiting is of use only where it is of use for all of them.
    """
    statuses = {err.exit_status for err in errors}
    order = (EXIT_CONFIG, EXIT_REJECTED, EXIT_UNAVAILABLE)
    return next((status for status in order if status in statuses), 0)


class RejectedError(EdgeSLMError):
    """The input is wrong and retrying will not help."""

    code = "rejected"
    exit_status = EXIT_REJECTED


class UnavailableError(EdgeSLMError):
    """A resource is missing for now; the same call may succeed later."""

    code = "unavailable"
    exit_status = EXIT_UNAVAILABLE


class InvalidFileError(RejectedError):
    """A file does not say what it must: names the file, each field and the remedy.

    Args:
        file: path or name of what was read, as the user knows it.
        problems: (field, what is wrong with it), at least one; the field may be "".
        remedy: what to do, in one sentence.
    """

    code = "file.invalid"

    def __init__(self, file: str, problems: list[tuple[str, str]], *, remedy: str) -> None:
        lines = "; ".join(f"{field}: {what}" if field else what for field, what in problems)
        super().__init__(f"{file}: {lines}. {remedy}")
        self.file = file
        self.problems = problems
        self.remedy = remedy


class ConfigError(InvalidFileError):
    """The agent's settings or a device profile cannot be used."""

    code = "config.invalid"
    exit_status = EXIT_CONFIG


class NotProvisionedError(ConfigError):
    """This device has not been told who it is: `edgeslm provision` has not got it yet."""

    code = "config.not_provisioned"
    exit_status = EXIT_UNAVAILABLE
