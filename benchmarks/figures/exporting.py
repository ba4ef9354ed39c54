"""Exports: many at a time, the same bytes again, and recipes that are searched."""

from __future__ import annotations

from typing import Final

from benchmarks.figures.base import Spec

_OPTIMUM: Final = "optimum's default int8 for this CPU, the same kind of head"
_OLIVE: Final = "Olive's int8 passes for the CPU, named by hand, the same kind of head"

EXPORTING: Final[tuple[Spec, ...]] = (
    Spec(
        "matrix-time",
        "matrix",
        "six profiles in one matrix, against six exports: wall time",
        "s",
        "six single exports, the encoder exported before",
        "<=",
        0.6,
        "ratio",
    ),
    Spec(
        "identical-exports",
        "identical",
        "two exports of each target with one lock file: files that differ",
        "files",
        "none",
        "<=",
        0,
    ),
    Spec(
        "tune-latency",
        "tune",
        "recipe found by --tune: batch 1, 16 to 32 tokens, one thread",
        "ms",
        _OPTIMUM,
        "<=",
        0.8,
        "ratio",
    ),
    Spec(
        "tune-throughput",
        "tune",
        "recipe found by --tune: texts a second, all cores",
        "texts/s",
        _OPTIMUM,
        ">=",
        1.25,
        "ratio",
    ),
    Spec(
        "tune-batched",
        "tune",
        "recipe found by --tune: texts a second, the rival in batches that its answers depend on",
        "texts/s",
        _OPTIMUM,
        ">=",
        None,
        "ratio",
    ),
    Spec(
        "tune-accuracy",
        "tune",
        "recipe found by --tune: accuracy on BANKING77",
        "%",
        _OPTIMUM,
        ">=",
        0,
        "difference",
    ),
    Spec(
        "tune-olive-latency",
        "olive",
        "recipe found by --tune: batch 1, 16 to 32 tokens, one thread",
        "ms",
        _OLIVE,
        "<=",
        1.0,
        "ratio",
    ),
    Spec(
        "tune-olive-throughput",
        "olive",
        "recipe found by --tune: texts a second, all cores",
        "texts/s",
        _OLIVE,
        ">=",
        1.0,
        "ratio",
    ),
    Spec(
        "tune-olive-batched",
        "olive",
        "recipe found by --tune: texts a second, the rival in batches that its answers depend on",
        "texts/s",
        _OLIVE,
        ">=",
        None,
        "ratio",
    ),
    Spec(
        "tune-olive-accuracy",
        "olive",
        "recipe found by --tune: accuracy on BANKING77",
        "%",
        _OLIVE,
        ">=",
        0,
        "difference",
    ),
)
