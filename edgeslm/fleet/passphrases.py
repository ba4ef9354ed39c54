"""Where passphrases of private keys come from. None is ever logged, shown, or kept on disk."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from edgeslm.fleet.errors import PassphraseError

VARIABLE: Final = "EDGESLM_FLEET_PASSPHRASE"
MIN_LENGTH: Final = 8
_MAX_BYTES: Final = 4096


class Passphrases:
    """Gives the passphrase of a key: from a file, from a variable, or from whoever sits there.

    Args:
        file: of --passphrase-file.
        variable: what EDGESLM_FLEET_PASSPHRASE holds; by default, as it is now.
        ask: asks a person; by default on the terminal, where there is one.
    """

    __slots__ = ("_ask", "_file", "_typed", "_variable")

    def __init__(
        self,
        file: Path | None = None,
        *,
        variable: str | None = None,
        ask: Callable[[str], str] | None = None,
    ) -> None:
        self._file = file
        self._variable = os.environ.get(VARIABLE) if variable is None else variable
        self._ask = ask or (getpass.getpass if sys.stdin and sys.stdin.isatty() else None)
        self._typed: list[str] = []

    def __repr__(self) -> str:
        return "Passphrases(...)"

    def of(self, name: str, file: Path | None = None) -> Iterator[bytes]:
        """Yield what may be the passphrase of the key `name`; the next one if that was wrong.

        Args:
            name: for whoever is asked.
            file: that holds the passphrase of this key, whatever else there is.

        Raises:
            PassphraseError: there is none, or the file cannot be read.
        """
        if file is not None:
            yield _read(file)
        elif self._file is not None:
            yield _read(self._file)
        elif self._variable:
            yield self._variable.encode()
        else:
            yield from (typed.encode() for typed in self._typed)
            typed = self._asked(f"Passphrase of {name}: ")
            self._typed.append(typed)
            yield typed.encode()

    def new(self, name: str, file: Path | None = None) -> bytes:
        """Return the passphrase for a key that is being made; typed ones are typed twice, once.

        Raises:
            PassphraseError: there is none, it is too short, or the two are not the same.
        """
        if file is None and self._file is None and not self._variable and not self._typed:
            first = self._asked(f"New passphrase, for {name}: ")
            if first != self._asked("The same again: "):
                msg = "the two passphrases are not the same; nothing was made. Try again."
                raise PassphraseError(msg)
            self._typed.append(first)
        passphrase = next(self.of(name, file))
        if len(passphrase) < MIN_LENGTH:
            msg = f"the passphrase for {name} is shorter than {MIN_LENGTH} bytes; take a longer one"
            raise PassphraseError(msg)
        return passphrase

    def _asked(self, prompt: str) -> str:
        if self._ask is None:
            msg = (
                f"{prompt.rstrip(': ')}: none was given and there is no terminal. "
                f"Use --passphrase-file or {VARIABLE}."
            )
            raise PassphraseError(msg)
        try:
            return self._ask(prompt)
        except EOFError:
            msg = f"{prompt.rstrip(': ')}: none was typed. Try again."
            raise PassphraseError(msg) from None


def _read(file: Path) -> bytes:
    """Return a file's passphrase: all of it but a last newline."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        msg = f"{file}: {what}. It should hold a passphrase."
        raise PassphraseError(msg) from None
    passphrase = raw.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase or len(raw) > _MAX_BYTES:
        msg = f"{file}: empty, or longer than {_MAX_BYTES} bytes. It should hold a passphrase."
        raise PassphraseError(msg)
    return passphrase
