"""What can go wrong on the manager's side, each with what to do about it."""

from __future__ import annotations

from edgeslm.errors import ConfigError, InvalidFileError, RejectedError, UnavailableError


class FleetExtraError(UnavailableError):
    """A package that the fleet's side needs is not installed."""

    code = "fleet.extra_missing"


class FleetMissingError(RejectedError):
    """There is no repository in this folder."""

    code = "fleet.missing"


class FleetExistsError(RejectedError):
    """There is one already, or part of one; nothing was changed."""

    code = "fleet.exists"


class FleetDamagedError(InvalidFileError):
    """A file of the repository is not what was written there."""

    code = "fleet.damaged"


class FleetConfigError(ConfigError):
    """fleet.toml cannot be used."""

    code = "fleet.config"


class PlanInvalidError(InvalidFileError):
    """A roll-out's plan does not say what it must."""

    code = "fleet.plan"


class FleetBusyError(UnavailableError):
    """Another command writes to this repository."""

    code = "fleet.busy"


class FleetDiskError(UnavailableError):
    """The disk refused; the repository is as it was, or the step can be taken again."""

    code = "fleet.unavailable"


class KeyMissingError(UnavailableError):
    """A private key that must sign is not where it should be."""

    code = "key.missing"


class KeyInvalidError(RejectedError):
    """A key file holds no encrypted private key, or another one than it should."""

    code = "key.invalid"


class AuthorityStepError(RejectedError):
    """The authority over devices is replaced in three steps, and the one before is missing."""

    code = "authority.step"


class KeyUnusedError(RejectedError):
    """There is no key of this name in use."""

    code = "key.unused"


class UnknownRoleError(RejectedError):
    """The repository has no role of this name that can be signed anew."""

    code = "fleet.unknown_role"


class PassphraseError(RejectedError):
    """No passphrase was given, or a wrong one."""

    code = "key.passphrase"


class HardwareKeyError(UnavailableError):
    """A key in hardware cannot be found or does not sign."""

    code = "key.hardware"


class BundleRefusedError(RejectedError):
    """A bundle is not of the model, version or task that it is added under."""

    code = "fleet.bundle_refused"


class VersionTakenError(RejectedError):
    """The model has this version for this profile already, with other bytes."""

    code = "fleet.version_taken"


class VersionOlderError(RejectedError):
    """The model has a newer version already."""

    code = "fleet.version_older"


class UnknownModelError(RejectedError):
    """The repository has no such model, or not in this version."""

    code = "fleet.unknown_model"


class AssignmentRefusedError(RejectedError):
    """What should be assigned cannot be."""

    code = "fleet.assignment_refused"


class RoleExpiredError(RejectedError):
    """Metadata have expired: no device takes what is signed beside them."""

    code = "fleet.expired"


class StickError(UnavailableError):
    """The stick cannot be written."""

    code = "fleet.stick"
