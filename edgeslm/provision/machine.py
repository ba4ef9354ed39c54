"""By what this hardware is known, so that a copy of its disk elsewhere is seen to be one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

_MARK: Final = "edgeslm machine 1\0"
# The first that says something. Serials of boards, then addresses of network hardware.
_SERIALS: Final = (
    "proc/device-tree/serial-number",
    "sys/class/dmi/id/product_uuid",
    "sys/class/dmi/id/board_serial",
)
_NETWORK: Final = "sys/class/net"
_NOTHING: Final = frozenset(
    {"", "0", "none", "default string", "to be filled by o.e.m.", "not specified", "system serial"}
)
_MAX_BYTES: Final = 256


def machine(root: Path = Path("/")) -> str | None:
    """Return a hash of what the hardware is called by; None: nothing says so.

    Args:
        root: where /proc and /sys are.
    """
    for name in _SERIALS:
        found = _text(root / name).strip("\0").strip().lower()
        if found not in _NOTHING and set(found) - set("0-"):
            return _hashed(found)
    addresses = [
        address
        for device in sorted((root / _NETWORK).glob("*"))
        if (device / "device").exists() and _text(device / "addr_assign_type").strip() in {"", "0"}
        if (address := _text(device / "address").strip().lower()) not in _NOTHING
    ]
    return _hashed(" ".join(sorted(addresses))) if addresses else None


def _hashed(found: str) -> str:
    return hashlib.sha256(f"{_MARK}{found}".encode()).hexdigest()


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:  # not there, or for root alone
        return ""
