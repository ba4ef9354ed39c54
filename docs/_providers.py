"""The page of execution providers: what each is, and what was proved of it on which device."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import _tables

from edgeslm import providers
from edgeslm.contract.profile import DeviceProfile
from edgeslm.runtime.placement import PROVED
from edgeslm.runtime.profiles import load_profile, profile_names

_STRONGEST_FIRST: Final = tuple(PROVED)
_REMARK: Final = re.compile(r"^verified *=[^#\n]*# *(.*?)(?:; see .*)?$", re.MULTILINE)
_NOT_HOW: Final = frozenset({"int8"})  # a table of its own, for the kernels; the profile shows it


def page(root: Path, made: str) -> str:
    """Return the page.

    Args:
        root: of the repository.
        made: the remark that it is generated.
    """
    profiles = [load_profile(name) for name in profile_names()]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [
        "# Execution providers, and what is proved of each",
        "",
        made,
        "",
        "From the files of providers, targets and device profiles; nothing is claimed beyond what",
        "ran. A profile says where bundles for its first provider have run. Each graph of a bundle",
        "says it of itself, as its exporter found it (`edgeslm bundle inspect`). The proof for one",
        "device is `edgeslm bundle verify` and `edgeslm bench` on it.",
        "",
        *_tables.rows("Verified", "Meaning", of=[(f"`{w}`", m) for w, m in PROVED.items()]),
        "",
        "## Providers",
        "",
        *_tables.rows(
            "Provider",
            "Runs on",
            "Install",
            "Best proof",
            "First choice of",
            of=[_provider(root, key, profiles, extras) for key in providers.names()],
        ),
        "",
        "## Devices",
        "",
        *_tables.rows(
            "Profile",
            "Device",
            "Providers, best first",
            "Verified",
            "By",
            "The first must take",
            of=[_device(root, profile) for profile in profiles],
        ),
    ]
    for key in providers.names():
        lines += ["", f"## `{key}`", "", *_target(root, key, profiles)]
    return "\n".join([*lines, ""])


def _provider(
    root: Path, key: str, profiles: list[DeviceProfile], project: dict[str, object]
) -> tuple[str, ...]:
    what, _ = _doc(root / "edgeslm" / "providers" / f"{key}.py")
    first = [p for p in profiles if p.providers[0] == key]
    best = min((p.verified for p in first), key=_STRONGEST_FIRST.index, default="none")
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)  # noqa: S101 -- the build reads it so
    install = f"`edgeslm[{key}]`" if key in optional else "with `edgeslm`"
    names = ", ".join(f"`{p.name}`" for p in first) or "none"
    return f"`{key}`", what, install, f"`{best}`", names


def _device(root: Path, profile: DeviceProfile) -> tuple[str, ...]:
    asked = profile.placement
    share = f"{asked.min_coverage:.0%} of the nodes" if asked.min_coverage else "any share"
    if asked.max_partitions is not None:
        most = asked.max_partitions
        share += ", in one piece" if most == 1 else f", in at most {most} pieces"
    if not asked.cpu_fallback:
        share += "; no CPU fallback"
    order = ", ".join(f"`{key}`" for key in profile.providers)
    text = (root / "device-profiles" / f"{profile.name}.toml").read_text()
    remark = _REMARK.search(text)  # how it was verified, as the profile's author says beside it
    by = remark[1] if remark else ""
    return f"`{profile.name}`", profile.description, order, f"`{profile.verified}`", by, share


def _target(root: Path, key: str, profiles: list[DeviceProfile]) -> Iterator[str]:
    """Yield what the exporter makes for a provider, and how profiles have it."""
    file = root / "exporters" / "targets" / f"{key}.py"
    if not file.is_file():
        yield "The exporter has no target for it."
        return
    what, more = _doc(file)
    yield what
    if more:
        yield from ("", more)
    rows = []
    for profile in profiles:
        section = getattr(profile, key, None)
        if key in profile.providers and section is not None:
            said = section.model_dump(mode="json", exclude=_NOT_HOW, exclude_none=True)
            how = "; ".join(f"{name}: {_value(value)}" for name, value in said.items())
            rows.append((f"`{profile.name}`", how))
    if rows:
        yield from ("", *_tables.rows("Profile", "What it asks for", of=rows))


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _doc(file: Path) -> tuple[str, str]:
    """Return the docstring of a module: its first line, and what follows."""
    found = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    first, _, more = found.partition("\n")
    return first, more.strip()
