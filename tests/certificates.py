"""Certificates of a test's own, by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A CA in `folder`, and what it signs: NAME.pem with NAME.key."""

    def __init__(self, folder: Path, *, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.cert = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", f"/CN={name}", "-days", "2"),
            *("-keyout", self._key, "-out", self.cert),
        )

    def sign(self, name: str, *, for_: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Return a certificate and its key; with 0 days it has ended when it is used."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={for_}\n")
        self._openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request),
        )
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", cert),
        )
        return cert, key

    def encrypt(self, key: Path) -> Path:
        """Return a copy of `key` that asks for a password."""
        locked = key.with_suffix(".locked")
        self._openssl("pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked)
        return locked

    def _openssl(self, *args: str | Path) -> None:
        done = subprocess.run(
            ["openssl", *map(str, args)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
