"""The README's table of figures, between two markers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.errors import RunFailedError
from benchmarks.figures import SPECS, Figure
from edgeslm.adapters.fs import write_durably

BEGIN: Final = "<!-- figures:begin -->"
END: Final = "<!-- figures:end -->"
_FASTEST: Final = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp", "avx512f", "avx2")
_KEY: Final = re.compile(
    r"^\| .* \| ([^|]+) \| [0-9a-f]+\+? \| `python -m benchmarks ([a-z0-9-]+)` \|$"
)

Key = tuple[str, str]
"""Of a row: the figure's name, and the processor it was measured on."""


def write(path: Path, figures: Sequence[Figure]) -> None:
    """Put `figures` into the table between the markers of the Markdown file `path`.

    Rows of figures that were not measured now, or on another processor, stay as they are, with
    their commit.

    Raises:
        RunFailedError: the file cannot be read, or has not exactly one pair of markers.
        OSError: it cannot be written.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        msg = f"{path.name}: cannot be read: {err}"
        raise RunFailedError(msg) from None
    found = filter(None, map(_KEY.search, text.splitlines()))
    kept = {(row[2], row[1]): row[0] for row in found}
    write_durably(path, placed(text, render(figures, kept), name=path.name).encode("utf-8"))


def placed(text: str, table: str, *, name: str) -> str:
    """Return `text` with `table` between its markers.

    Raises:
        RunFailedError: the markers are missing, doubled or in the wrong order.
    """
    before, _, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not ends or text.count(BEGIN) != 1 or text.count(END) != 1:
        msg = f"{name}: needs one line {BEGIN} and below it one line {END}"
        raise RunFailedError(msg)
    return f"{before}{BEGIN}\n{table}{END}{after}"


def render(figures: Sequence[Figure], kept: Mapping[Key, str] | None = None) -> str:
    """Return the table as Markdown, a blank line around it; `kept` are older rows."""
    head = (
        "What",
        "Measured",
        "Bound",
        "Rival or floor",
        "Its value",
        "Ratio",
        "Holds",
        "Processor",
        "Commit",
        "Command",
    )
    new = {(f.spec.name, processor(f.machine)): _row(_cells(f)) for f in figures}
    rows = {**(kept or {}), **new}
    ordered = [
        row for spec in SPECS for (name, _), row in sorted(rows.items()) if name == spec.name
    ]
    lines = [_row(head), _row(["---"] * len(head)), *ordered]
    return "\n" + "\n".join((*lines, "", _footnote(figures))) + "\n\n"


def _cells(figure: Figure) -> list[str]:
    spec = figure.spec
    unit = "" if spec.unit in {"AUROC", "F1"} else f" {spec.unit}"
    return [
        f"{spec.what} ({figure.measured.note})" if figure.measured.note else spec.what,
        f"{_short(figure.measured.value)}{unit}",
        _bound(figure),
        spec.rival,
        f"{_short(figure.measured.rival_value)}{unit}",
        "" if figure.ratio is None else _ratio(figure),
        "" if spec.bound is None else "yes" if figure.holds else "**no**",
        processor(figure.machine),
        f"{figure.commit[:7]}{'+' * figure.commit.endswith('+')}",
        f"`python -m benchmarks {spec.name}`",
    ]


def _bound(figure: Figure) -> str:
    spec = figure.spec
    if spec.bound is None:
        return "published"
    match spec.compared:
        case "ratio":
            return f"{spec.direction} {spec.bound:g}x"
        case "difference":
            sign = "-" if spec.bound < 0 else "+"
            return f"{spec.direction} rival {sign} {abs(spec.bound):g} {spec.unit}"
        case "value":
            return f"{spec.direction} {spec.bound:g}"


def _ratio(figure: Figure) -> str:
    if figure.spec.compared != "ratio":
        return f"{figure.ratio:.2f}"
    low, high = figure.measured.spread
    return f"{figure.ratio:.2f} ({low:.2f}-{high:.2f})"


def processor(machine: Mapping[str, object]) -> str:
    """Return what decides how fast int8 runs: the processor, and its best instructions for it."""
    flags = machine["flags"]
    best = [flag for flag in _FASTEST if isinstance(flags, list) and flag in flags][:1]
    return ", ".join([str(machine["cpu"]), *best])


def _footnote(figures: Sequence[Figure]) -> str:
    machine = figures[0].machine
    return (
        f"Last measured on {machine['cores']} cores of {processor(machine)} ({machine['arch']}),"
        f" {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']},"
        f" ONNX Runtime {machine['onnxruntime']}."
        " [docs/benchmarks.md](docs/benchmarks.md) says what each figure means."
    )


def _short(number: float) -> str:
    """Four significant digits, and no exponent."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"  # noqa: PLR2004


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
