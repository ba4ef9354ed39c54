"""What can go wrong with a fleet's database, each with what to do about it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from edgeslm.errors import ConfigError, RejectedError, UnavailableError

_SHOWN: Final = 5  # of many names


class DatabaseError(UnavailableError):
    """The database cannot be reached, read or written now."""

    code = "fleet.database_down"


class DatabaseInvalidError(ConfigError):
    """This is no database of a fleet, or none that this build can use."""

    code = "fleet.database_invalid"


class SchemaNewerError(ConfigError):
    """The database was made or migrated by a newer version."""

    code = "fleet.database_newer"


class SchemaOlderError(ConfigError):
    """The database is to be migrated first, by whoever looks after it."""

    code = "fleet.database_older"


class LeaseLostError(UnavailableError):
    """Another process has taken what only one may have at a time."""

    code = "fleet.lease_lost"


class SeqTakenError(UnavailableError):
    """Another command has assigned something meanwhile; what to assign must be looked at again.

    Args:
        devices: whose assignments have moved on.
    """

    code = "fleet.assignment_moved"

    def __init__(self, devices: Collection[str]) -> None:
        super().__init__(f"{some(devices)}: assigned anew meanwhile. Give the command again.")
        self.devices = frozenset(devices)


class UnknownDeviceError(RejectedError):
    """No device with this id has registered."""

    code = "fleet.unknown_device"


class PlaceError(RejectedError):
    """What says where the next page begins is of no page."""

    code = "fleet.place"


class UnknownRolloutError(RejectedError):
    """There is no roll-out with this number."""

    code = "rollout.unknown"


class RolloutEndedError(RejectedError):
    """The roll-out has ended: nothing more can be asked of it."""

    code = "rollout.ended"


class RolloutOverlapError(RejectedError):
    """Devices are in another roll-out that has not ended.

    Args:
        busy: its number, by device.
    """

    code = "rollout.overlap"

    def __init__(self, busy: dict[str, int]) -> None:
        numbers = ", ".join(map(str, sorted(set(busy.values()))))
        super().__init__(
            f"{some(busy)}: in roll-out {numbers}, which has not ended. Wait for it, or abort it."
        )
        self.busy = busy


class AccountError(RejectedError):
    """The account is not there, or is there already."""

    code = "account.refused"


def some(names: Collection[str]) -> str:
    """Return the first of many names, and how many more there are."""
    shown = sorted(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
