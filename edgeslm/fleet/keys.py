"""The fleet's keys: each a file encrypted by a passphrase, or in hardware behind PKCS#11.

`keys/NAME.json` is the public half, which stays here; `keys/NAME.pem` is the private one, which may
be moved to a stick (fleet.toml says where). Which keys count, only the repository's metadata say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signature, Signer, SSlibKey

from edgeslm.adapters.fs import write_durably
from edgeslm.contract.base import Typed, parse_json
from edgeslm.fleet.errors import (
    FleetDamagedError,
    FleetExtraError,
    HardwareKeyError,
    KeyInvalidError,
    KeyMissingError,
    PassphraseError,
)
from edgeslm.fleet.passphrases import Passphrases

KEYS: Final = "keys"
HARDWARE: Final = "pkcs11:"
ONLINE: Final = frozenset({"snapshot", "timestamp", "director", "time", "devices"})
"""What is signed daily or by the minute: these keys lie where a server can use them alone."""
_MODULE: Final = "PYKCS11LIB"  # where securesystemslib looks for the library of the hardware
_MAX_BYTES: Final = 65_536
_RESTORE: Final = "Restore it from a copy."


class KeyRecord(Typed):
    """The public half of a key."""

    role: str = Field(description="What it was made for.")
    keyid: str
    key: dict[str, Any] = Field(description="As in TUF metadata.")
    at: str | None = Field(None, description="PKCS#11 URI; None: a file.")

    def public(self) -> Key:
        """Return it as what verifies.

        Raises:
            ValueError, KeyError, TypeError: it is no key.
        """
        return Key.from_dict(self.keyid, {**self.key, "keyval": dict(self.key["keyval"])})


class KeyFolder:
    """The keys of a repository.

    Args:
        folder: the repository's.
        where: by name, where a private key is if not in the folder.
        passphrases: of the keys.
        online_file: that holds the passphrase of the `ONLINE` keys.
    """

    def __init__(
        self,
        folder: Path,
        where: Mapping[str, str],
        passphrases: Passphrases,
        online_file: Path | None,
    ) -> None:
        self._folder = folder
        self._keys = folder / KEYS
        self._where = where
        self._passphrases = passphrases
        self._online_file = online_file
        self._loaded: dict[str, Signer] = {}
        self._pins: dict[str, bytes] = {}

    def records(self) -> dict[str, KeyRecord]:
        """All public halves by name, sorted.

        Raises:
            FleetDamagedError: one is damaged.
        """
        return {path.stem: self._record(path) for path in sorted(self._keys.glob("*.json"))}

    def make(self, role: str) -> str:
        """Make a key, encrypted by a passphrase; return its name.

        Raises:
            PassphraseError: no passphrase, or too short.
            OSError: the disk refused.
        """
        name = self._free(role)
        private = Ed25519PrivateKey.generate()
        # The private half first: a public one without it would be a key that nobody has.
        self._keep(name, role, private)
        signer = CryptoSigner(private)
        self._write(name, role, signer.public_key, at=None)
        self._loaded[signer.public_key.keyid] = signer
        return name

    def keep(self, name: str, role: str, private: EllipticCurvePrivateKey) -> None:
        """Keep a key that signs no metadata, encrypted by a passphrase, in place of one there.

        Raises:
            PassphraseError: no passphrase, or too short.
            OSError: the disk refused.
        """
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keep(name, role, private)

    def forget(self, name: str) -> None:
        """Remove a key that was kept so; one elsewhere is its keeper's to remove.

        Raises:
            OSError: the disk refused.
        """
        (self._keys / f"{name}.pem").unlink(missing_ok=True)

    def kept(self, name: str) -> bool:
        """Whether there is such a key, or fleet.toml says where one is."""
        return name in self._where or (self._keys / f"{name}.pem").exists()

    def private(self, name: str, role: str) -> PrivateKeyTypes:
        """Return a key that was kept so.

        Raises:
            KeyMissingError, KeyInvalidError, PassphraseError: as `signer`.
            HardwareKeyError: fleet.toml says that it is in hardware, where this one cannot be.
        """
        at = self._where.get(name, f"{KEYS}/{name}.pem")
        if at.startswith(HARDWARE):
            msg = f"{name}: this key cannot be in hardware yet. Name a file under [keys]."
            raise HardwareKeyError(msg)
        return self._unlocked(name, role, self._folder / at)

    def adopt(self, role: str, uri: str) -> str:
        """Use a key that is in hardware already; return its name.

        Raises:
            HardwareKeyError: it is not there.
            OSError: the disk refused.
        """
        name = self._free(role)
        number, token, handler = self._hardware(name, role, uri)
        with _Hardware(name):
            _, public = HSMSigner.import_(number, token, handler)
        self._write(name, role, public, at=uri)
        return name

    def named(self, keyids: Collection[str]) -> dict[str, str]:
        """Return the names of those of `keyids` that are known here, by name."""
        return {n: record.keyid for n, record in self.records().items() if record.keyid in keyids}

    def signer(self, name: str) -> Signer:
        """Return what signs by a key.

        Raises:
            KeyMissingError: its private half is not where it should be.
            KeyInvalidError: the file is something else.
            PassphraseError: no passphrase, or a wrong one.
            HardwareKeyError: it is not in its hardware.
        """
        record = self._record(self._keys / f"{name}.json")
        if (signer := self._loaded.get(record.keyid)) is None:
            at = self._where.get(name) or record.at or f"{KEYS}/{name}.pem"
            if at.startswith(HARDWARE):
                number, token, handler = self._hardware(name, record.role, at)
                signer = _HardwareSigner(number, _ecdsa(name, record), handler, token)
                signer.name = name
            else:
                signer = self._from_file(name, record, self._folder / at)
            self._loaded[record.keyid] = signer
        return signer

    def _record(self, path: Path) -> KeyRecord:
        try:
            raw = path.read_bytes()
        except OSError as err:
            what = err.strerror or str(err)
            raise FleetDamagedError(str(path), [("", what)], remedy=_RESTORE) from None
        record = parse_json(
            KeyRecord, raw, file=str(path), remedy=_RESTORE, error=FleetDamagedError
        )
        try:
            record.public()
        except (ValueError, KeyError, TypeError) as err:
            raise FleetDamagedError(str(path), [("key", str(err))], remedy=_RESTORE) from None
        return record

    def _write(self, name: str, role: str, public: Key, *, at: str | None) -> None:
        record = KeyRecord(role=role, keyid=public.keyid, key=public.to_dict(), at=at)
        write_durably(self._keys / f"{name}.json", record.model_dump_json().encode())

    def _keep(
        self, name: str, role: str, private: Ed25519PrivateKey | EllipticCurvePrivateKey
    ) -> None:
        passphrase = self._passphrases.new(name, self._passphrase_file(role))
        pem = private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase)
        )
        write_durably(self._keys / f"{name}.pem", pem)

    def _free(self, role: str) -> str:
        """Return the first name for a key of `role` that is not taken: root-1, targets, time-2."""
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = 1
        while True:
            name = role if number == 1 and role != "root" else f"{role}-{number}"
            if not any((self._keys / f"{name}{end}").exists() for end in (".json", ".pem")):
                return name
            number += 1

    def _passphrase_file(self, role: str) -> Path | None:
        return self._online_file if role in ONLINE else None

    def _from_file(self, name: str, record: KeyRecord, path: Path) -> Signer:
        private = self._unlocked(name, record.role, path)
        try:
            public = record.public()
            return CryptoSigner(private, public if isinstance(public, SSlibKey) else None)
        except ValueError:
            msg = f"{path}: another key than keys/{name}.json says. Put the right one there."
            raise KeyInvalidError(msg) from None

    def _unlocked(self, name: str, role: str, path: Path) -> PrivateKeyTypes:
        try:
            with path.open("rb") as file:
                pem = file.read(_MAX_BYTES)
        except (OSError, ValueError) as err:
            what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
            msg = (
                f"{path}: {what}. The key {name} must sign: plug in what holds it, or say under "
                "[keys] in fleet.toml where it is."
            )
            raise KeyMissingError(msg) from None
        if b"ENCRYPTED" not in pem:
            msg = (
                f"{path}: not a private key encrypted by a passphrase. "
                "Restore it, or encrypt it: openssl pkcs8 -topk8"
            )
            raise KeyInvalidError(msg)
        for passphrase in self._passphrases.of(name, self._passphrase_file(role)):
            try:
                return load_pem_private_key(pem, passphrase)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                continue  # its words are of OpenSSL; what to do is the same
        msg = f"{path}: the passphrase is wrong, or the file is damaged."
        raise PassphraseError(msg)

    def _hardware(self, name: str, role: str, uri: str) -> tuple[int, str, Callable[[str], str]]:
        """Return number, token and PIN of a key by its PKCS#11 URI (RFC 7512)."""
        path, _, query = uri.removeprefix(HARDWARE).partition("?")
        parts = dict(part.partition("=")[::2] for part in path.split(";"))
        more = {key: values[0] for key, values in parse_qs(query).items()}
        token = unquote_to_bytes(parts.get("token", "")).decode("utf-8", "replace")
        number = int.from_bytes(unquote_to_bytes(parts.get("id", "")), "big")
        if not token or not number:
            msg = (
                f"{uri}: token and id are needed, such as pkcs11:token=fleet;id=%01"
                "?module-path=/usr/lib/softhsm/libsofthsm2.so"
            )
            raise HardwareKeyError(msg)
        if module := more.get("module-path"):
            os.environ[_MODULE] = module
        source = more.get("pin-source", "").removeprefix("file:")
        pin_file = Path(source) if source else self._passphrase_file(role)

        def pin(_: str) -> str:
            # The last one, which is the one just typed: tokens lock after a few wrong ones.
            if name not in self._pins:
                *_rest, self._pins[name] = self._passphrases.of(f"{name} (PIN)", pin_file)
            return self._pins[name].decode()

        return number, token, pin


class _Hardware:
    """Turns what a PKCS#11 library says into an error of ours."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, err: BaseException | None, _: object) -> None:
        if isinstance(err, UnsupportedLibraryError):
            msg = f"{self._name}: {err}. Install it: pip install 'edgeslm[fleet]'"
            raise FleetExtraError(msg) from None
        foreign = type(err).__module__.startswith("pkcs11")
        if foreign or isinstance(err, ValueError | RuntimeError | OSError):
            what = str(err) or type(err).__name__
            msg = (
                f"{self._name}: {what}. Plug the hardware in, and check token, id, PIN and module "
                f"({_MODULE} or module-path)."
            )
            raise HardwareKeyError(msg) from None


class _HardwareSigner(HSMSigner):
    name = ""

    def sign(self, payload: bytes) -> Signature:
        with _Hardware(self.name):
            return super().sign(payload)


def _ecdsa(name: str, record: KeyRecord) -> SSlibKey:
    public = record.public()
    if not isinstance(public, SSlibKey) or not public.scheme.startswith("ecdsa-"):
        msg = f"{name}: {record.key.get('scheme')} is not a scheme of keys in hardware"
        raise HardwareKeyError(msg)
    return public
