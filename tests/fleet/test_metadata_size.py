"""What a device downloads when one bundle among many changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeslm.adapters.tuf import Trust
from edgeslm.contract.profile import DeviceProfile
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from edgeslm.runtime.profiles import load_profile, profile_names
from tests.fleet import kit

BOUND: Final = 60_000  # bytes
MODELS: Final = 20
PROFILES: Final = 13
VERSIONS: Final = 5


def variants(profile: DeviceProfile) -> dict[str | None, dict[str, Any]]:
    """The forms that the exporter makes for a profile, with what each needs."""
    needs = profile.requires.model_dump(mode="json", exclude_defaults=True)
    if profile.qnn is not None:
        context = {**needs, "accelerator": profile.qnn.htp_arch, "runtime": "2.51.0"}
        return {
            "qnn-context": {"provider": "qnn", "requires": context},
            "qnn-a16w8": {"provider": "qnn"},
            "fp32": {},
        }
    made: dict[str | None, dict[str, Any]] = {}
    for name in profile.providers:
        target = getattr(profile, name, None)
        for precision in getattr(target, "precisions", ("fp32",)):
            made[f"{name}-{precision}"] = {"provider": name, "requires": needs}
    return made


def test_a_change_of_one_bundle_costs_a_device_little(tmp_path: Path) -> None:
    profiles = [load_profile(name) for name in profile_names()][:PROFILES]
    assert len(profiles) == PROFILES

    def release(repository: Repository, version: int, folder: Path) -> None:
        made = [
            kit.bundle(
                folder / profile.name,
                version=version,
                profiles=[profile.name],
                variants=variants(profile),
                graph=f"{profile.name} {version}".encode(),
            )
            for profile in profiles
        ]
        add(repository, made, Stated())

    repository = kit.make(tmp_path / "fleet")
    for version in range(1, VERSIONS):
        release(repository, version, tmp_path / str(version))
    for number in range(1, MODELS):
        name = f"conveyor-{number}-alarms"
        add(repository, [kit.bundle(tmp_path / name, name=name)], Stated())
    root = repository.export_root()
    shelf = kit.Shelf(kit.published(repository))
    trust = Trust(tmp_path / "d", root, shelf)
    trust.refresh(repository.now())
    trust.offers("press")
    release(repository, VERSIONS, tmp_path / "new")
    shelf.files = kit.published(repository)
    shelf.taken.clear()
    trust.walk_roots()
    trust.refresh(repository.now())
    assert len(trust.offers("press")) == PROFILES * VERSIONS
    taken = dict(shelf.taken)
    assert {name.split(".")[-2] for name in taken} == {"timestamp", "snapshot", "model-press"}
    assert sum(taken.values()) <= BOUND, json.dumps(taken)
