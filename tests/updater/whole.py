"""All of a device but its agent, in folders: a fleet's repository, sticks, settings."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

from edgeslm.agent.desired import Desired
from edgeslm.agent.shelf import Shelf
from edgeslm.contract.settings import load_settings
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.director import Wish
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository, init_repository
from edgeslm.runtime.model import load_model
from tests.agent.kit import brittle_bundle, toml
from tests.fleet import kit
from tests.runtime import tiny

DEVICE: Final = "dev1"
MODEL: Final = "brittle"
PASSPHRASE: Final = "a passphrase of tests"  # noqa: S105 -- of tests
QUICK_PROFILE: Final = """\
name = "quick"
description = "A device whose trials are over at once"
providers = ["cpu"]
[requires]
[cpu.int8]
reduce_range = true
[trial]
duration_s = 0.0
"""


def large_bundle(folder: Path, version: int, blocks: int = 8) -> Path:
    """A bundle of so many blocks, others in each version."""
    model = tiny.graph()
    rows = blocks * 128 * 1024 // (4 * len(tiny.LABELS)) - 4000
    table = np.random.default_rng(version).normal(size=(rows, len(tiny.LABELS)))
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            tensor.CopyFrom(numpy_helper.from_array(table.astype(np.float32), "table"))
    assert isinstance(model, onnx.ModelProto)
    return brittle_bundle(folder, model=model, version=version, label=f"read by {version}")


class Fleet:
    """A repository with versions 1 and 2 of one model, and a device's settings."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.repository: Repository = init_repository(
            folder / "fleet", Passphrases(variable=PASSPHRASE), FleetConfig()
        )
        self.root = folder / "root.json"
        self.root.write_bytes(self.repository.store.read("1.root.json"))
        self.bundles: dict[int, Path] = {}
        self.profile = folder / "quick.toml"
        self.profile.write_text(QUICK_PROFILE)
        self.settings = settings

    @classmethod
    def reopened(cls, folder: Path, copy: Path) -> Fleet:
        """Return a copy of one, to be changed; its bundles stay where they are."""
        shutil.copytree(folder, copy)
        made = cls.__new__(cls)
        made.folder, made.settings = copy, {}
        made.repository = Repository(copy / "fleet", Passphrases(variable=PASSPHRASE))
        made.root, made.profile = copy / "root.json", copy / "quick.toml"
        made.bundles = {n: copy / f"v{n}" for n in range(1, 4) if (copy / f"v{n}").exists()}
        return made

    def offer(self, version: int, bundle: Path | None = None) -> None:
        self.bundles[version] = bundle or large_bundle(self.folder / f"v{version}", version)
        add(self.repository, [self.bundles[version]], Stated())

    def assign(self, version: int, **wish: Any) -> None:
        kit.assign(self.repository, DEVICE, Wish(models={MODEL: version}, **wish))

    def stick(self, name: str) -> Path:
        kit.write_stick(self.repository, self.folder / name, [DEVICE])
        return self.folder / name

    def configure(self, folder: Path, port: int = 1) -> Path:
        """Write a device's settings; its state is in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        said: dict[str, Any] = {
            "device_id": DEVICE,
            "state_dir": folder / "state",
            "runtime_dir": folder / "run",
            "profile": self.profile,
            "uplink": {"host": "127.0.0.1", "port": port},
            "models": {MODEL: {"bundle": self.bundles[1]}},
            "update": {"root": self.root, "dir": folder / "updater", "load_s": 10.0},
            **self.settings,
        }
        config = folder / "agent.toml"
        config.write_text("".join(f"{k} = {toml(v)}\n" for k, v in said.items()))
        (folder / "run").mkdir(exist_ok=True)
        return config


def command(config: Path, stick: Path) -> list[str]:
    """`edgeslm update --from STICK`."""
    return [
        *(sys.executable, "-B", "-m", "edgeslm", "update", "--config", str(config)),
        *("--trust-clock", "--from", str(stick)),
    ]


def comes_up(config: Path) -> int:
    """Return the version that an agent that starts now would serve; its golden file passes."""
    settings = load_settings(config)
    assert settings.update is not None
    told: list[str] = []
    desired = Desired(settings, Shelf(settings.update.dir), lambda *why: told.append(why[2]))
    desired.read()
    assert not told, told
    source = desired.fitting().sources[MODEL][0]
    return load_model(source.path, expected=source.hash, verdict_dir=None).ref["version"]
