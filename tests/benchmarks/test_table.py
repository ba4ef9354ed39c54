"""The README's table: written between its markers, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.errors import RunFailedError
from benchmarks.figures import SPECS, Figure, Measured

MACHINE = {
    "cpu": "a CPU",
    "arch": "x86_64",
    "flags": ["avx2"],
    "cores": 2,
    "memory_gb": 8,
    "system": "Linux 6.1",
    "python": "3.11",
    "onnxruntime": "1.31",
}
FIGURES = [Figure(s, Measured(3.0, 2.0, (2.5, 3.5)), MACHINE, "0123456789ab") for s in SPECS]


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{table.BEGIN}\nyesterday\n{table.END}\n\nThe end.\n")
    return path


def test_writing_twice_changes_nothing(readme: Path) -> None:
    table.write(readme, FIGURES)
    once = readme.read_bytes()
    table.write(readme, FIGURES)
    assert readme.read_bytes() == once


def test_what_stands_around_the_markers_stays(readme: Path) -> None:
    table.write(readme, FIGURES)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{table.BEGIN}\n")
    assert text.endswith(f"{table.END}\n\nThe end.\n")
    assert "yesterday" not in text


def test_rows_that_were_not_measured_now_stay(readme: Path) -> None:
    table.write(readme, FIGURES)
    before = readme.read_text().splitlines()
    later = Figure(SPECS[0], Measured(9.5, 2.0, (2.5, 3.5)), MACHINE, "fedcba987654")
    table.write(readme, [later])
    changed = [
        new for old, new in zip(before, readme.read_text().splitlines(), strict=True) if old != new
    ]
    assert len(changed) == 1
    assert "fedcba9" in changed[0]


def test_rows_of_another_processor_stay_beside_the_new_ones(readme: Path) -> None:
    table.write(readme, FIGURES)
    faster = {**MACHINE, "flags": ["avx2", "avx512_vnni"]}
    there = Figure(SPECS[0], Measured(9.5, 2.0, (2.5, 3.5)), faster, "fedcba987654")
    table.write(readme, [there])
    command = f"`python -m benchmarks {SPECS[0].name}`"
    rows = [line for line in readme.read_text().splitlines() if command in line]
    assert [" a CPU, avx2 |" in row for row in rows] == [True, False]
    assert " a CPU, avx512_vnni | fedcba9 |" in rows[1]


def test_every_figure_has_a_row_with_its_command() -> None:
    rendered = table.render(FIGURES)
    for spec in SPECS:
        assert rendered.count(f"`python -m benchmarks {spec.name}`") == 1


def test_every_row_has_as_many_cells_as_the_head() -> None:
    rows = [line for line in table.render(FIGURES).splitlines() if line.startswith("|")]
    assert len(rows) == len(FIGURES) + 2
    assert {row.count("|") for row in rows} == {11}


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        table.BEGIN,
        f"{table.END}{table.BEGIN}",
        f"{table.BEGIN}{table.BEGIN}{table.END}",
        f"{table.BEGIN}{table.END}{table.END}",
    ],
)
def test_a_file_without_one_pair_of_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(RunFailedError, match="figures:begin"):
        table.write(path, FIGURES)
    assert path.read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"absent\.md"):
        table.write(tmp_path / "absent.md", FIGURES)


def test_a_row_says_what_is_unlike_the_usual() -> None:
    emulated = Measured(3.0, 2.0, (2.5, 3.5), note="emulated: a CPU")
    row = table.render([Figure(SPECS[0], emulated, MACHINE, "0123456789ab")]).splitlines()[3]
    assert row.startswith(f"| {SPECS[0].what} (emulated: a CPU) |")
