"""Two exports of each target with one lock file: the same bytes."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from edgeslm import providers
from edgeslm.runtime.profiles import detect_profile, load_profile
from exporters import targets
from exporters.export import MEASUREMENTS
from exporters.tune.lock import LOCK

# A device of each target.
PROFILES: Final = {
    "cpu": "generic-x86_64-avx2",
    "coreml": "apple-silicon",
    "cuda": "generic-cuda",
    "openvino": "intel-core-ultra",
    "qnn": "rb3-gen2",
}
# Targets that compile and judge with the provider's own package.
_NEED_THEIRS: Final = frozenset({"qnn"})


def test_every_target_is_held_to_it() -> None:
    names = {info.name for info in pkgutil.iter_modules(targets.__path__)}
    assert names - {"base"} == set(PROFILES)
    for provider, profile in PROFILES.items():
        assert load_profile(profile).providers[0] == provider


@pytest.mark.slow  # test_export and test_tune hold it in one process
@pytest.mark.parametrize("provider", PROFILES)
def test_two_exports_with_one_lock_file_are_the_same_bytes(
    provider: str, toy_model: Path, orders: Path, tmp_path: Path
) -> None:
    """Each in a process and with a cache of its own, and with another order of what is hashed."""
    if provider in _NEED_THEIRS:
        own = providers.load(provider)
        assert own is not None
        if problem := own.problem():
            pytest.skip(problem)
    profile = detect_profile().name if provider == "cpu" else PROFILES[provider]
    first, second = (tmp_path / name for name in ("first", "second"))
    export(first, "1", "--model", str(toy_model), "--data", str(orders), "--profile", profile)
    lock = ("--lock", str(first / LOCK))
    export(
        second, "2", "--model", str(toy_model), "--data", str(orders), "--profile", profile, *lock
    )
    once, again = files(first), files(second)
    assert once.keys() == again.keys()
    assert [name for name in once if once[name] != again[name]] == []
    assert {"bundle.tar", "quality.json", LOCK} <= once.keys()


def export(out: Path, seed: str, *options: str) -> None:
    settings = {"PYTHONHASHSEED": seed, "EDGESLM_CACHE": str(out.with_suffix(".cache"))}
    argv = [
        *(sys.executable, "-m", "exporters.cli", "intent", "--name", "toy", "--version", "1"),
        *("--allow-drop", "--out", str(out), *options),
    ]
    done = subprocess.run(
        argv, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def files(folder: Path) -> dict[str, bytes]:
    """All that an export leaves, but for the times that it took."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MEASUREMENTS
    }
