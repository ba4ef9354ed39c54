"""CLINC150 made smaller: a pruned vocabulary, and a student of three layers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks import bundles, cases
from benchmarks.answering import answers
from benchmarks.figures import Measured
from benchmarks.groups.intent import accuracy
from benchmarks.setup import Setup
from benchmarks.stats import above, once, paired
from benchmarks.turns import Contestant, in_turns
from edgeslm.adapters.ort import make_session
from edgeslm.contract.manifest import Artifact
from edgeslm.providers import cpu
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.tokenizer import Tokenizer

_CASE: Final = "clinc150"
_PRUNED: Final = ("--prune-vocab", "2")
_STUDENT: Final = ("--student", "layers=3", "--prune-vocab", "2", "--max-tokens", "64")
_TEXTS: Final = 200
_QUICK_TEXTS: Final = 20
_TOKENS: Final = 64


def pruned(setup: Setup) -> dict[str, Measured]:
    """The trained model with its plant's vocabulary alone, beside the same with all of it."""
    small, whole = bundles.trained(setup, _CASE, *_PRUNED), bundles.trained(setup, _CASE)
    told = _accuracy(setup, small)
    return {
        "clinc150-pruned-size": once(_megabytes(small), _megabytes(whole)),
        "clinc150-pruned-accuracy": once(told, _accuracy(setup, whole)),
        "clinc150-pruned-int8": above([told], [_fp32(small)]),
    }


def distilled(setup: Setup) -> dict[str, Measured]:
    """A student of three layers and a pruned vocabulary, beside its teacher of six."""
    student, teacher = bundles.student(setup, _CASE, *_STUDENT), bundles.trained(setup, _CASE)
    texts = [row.text for row in cases.rows(setup, _CASE, "eval")]
    texts = texts[:: max(1, len(texts) // (_QUICK_TEXTS if setup.quick else _TEXTS))]
    took = in_turns(setup, _contestant(student, texts), _contestant(teacher, texts))
    ours, rivals = ([1000 * seconds / len(texts) for seconds in one] for one in took)
    told = _accuracy(setup, student)
    return {
        "clinc150-student-size": once(_megabytes(student), _megabytes(teacher)),
        "clinc150-student-accuracy": once(told, _accuracy(setup, teacher)),
        "clinc150-student-int8": above([told], [_fp32(student)]),
        "clinc150-student-time": paired(ours, rivals),
    }


def _accuracy(setup: Setup, bundle: Path) -> float:
    unseen = cases.rows(setup, _CASE, "eval")
    answered = answers(bundle, unseen, tell=setup.tell)
    return accuracy(unseen, [answer.label for answer in answered])


def _fp32(bundle: Path) -> float:
    """Accuracy of the same before it was quantized."""
    return float(bundles.quality(bundle)["fp32"]["accuracy"])


def _megabytes(bundle: Path) -> float:
    """Graph and weights of the variant that runs first."""
    opened = open_bundle(bundle)
    files = opened.of(opened.manifest.variants()[0])
    return sum(a.size for role in ("graph", "weights") for a in files.artifacts(role)) / 1e6


def _contestant(bundle: Path, texts: list[str]) -> Contestant:
    """One text at a time and one thread, opened as a device opens it."""
    session = make_session(bundle / _graph(bundle).path, options=cpu.options(_graph(bundle)))
    tokenizer = Tokenizer((bundle / "tokenizer.json").read_bytes(), max_tokens=_TOKENS)
    read = [tokenizer.encode(text)[0] for text in texts]
    return session.run, [{name: feed[name] for name in session.inputs} for feed in read]


def _graph(bundle: Path) -> Artifact:
    opened = open_bundle(bundle)
    [graph] = opened.of(opened.manifest.variants()[0]).artifacts("graph")
    return graph
