"""Ten examples a label: an encoder trained on them, beside a head on the encoder as it is."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import averaged
from exporters.data import Row

EACH: Final = 10
_DRAWS: Final = 3
_QUICK_DRAWS: Final = 1


def few_banking77(setup: Setup) -> dict[str, Measured]:
    """Accuracy, mean of the draws."""
    return _measure(setup, "banking77")


def few_snips(setup: Setup) -> dict[str, Measured]:
    """Accuracy, mean of the draws."""
    return _measure(setup, "snips")


def draw(rows: Sequence[Row], *, seed: int) -> list[Row]:
    """Return `EACH` texts of each label, in the order of the file.

    Those whose hash with the seed is least: no draw depends on the order of rows, and a text is in
    one draw or another by chance.
    """
    by_label: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_label[str(row.label)].setdefault(row.text, row)

    def rank(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{text}".encode()).digest()

    chosen = {
        (label, text)
        for label, texts in by_label.items()
        for text in sorted(texts, key=rank)[:EACH]
    }
    return [row for row in dict.fromkeys(rows) if (str(row.label), row.text) in chosen]


def _measure(setup: Setup, case: str) -> dict[str, Measured]:
    judged = cases.rows(setup, case, "eval")
    train = cases.rows(setup, case, "train")
    ours, heads, fp32 = [], [], []
    for seed in range(_QUICK_DRAWS if setup.quick else _DRAWS):
        drawn = draw(train, seed=seed)
        trained = bundles.few(setup, f"{case}-few{seed}", drawn, judged, "--train", "few")
        head = bundles.few(setup, f"{case}-head{seed}", drawn, judged)
        ours.append(_accuracy(setup, trained, judged))
        heads.append(_accuracy(setup, head, judged))
        fp32.append(float(bundles.quality(trained)["fp32"]["accuracy"]))
    lost = [a - b for a, b in zip(ours, fp32, strict=True)]
    return {
        f"few-{case}-accuracy": averaged(ours, heads),
        f"few-{case}-int8": Measured(fmean(ours), fmean(fp32), (min(lost), max(lost))),
    }


def _accuracy(setup: Setup, bundle: Path, judged: Sequence[Row]) -> float:
    """Return the share, in per cent, of rows whose label is the bundle's best."""
    said = answers(bundle, judged, tell=setup.tell)
    right = [answer.label == row.label for answer, row in zip(said, judged, strict=True)]
    return 100.0 * fmean(right)
