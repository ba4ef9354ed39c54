"""By what this hardware is known, so that a copy of its disk elsewhere is seen to be one.

Each serial and address is a name of its own. Not every user may read every one, and parts are
changed: hardware is the same while one of its names is. What is on the disk, /etc/machine-id say,
names no hardware: a copy has it, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgeslm.contract.provision import MAX_NAMES

_MARK: Final = "edgeslm machine 1\0"
_SERIALS: Final = {
    "device-tree": "proc/device-tree/serial-number",
    "soc": "sys/devices/soc0/serial_number",
    "dmi-uuid": "sys/class/dmi/id/product_uuid",  # those of DMI: root alone may read them
    "dmi-board": "sys/class/dmi/id/board_serial",
    "dmi-product": "sys/class/dmi/id/product_serial",
}
_NETWORK: Final = "sys/class/net"
_OWN_ADDRESS: Final = "0"  # in addr_assign_type: the hardware's, neither drawn nor set
_PLUGGED: Final = "/usb"  # in the path of what may be plugged in elsewhere tomorrow
# What makers leave there; many devices have it.
_NOTHING: Final = frozenset(
    {
        *("", "none", "null", "n/a", "na", "unknown", "invalid", "empty", "default", "serial"),
        *("default string", "not specified", "not applicable", "not available", "undefined"),
        *("to be filled by o.e.m.", "to be filled by o.e.m", "o.e.m.", "oem", "system serial"),
        *("system serial number", "base board serial number", "chassis serial number"),
        *("serial number", "mb-1234567890", "0123456789", "123456789", "1234567890", "12345678"),
        *("01234567890123456789", "0123456789abcdef", "a1b2c3d4", "bss-0123456789"),
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "12345678-1234-1234-1234-123456789012",
        "01234567-89ab-cdef-0123-456789abcdef",
        "00112233-4455-6677-8899-aabbccddeeff",
        "11111111-2222-3333-4444-555555555555",
        "52:54:00:12:34:56",
        "00:11:22:33:44:55",
        "00:01:02:03:04:05",
        "12:34:56:78:9a:bc",
        "02:00:00:00:00:00",
    }
)
_MAX_BYTES: Final = 256


def machine(root: Path = Path("/")) -> tuple[str, ...]:
    """Return hashes of what the hardware is called by; none: nothing says so.

    Args:
        root: where /proc and /sys are.
    """
    found = [
        _hashed(label, serial)
        for label, name in _SERIALS.items()
        if _says(serial := _text(root / name).strip("\0").strip().lower())
    ]
    found += [_hashed("mac", address) for address in sorted(set(_addresses(root)))]
    return tuple(found[:MAX_NAMES])


def _addresses(root: Path) -> Iterator[str]:
    """Yield addresses of network hardware that is built in."""
    for interface in (root / _NETWORK).glob("*"):
        device = interface / "device"
        if not device.exists() or _PLUGGED in os.path.realpath(device):
            continue
        own = _text(interface / "addr_assign_type").strip() in {"", _OWN_ADDRESS}
        if own and _says(address := _text(interface / "address").strip().lower()):
            yield address


def _says(found: str) -> bool:
    """Whether it is one device's: neither what makers leave there nor the same all through."""
    return found not in _NOTHING and len(set(found) - set(" .:-_")) > 1


def _hashed(label: str, found: str) -> str:
    return hashlib.sha256(f"{_MARK}{label}\0{found}".encode()).hexdigest()


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:  # not there, or for root alone
        return ""
