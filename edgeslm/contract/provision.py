"""What a device and its fleet say to each other about the device's certificate.

Nothing here is trusted for being well-formed. A request is published on
`ROOT/_fleet/provision/REQUEST`, whose last level is 128 random bits and the session's client id;
the answer comes one level below it and nowhere else, whatever a request says. Whose certificates
devices are to have by now is retained on `ROOT/_fleet/authority`.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from edgeslm.contract.base import Sha256
from edgeslm.contract.fleet import DeviceId, Nonce, Seconds, Wire
from edgeslm.contract.messages import ErrorInfo

MAX_BYTES: Final = 16 * 1024
"""Of a request, and of its answer."""
PROVISIONER: Final = "edgeslm-provision"
"""User of devices that have no certificate yet, where the broker wants a password."""

MAX_NAMES: Final = 16
Machine = Annotated[tuple[Sha256, ...], Field(max_length=MAX_NAMES)]
"""Hashes of serials and addresses, each by itself: hardware that has one of them in common with
what was said before is the same, though a part was changed, or could not be read this time."""

Pem = Annotated[str, Field(max_length=6000)]
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]{8,1024}$", description="Base64.")]


class CertificateRequest(Wire):
    """Give me a certificate for this key. Exactly one of token, factory_key and current."""

    device: DeviceId | None = Field(
        None, description="Who asks; absent: whoever the token or the factory key is for."
    )
    csr: Pem = Field(description="PKCS#10; its subject is CN=device, or empty.")
    machine: Machine = Field((), description="Of what the hardware is called by; see there.")
    token: Annotated[str, Field(max_length=128)] | None = Field(None, description="Good for once.")
    factory_key: Pem | None = Field(None, description="Public; with `signature`.")
    current: Pem | None = Field(None, description="The certificate in force; with `signature`.")
    signature: Signature | None = Field(
        None, description="Of the request's DER, by the factory key or the key in force."
    )

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        given = [each for each in (self.token, self.factory_key, self.current) if each is not None]
        if len(given) != 1 or (self.token is None) != (self.signature is not None):
            msg = "exactly one of token, factory_key and current; the latter two with signature"
            raise ValueError(msg)
        return self


class AuthorityNotice(Wire):
    """Who signs certificates now: a device with one of another asks for a new one."""

    issuer: Annotated[str, Field(max_length=64, description="As certificates name it.")]


class CertificateReply(Wire):
    """The certificate, or why there is none."""

    request: Nonce
    time: Seconds = Field(description="By the fleet's clock; unsigned, for people.")
    device: DeviceId | None = None
    certificate: Pem | None = None
    error: ErrorInfo | None = None

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        if (self.certificate is None) == (self.error is None):
            msg = "either a certificate or an error"
            raise ValueError(msg)
        if self.certificate is not None and self.device is None:
            msg = "a certificate, and no device"
            raise ValueError(msg)
        return self
