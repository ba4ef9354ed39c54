"""Why a device is not given a certificate: said by the fleet, and shown by the device."""

from __future__ import annotations

from typing import Final

from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError

SIGNED: Final = b"edgeslm provision 1\0"
"""Comes before what a factory key or a key in force signs, so that it is good for nothing else."""


AUTHORITY_NAMED: Final = "edgeslm devices "
"""So the name of a fleet's authority begins, as devices' certificates have it."""

RESERVED: Final = ("edgeslm", "unprovisioned")
"""As these begin, whatever the case, no device is called: users of the broker are."""


def reserved(device: str) -> bool:
    """Whether an id is kept for others than devices."""
    return device.lower().startswith(RESERVED)


class ProvisionRefusedError(RejectedError):
    """The fleet gives this device no certificate, for a reason that this build does not know."""

    code = "provision.refused"


class CertificateRequestError(RejectedError):
    """A request for a certificate does not hold: its signature, its key, or its subject."""

    code = "provision.request"


class EnrolTokenUnknownError(RejectedError):
    """The fleet knows no such token."""

    code = "provision.token_unknown"


class EnrolTokenUsedError(RejectedError):
    """The token has been used, by another device or by this one before it was reset."""

    code = "provision.token_used"


class EnrolTokenExpiredError(RejectedError):
    """The token was good until a time that is over."""

    code = "provision.token_expired"


class FactoryKeyUnknownError(RejectedError):
    """The fleet knows no device with this factory key."""

    code = "provision.factory_key_unknown"


class OtherDeviceError(RejectedError):
    """The device says that it is another one than its token or factory key is for."""

    code = "provision.other_device"


class KeySharedError(RejectedError):
    """Another certificate has the same key: two devices would be one."""

    code = "provision.key_shared"


class CertificateUnknownError(RejectedError):
    """The certificate to renew is not of this fleet."""

    code = "provision.certificate_unknown"


class DeviceRevokedError(RejectedError):
    """The device's certificates were revoked."""

    code = "provision.revoked"


class DeviceClonedError(RejectedError):
    """Two machines have this identity: one of them was copied from the other."""

    code = "provision.cloned"


class IssuingUnavailableError(UnavailableError):
    """The fleet gives no certificates now."""

    code = "provision.unavailable"


REFUSALS: Final[dict[str, type[EdgeSLMError]]] = {
    each.code: each
    for each in (
        CertificateRequestError,
        EnrolTokenUnknownError,
        EnrolTokenUsedError,
        EnrolTokenExpiredError,
        FactoryKeyUnknownError,
        OtherDeviceError,
        KeySharedError,
        CertificateUnknownError,
        DeviceRevokedError,
        DeviceClonedError,
        IssuingUnavailableError,
    )
}


def refusal(code: str, message: str) -> EdgeSLMError:
    """Return what the fleet has said as an error of ours."""
    kind = REFUSALS.get(code)
    return kind(message) if kind is not None else ProvisionRefusedError(f"{message} ({code})")
