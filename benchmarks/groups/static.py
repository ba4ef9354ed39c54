"""Models without layers: how large, and how good beside the classic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sklearn.metrics import accuracy_score

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.rivals import tfidf
from benchmarks.setup import Setup
from benchmarks.stats import above, once
from edgeslm.runtime.bundle import open_bundle
from exporters.data import OUT_OF_SCOPE

_CASES: Final = ("clinc150", "banking77", "snips")
_MB: Final = 1e6


def static(setup: Setup) -> dict[str, Measured]:
    """Size of the largest, accuracy of each, and what int8 costs."""
    made = {case: bundles.static(setup, case) for case in _CASES}
    found: dict[str, Measured] = {}
    for case, bundle in made.items():
        if setup.wanted.intersection({f"static-{case}-accuracy", f"static-{case}-int8"}):
            found |= _accuracy(setup, case, bundle)
    if "static-size" in setup.wanted:
        rival = bundles.intent(setup, "clinc150")
        found["static-size"] = once(max(map(_megabytes, made.values())), _megabytes(rival))
    return found


def _accuracy(setup: Setup, case: str, bundle: Path) -> dict[str, Measured]:
    rows = [row for row in cases.rows(setup, case, "eval") if row.label != OUT_OF_SCOPE]
    truth = [str(row.label) for row in rows]
    said = [answer.label for answer in answers(bundle, rows, tell=setup.tell)]
    setup.tell("fitting the rival")
    known = [row for row in cases.rows(setup, case, "train") if row.label != OUT_OF_SCOPE]
    theirs, _ = tfidf.classify(
        [row.text for row in known],
        [str(row.label) for row in known],
        [row.text for row in rows],
    )
    ours = 100.0 * float(accuracy_score(truth, said))
    fp32 = float(bundles.quality(bundle)["fp32"]["accuracy"])
    return {
        f"static-{case}-accuracy": once(ours, 100.0 * float(accuracy_score(truth, theirs))),
        f"static-{case}-int8": above([ours], [fp32]),
    }


def _megabytes(bundle: Path) -> float:
    """Size of all that the manifest lists."""
    return sum(a.size for a in open_bundle(bundle, verify=False).manifest.artifacts) / _MB
