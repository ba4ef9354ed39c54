"""What can go wrong around the demo, each with what to do about it."""

from __future__ import annotations

from edgeslm.errors import InvalidFileError, UnavailableError


class MissingExtraError(UnavailableError):
    """A package that the demo needs is not installed."""

    code = "demo.extra_missing"


class BrokerFailedError(UnavailableError):
    """The demo's own broker did not come up."""

    code = "demo.broker_failed"


class ExportFailedError(UnavailableError):
    """The exporter made no bundle; it has said why."""

    code = "demo.export_failed"


class AgentFailedError(UnavailableError):
    """The agent stopped, or did not serve in time."""

    code = "demo.agent_failed"


class ReplayError(InvalidFileError):
    """The log file to play cannot be used."""

    code = "demo.replay_invalid"
