"""What can go wrong on a device that wants a certificate; what the fleet refuses is in the core."""

from __future__ import annotations

from edgeslm.errors import ConfigError, RejectedError, UnavailableError


class ProvisionConfigError(ConfigError):
    """The settings do not say how this device is to get its certificate."""

    code = "provision.config"


class ProvisionExtraError(UnavailableError):
    """A package that makes keys and certificates is not installed."""

    code = "provision.extra"


class ProvisionBusyError(UnavailableError):
    """Another `edgeslm provision` works in the same folder."""

    code = "provision.busy"


class ProvisionDiskError(UnavailableError):
    """The disk refused, or the folder is another user's; what there was is as it was."""

    code = "provision.disk"


class DeviceKeyError(UnavailableError):
    """The token that is to hold the device's key cannot be used."""

    code = "provision.key"


class ClockBehindError(UnavailableError):
    """By this device's clock the broker's certificate is not valid yet: the clock is not set."""

    code = "provision.clock"


class BrokerExpiredError(UnavailableError):
    """The broker's certificate has expired, or this device's clock is ahead."""

    code = "provision.broker_expired"


class BrokerUnreachableError(UnavailableError):
    """No broker could be reached."""

    code = "provision.unreachable"


class RevokedAtBrokerError(BrokerUnreachableError):
    """A broker has this device's certificate on its list of revoked ones; the fleet says why."""

    code = "provision.listed"


class ProvisionUnansweredError(UnavailableError):
    """The broker is there, and the fleet's service has not answered."""

    code = "provision.no_answer"


class UnknownAuthorityError(RejectedError):
    """The broker's certificate is of no authority that this device trusts, or of another host."""

    code = "provision.unknown_ca"


class BrokerRefusedError(RejectedError):
    """The broker does not let this device in, or does not let it ask."""

    code = "provision.broker_refused"


class WrongCertificateError(RejectedError):
    """What came is no certificate of this device's key."""

    code = "provision.wrong_certificate"


def unusable(setting: str, what: str, *, remedy: str) -> ProvisionConfigError:
    """Return what says that a setting cannot be used."""
    return ProvisionConfigError("settings", [(setting, what)], remedy=remedy)
