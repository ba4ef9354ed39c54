"""Device profiles: one TOML file per device type, for exporter and agent alike."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import edgeslm
from edgeslm.contract.base import parse_toml
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import ConfigError
from edgeslm.runtime.device import Device, this_device

_MAX_BYTES: Final = 65_536
_SUFFIX: Final = ".toml"
_PACKAGE: Final = Path(edgeslm.__file__).parent


class ProfileError(ConfigError):
    """A device profile is missing or wrong."""

    code = "profile.invalid"


def profile_names() -> list[str]:
    """Names of the profiles that ship with edgeslm, sorted."""
    return sorted(path.stem for path in _folder().glob(f"*{_SUFFIX}"))


def load_profile(name_or_file: str) -> DeviceProfile:
    """Return a profile by its name, or from a TOML file (its path ends in .toml).

    Raises:
        ProfileError: no such profile or file, or a key is unknown or wrong; names each.
    """
    if name_or_file.endswith(_SUFFIX):
        return _load(Path(name_or_file))
    if name_or_file not in profile_names():
        raise ProfileError(
            name_or_file, [("", "no such device profile")], remedy=_known("Give a .toml file, or")
        )
    return _load(_folder() / f"{name_or_file}{_SUFFIX}")


def detect_profile(device: Device | None = None) -> DeviceProfile:
    """Return the most demanding shipped profile that `device` (by default this one) satisfies.

    Raises:
        ProfileError: none fits, or a shipped file is wrong.
    """
    here = device or this_device()
    fitting = [p for p in map(load_profile, profile_names()) if here.lacks(p.requires) is None]
    if not fitting:
        what = f"no device profile fits {here.arch} ({here.cpu_model or 'unknown CPU'})"
        raise ProfileError(str(_folder()), [("", what)], remedy=_known("Write one; there are"))
    return max(fitting, key=_demands)


def _demands(profile: DeviceProfile) -> tuple[bool, bool, bool, int, str]:
    requires = profile.requires
    return (
        requires.soc is not None,
        profile.providers[0] == "cpu",  # whether an accelerator is there, no profile can tell
        bool(requires.cpu_features_any),
        len(requires.cpu_features),
        profile.name,
    )


def _load(path: Path) -> DeviceProfile:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise ProfileError(
            str(path), [("", what)], remedy=_known("Check the path, or use")
        ) from None
    if len(raw) > _MAX_BYTES:
        raise ProfileError(
            str(path), [("", f"longer than {_MAX_BYTES} bytes")], remedy="Is it a device profile?"
        )
    return parse_toml(
        DeviceProfile,
        raw,
        file=str(path),
        remedy="docs/device-profiles.md lists every key.",
        error=ProfileError,
    )


def _known(lead: str) -> str:
    return f"{lead} one of: {', '.join(profile_names()) or 'none'}."


def _folder() -> Path:
    """Where the profiles are: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "device-profiles"
    return installed if installed.is_dir() else _PACKAGE.parent / "device-profiles"
