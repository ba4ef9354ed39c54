"""Replays a bundle's golden file through the device's own code, before its answers are trusted."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import tokenizers

import edgeslm
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.base import parse_json
from edgeslm.contract.golden import GoldenCase
from edgeslm.contract.manifest import Tolerance
from edgeslm.errors import EdgeSLMError, InvalidFileError, RejectedError
from edgeslm.ports import Answer, Request
from edgeslm.runtime.device import Device

_MAX_BYTES: Final = 16 * 1024 * 1024
_MAX_CASES: Final = 4096
_SHOWN: Final = 3
_REST: Final = 3.0  # times as long as a case took
_REST_MAX_S: Final = 0.05
_REMEDY: Final = "Export the bundle again."


class GoldenInvalidError(InvalidFileError):
    """The golden file is not one; names each line."""

    code = "golden.invalid"


class GoldenFailedError(RejectedError):
    """This device does not answer as the exporter's machine did.

    Args:
        mismatches: one sentence per case that differs; quotes no text.
        cases: how many were replayed.
    """

    code = "golden.failed"

    def __init__(self, mismatches: Sequence[str], *, cases: int) -> None:
        first = "; ".join(mismatches[:_SHOWN])
        super().__init__(
            f"{len(mismatches)} of {cases} golden cases differ: {first}. "
            "Export the bundle for this device's profile."
        )
        self.mismatches = mismatches
        self.cases = cases


def parse_golden(raw: bytes) -> list[GoldenCase]:
    """Return the cases of a golden file: JSON lines, at least one.

    Raises:
        GoldenInvalidError: not UTF-8, too long, no case, or a line is wrong; names the first.
    """
    file = "golden.jsonl"
    if len(raw) > _MAX_BYTES:
        raise GoldenInvalidError(file, [("", f"longer than {_MAX_BYTES} bytes")], remedy=_REMEDY)
    cases: list[GoldenCase] = []
    # At line feeds alone: JSON text may hold other line separators.
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(cases) == _MAX_CASES:
            raise GoldenInvalidError(file, [("", f"over {_MAX_CASES} cases")], remedy=_REMEDY)
        where = f"{file}:{number}"
        cases.append(
            parse_json(GoldenCase, line, file=where, remedy=_REMEDY, error=GoldenInvalidError)
        )
    if not cases:
        raise GoldenInvalidError(file, [("", "holds no case")], remedy=_REMEDY)
    return cases


def faults(cases: Sequence[GoldenCase]) -> tuple[Request, ...]:
    """Return what whoever exported it has labelled an anomaly; nothing of bundles of before."""
    return tuple(Request(case.request.text, case.request.source) for case in cases if case.fault)


def replay(
    cases: Sequence[GoldenCase],
    answer: Callable[[Request], Answer],
    tolerance: Tolerance,
    *,
    gently: bool = False,
) -> None:
    """Hold the answers to `cases` against what they expect.

    Scores and confidences may differ by `tolerance`; labels and verdicts must be equal, except
    near the threshold, where a score within its tolerance may fall on either side.

    With `gently` most of the time is left to others: a model serves meanwhile.

    Raises:
        GoldenFailedError: some differ by more.
    """
    mismatches = []
    for number, case in enumerate(cases, 1):
        asked = case.request
        began = time.monotonic()
        try:
            got = answer(Request(asked.text, asked.source, asked.time, asked.key))
        except Exception as err:  # noqa: BLE001 -- a graph whose outputs do not fit its task
            what = str(err) if isinstance(err, EdgeSLMError) else type(err).__name__
            mismatches.append(f"case {number}: no answer: {what}")
            continue
        if gently:
            time.sleep(min(_REST_MAX_S, _REST * (time.monotonic() - began)))
        if wrong := _differences(case, got, tolerance):
            mismatches.append(f"case {number}: {', '.join(wrong)}")
    if mismatches:
        raise GoldenFailedError(mismatches, cases=len(cases))


def _differences(case: GoldenCase, got: Answer, tolerance: Tolerance) -> list[str]:
    want = case.expect
    wrong = []
    for name, expected, value, bound in (
        ("score", want.score, got.score, tolerance.score),
        ("confidence", want.confidence, got.confidence, tolerance.confidence),
    ):
        if not abs(value - expected) <= bound:  # so that NaN is a difference
            wrong.append(f"{name} {value:.6g}, expected {expected:.6g} within {bound:g}")
    if got.stage != want.stage:
        wrong.append(f"stage {got.stage}, expected {want.stage}")
    if not case.near_threshold:
        if got.label != want.label:
            wrong.append(f"label {got.label!r}, expected {want.label!r}")
        if got.accepted != want.accepted:
            wrong.append(f"accepted {got.accepted}, expected {want.accepted}")
    return wrong


def user_verdicts() -> Path | None:
    """Where commands that a person runs keep verdicts; None without a home."""
    # `Path.expanduser` raises where there is none.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(cache) / "edgeslm" / "verdicts" if Path(cache).is_absolute() else None


class Verdicts:
    """Remembers which bundles have passed on this device, with this software.

    Only passes are kept: a failure is replayed, since a repaired device should not be refused.

    Args:
        folder: where; None remembers nothing.
        device: this machine.
        runtime: provider and version of its runtime.
        variant: of the bundle: each has a golden file of its own.
    """

    def __init__(
        self, folder: Path | None, *, device: Device, runtime: str, variant: str | None = None
    ) -> None:
        self._folder = folder
        self._here = {
            "edgeslm": edgeslm.__version__,
            "variant": variant,
            "runtime": runtime,
            "numpy": np.__version__,
            "tokenizers": tokenizers.__version__,
            "arch": device.arch,
            "cpu": device.cpu_model,
            # Kernels are chosen by these, and a virtual machine may hide some of its CPU's.
            "cpu_features": hashlib.sha256(
                " ".join(sorted(device.cpu_features)).encode()
            ).hexdigest(),
        }

    def passed(self, bundle_hash: str) -> bool:
        """Whether this bundle has passed here before."""
        if self._folder is None:
            return False
        try:
            return self._file(bundle_hash).read_bytes() == self._text(bundle_hash)
        except OSError:
            return False

    def remember(self, bundle_hash: str) -> None:
        """Keep that it passed. A disk that refuses costs a replay at the next start, no more."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(self._file(bundle_hash), self._text(bundle_hash))
        except OSError:
            return

    def _text(self, bundle_hash: str) -> bytes:
        return json.dumps({"passed": bundle_hash, **self._here}, indent=1).encode()

    def _file(self, bundle_hash: str) -> Path:
        assert self._folder is not None  # noqa: S101 -- both callers have looked
        return self._folder / f"{bundle_hash}.json"
