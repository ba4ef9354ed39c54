"""`edgeslm infer`: a result for every line, in order; the status says whether all are answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeslm.contract.messages import ADAPTERS
from tests.cli.conftest import COMMAND, Run
from tests.runtime import tiny

SAMPLE = b"""pump hot
{"text": "valve cold", "id": 7, "source": "press", "time": 3, "key": "k"}
{"text": 5}
\xff\xfe

{"no": "text"}
{"text": "\\u0000\\ud800"}
{"text": "unfinished
last"""


def results(raw: bytes) -> list[dict[str, Any]]:
    return [ADAPTERS["result"].validate_python(json.loads(line)) for line in raw.splitlines()]


def test_answers_every_line_in_order(run: Run, bundle: Path) -> None:
    done = run("infer", bundle, stdin=SAMPLE)
    assert done.returncode == 65
    got = results(done.stdout)
    assert [r["id"] for r in got] == ["1", "7", "3", "4", "5", "6", "7", "8", "9"]
    assert [r["error"]["code"] if "error" in r else r["label"] in tiny.LABELS for r in got] == [
        True,
        True,
        "input.field_type",
        "input.encoding",
        "input.empty",
        "input.field_missing",
        True,
        "input.not_json",
        True,
    ]
    assert (got[1]["source"], got[1]["time"], got[1]["key"]) == ("press", 3, "k")
    assert all(r["device"] == "local" and r["topic"] is None for r in got)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("form", "codes"),
    [
        ("text", [None, None, "input.empty"]),
        ("json", ["input.not_json", None, "input.not_json"]),
        ("auto", [None, None, "input.empty"]),
    ],
)
def test_form_of_the_lines(form: str, codes: list[str | None], run: Run, bundle: Path) -> None:
    done = run("infer", bundle, "--format", form, "--share", "text", stdin=b'a\n{"text": "b"}\n\n')
    got = results(done.stdout)
    assert [r.get("error", {}).get("code") for r in got] == codes
    assert got[1]["text"] == ('{"text": "b"}' if form == "text" else "b")


def test_a_broken_object_is_an_error_unless_lines_are_texts(run: Run, bundle: Path) -> None:
    broken = b'{"text": "a\n  {"temp": 5}\n[1]\n5 {\n'
    codes = [
        r.get("error", {}).get("code") for r in results(run("infer", bundle, stdin=broken).stdout)
    ]
    assert codes == ["input.not_json", "input.field_missing", None, None]
    done = run("infer", bundle, "--format", "text", stdin=broken)
    assert done.returncode == 0
    assert not any("error" in r for r in results(done.stdout))


def test_help_says_how_lines_are_read_and_what_has_no_source(run: Run) -> None:
    said = b" ".join(run("infer", "--help").stdout.split())
    assert b'a line that begins with "{" must be such an object' in said
    assert b"(source_known is false), unless --source names the machine" in said


@pytest.mark.parametrize(("closing", "name"), [("<&-", b"input"), (">&-", b"output")])
def test_a_closed_stream_is_named(
    bundle: Path, environment: dict[str, str], closing: str, name: bytes
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closing}', "sh", *COMMAND, "infer", str(bundle)],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 65
    assert done.stderr.startswith(b"edgeslm infer: standard %s is closed" % name)
    assert done.stderr.count(b"\n") == 1


def test_results_are_the_same_without_cache_and_with_any_threads(run: Run, bundle: Path) -> None:
    lines = b"".join(b"pump %d hot %s\n" % (i % 50, b"valve " * (i % 30)) for i in range(600))

    def answers(*args: str) -> list[dict[str, Any]]:
        done = run("infer", bundle, *args, stdin=lines)
        assert done.returncode == 0, done.stderr
        changing = {"time_in", "time_out", "latency_ms"}
        return [{k: v for k, v in r.items() if k not in changing} for r in results(done.stdout)]

    reference = answers("--no-cache", "--threads", "1")
    assert [r["id"] for r in reference] == [str(i + 1) for i in range(600)]
    assert answers("--threads", "8") == reference
    assert answers("--cache-entries", "3") == reference


def test_a_line_is_answered_before_the_next_is_written(
    bundle: Path, environment: dict[str, str]
) -> None:
    with subprocess.Popen(
        [*COMMAND, "infer", str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b"pump\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == str(number + 1)
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_reader_that_leaves_ends_it_quietly(bundle: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*COMMAND, "infer", str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"pump\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"pump\n")
        process.stdin.flush()  # and left open: it must not wait for more
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_a_line_without_end_takes_no_memory_and_one_result(run: Run, bundle: Path) -> None:
    done = run("infer", bundle, "--max-bytes", "100", stdin=b"x" * 3_000_000 + b"\npump\n")
    first, second = results(done.stdout)
    assert first["error"]["code"] == "input.too_long"
    assert second["label"] in tiny.LABELS


def test_nothing_in_nothing_out(run: Run, bundle: Path) -> None:
    done = run("infer", bundle)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["/nowhere"], 65, b"[bundle.missing]"),
        (["BUNDLE", "--profile", "nothing"], 78, b"[profile.invalid]"),
        (["BUNDLE", "--threads", "0"], 2, b"not in [1, 64]"),
        (["BUNDLE", "--max-bytes", "x"], 2, b"'x' is not a whole number"),
        ([], 2, b"bundle"),
    ],
)
def test_what_cannot_start_says_why(
    args: list[str], status: int, says: bytes, run: Run, bundle: Path
) -> None:
    done = run("infer", *(str(bundle) if arg == "BUNDLE" else arg for arg in args), stdin=b"a\n")
    assert done.returncode == status
    assert says in done.stderr
    assert done.stdout == b""


def test_a_hostile_file_cannot_write_to_the_terminal(run: Run, bundle: Path) -> None:
    (bundle / "manifest.json").write_text('{"schema_version": 1, "\x1b[31mred": 1}')
    done = run("infer", bundle)
    assert done.returncode == 65
    assert b"\x1b" not in done.stderr
