"""What a user can get wrong with profiles, examples and folders: one line each, with its remedy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.providers import qnn
from exporters import cli
from tests.exporters.conftest import WORDS, without_notes, write_lines

pytestmark = pytest.mark.usefixtures("own_cache")

PROFILE = """\
name = "device"
description = "a device"
providers = {providers}
[requires]
{requires}
[cpu.int8]
reduce_range = false
[cpu]
precisions = {precisions}
[qnn]
soc_model = "SM8750"
htp_arch = "v79"
[gate]
accuracy_drop_max = 100.0
{more}
"""


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def words(toy_model: Path, orders: Path) -> list[str]:
    """Of `edgeslm-export`, all but the profile, the output and what a test adds."""
    return ["intent", "--model", str(toy_model), "--data", str(orders), "--name", "toy",
            "--version", "1"]  # fmt: skip


def profile(folder: Path, **change: str) -> str:
    keys = {"providers": '["cpu"]', "requires": "", "precisions": '["int8-dynamic"]', "more": ""}
    file = folder / "device.toml"
    # TOML wants a table before its subtables.
    text = PROFILE.format(**(keys | change))
    head, _, rest = text.partition("[cpu.int8]\nreduce_range = false\n")
    table, _, tail = rest.partition("[qnn]")
    file.write_text(f"{head}{table}[cpu.int8]\nreduce_range = false\n[qnn]{tail}")
    return str(file)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *, status: int, code: str) -> str:
    """Run; return the one line that was said."""
    assert cli.main(argv) == status
    out, err = capsys.readouterr()
    err = without_notes(err)
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith(f"[{code}]\n")
    return err


@pytest.mark.parametrize(
    ("change", "status", "code", "what"),
    [
        ({"providers": '["abacus"]'}, 65, "target.unknown", "one of coreml, cpu"),
        ({"requires": 'arch = "riscv64"'}, 78, "export.architecture", "aarch64, arm64, x86_64"),
        ({"requires": 'arch = "x86-64"'}, 78, "export.architecture", "uname -m"),
        ({"more": "[budget]\nsize_mb = 0.0001"}, 65, "export.over_budget", "Raise budget.size_mb"),
        ({"more": "[budget]\nlatency_ms = 1e-6"}, 65, "export.over_budget", "try --tune"),
    ],
    ids=["no target", "architecture", "misspelt architecture", "too large", "too slow"],
)
def test_a_profile_that_cannot_be_met(  # noqa: PLR0913, PLR0917 -- columns of the table
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    status: int,
    code: str,
    what: str,
) -> None:
    out = tmp_path / "out"
    argv = [*words, "--profile", profile(tmp_path, **change), "--out", str(out)]
    assert what in refused(argv, capsys, status=status, code=code)
    assert not out.exists()


def test_a_compiler_that_is_not_installed(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qnn, "problem", lambda: "onnxruntime-qnn is not installed")
    given = profile(tmp_path, providers='["qnn", "cpu"]')
    argv = [*words, "--profile", given, "--out", str(tmp_path / "out")]
    assert "onnxruntime-qnn" in refused(argv, capsys, status=65, code="target.no_compiler")


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["stop pump", "stop valve", "start pump", "start valve"], "4 different texts"),
        ([f"{a}{a}{b} {b}{a}" for a in "qwxyz" for b in "jkvbnm"], "unknown to the model"),
        (
            [f"{a} {b} {c}" for a in ("joke", "weather", "is") for b in WORDS[-6:] for c in "aC"],
            "0 % of the held-out texts' tokens occur in the training texts",
        ),
    ],
    ids=["too few", "of another tongue", "of something else"],
)
def test_examples_that_activations_cannot_be_measured_on(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[str],
    what: str,
) -> None:
    rows: list[dict[str, object]] = [
        {"text": text, "label": ("start", "stop")[i % 2]} for i, text in enumerate(texts)
    ]
    judged: list[dict[str, object]] = [{"text": "start oven", "label": "start"}]
    argv = [
        *words,
        *("--data", str(write_lines(tmp_path / "odd.jsonl", rows))),
        *("--eval", str(write_lines(tmp_path / "eval.jsonl", judged))),
        *("--profile", profile(tmp_path, precisions='["int8-static"]')),
        *("--reject-share", "0.2", "--out", str(tmp_path / "out")),
    ]
    said = refused(argv, capsys, status=65, code="export.calibration")
    assert what in said
    assert str(tmp_path / "odd.jsonl") in said


@pytest.mark.parametrize("place", ["a file", "below a file", "NUL", "endless"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "matrix"])
def test_an_output_folder_that_cannot_be(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    *,
    many: bool,
) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    out = {"a file": str(file), "below a file": f"{file}/x/out", "NUL": "a\0b",
           "endless": str(tmp_path / ("x" * 300))}[place]  # fmt: skip
    given = profile(tmp_path)
    argv = [*words, "--profile", given] if not many else ["matrix", "--profiles", given, *words]
    assert "choose another --out" in refused(
        [*argv, "--out", out], capsys, status=65, code="export.output"
    )
    assert file.read_text() == "mine"


def test_a_matrix_of_the_command_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 and a line for each profile that failed; 0 where none did."""
    given, out = profile(tmp_path), tmp_path / "out"
    assert cli.main(["matrix", "--profiles", f"{given}, toaster", *words, "--out", str(out)]) == 1
    said, err = capsys.readouterr()
    report = json.loads(said)
    assert report == {"out": str(out), **json.loads((out / "matrix.json").read_text())}
    assert [row["status"] for row in report["profiles"]] == ["made", "failed"]
    assert "edgeslm-export: toaster: toaster: no such device profile." in err
    assert cli.main(["matrix", "--profiles", given, *words, "--out", str(out)]) == 0


@pytest.mark.parametrize(
    "argv", [["matrix"], ["matrix", "--profiles", "a,,b", "intent"], ["matrix", "--profiles", "a"]]
)
def test_a_matrix_that_is_called_wrongly(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage: edgeslm-export matrix" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_keeps_the_profiles_that_are_whole(
    words: list[str], tmp_path: Path, own_cache: Path
) -> None:
    """As soon as the first of two is there, the process is told to stop."""
    (tmp_path / "other").mkdir()
    first, out = profile(tmp_path), tmp_path / "out"
    other = tmp_path / "other" / "slow.toml"
    text = Path(first).read_text().replace('"device"', '"slow"', 1)
    other.write_text(text.replace("reduce_range = false", "reduce_range = true"))
    process = subprocess.Popen(
        [sys.executable, "-m", "exporters.cli", "matrix", "--profiles", f"{first},{other}",
         *words, "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "EDGESLM_CACHE": str(own_cache)},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "device").is_dir():
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, without_notes(err)) == (130, "edgeslm-export: interrupted\n")
    assert (out / "device" / "bundle" / "manifest.json").is_file()
    assert not (out / "slow").exists()
    assert not list(tmp_path.glob(".out.*"))
    statuses = [row["status"] for row in json.loads((out / "matrix.json").read_text())["profiles"]]
    assert statuses in (["made", "waiting"], ["waiting", "waiting"])
