"""Why a figure could not be measured."""

from __future__ import annotations

from edgeslm.errors import RejectedError, UnavailableError


class MissingDataError(UnavailableError):
    """The evaluation cases are not where they were said to be."""

    code = "benchmarks.data_missing"


class MissingToolError(UnavailableError):
    """A program that a benchmark drives is not installed."""

    code = "benchmarks.tool_missing"


class RunFailedError(RejectedError):
    """Something that a benchmark drives stopped, stalled or answered with errors."""

    code = "benchmarks.run_failed"
