"""SKAB, NAB and HDFS: what no single line shows; and what it costs to look."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks import bundles, cases
from benchmarks.answering import answers, answers_to, request
from benchmarks.figures import Measured
from benchmarks.groups.anomaly import Judged, answered, bad_ones, nearest
from benchmarks.rivals import tfidf
from benchmarks.setup import Setup
from benchmarks.stats import above, averaged, once
from edgeslm.adapters.process import trim
from edgeslm.agent.watch import Watch, sighting_of
from edgeslm.contract.routes import ModelSettings
from edgeslm.ports import Answer
from edgeslm.tasks.anomaly import DISTANCE, Anomaly, load
from exporters.data import ANOMALY, Row
from exporters.heads import anomaly

_PERCENT = 100.0
_NAB = {"nab-machine": "nab-machine-auroc", "nab-ambient": "nab-ambient-auroc"}
_ROUNDS = 7
_LINES = 3000
_SLOTS = 8


def skab(setup: Setup) -> dict[str, Measured]:
    """Rows of a pump's sensors as lines of text; each file is a source of one bundle."""
    train, unseen = cases.rows(setup, "skab", "train"), cases.rows(setup, "skab", "eval")
    bundle = bundles.anomaly(setup, "skab", train, unseen)
    scores, alarms = answered(setup, bundle, unseen)
    bad = bad_ones(unseen)
    rival_scores, rival_alarms = np.zeros(len(unseen)), np.zeros(len(unseen), np.bool_)
    ours, rivals = [], []
    for key in sorted({str(row.key) for row in unseen}, key=int):
        here = [i for i, row in enumerate(unseen) if row.key == key]
        setup.tell(f"the rival, file {key}")
        normal = [row for row in train if row.key == key]
        found = nearest(normal, [unseen[i] for i in here])
        rival_scores[here], rival_alarms[here] = found
        ours.append(float(roc_auc_score(bad[here], scores[here])))
        rivals.append(float(roc_auc_score(bad[here], rival_scores[here])))
    mine, theirs = (
        Judged(unseen, s, a) for s, a in ((scores, alarms), (rival_scores, rival_alarms))
    )
    return {
        "skab-auroc": averaged(ours, rivals),
        "skab-f1": once(mine.f1, theirs.f1),
        "skab-false-alarms": once(mine.false_alarms, theirs.false_alarms),
        "skab-missed": once(_missed(bad, alarms), _missed(bad, rival_alarms)),
    }


def nab(setup: Setup) -> dict[str, Measured]:
    """One temperature as lines of text, months of it, trained on its first days."""
    found = {}
    for case, name in _NAB.items():
        train, unseen = cases.rows(setup, case, "train"), cases.rows(setup, case, "eval")
        bundle = bundles.anomaly(setup, case, train, unseen)
        scores, _ = answered(setup, bundle, unseen)
        setup.tell(f"the rival, {case}")
        rival = tfidf.distances([row.text for row in train], [row.text for row in unseen])
        bad = bad_ones(unseen)
        found[name] = once(float(roc_auc_score(bad, scores)), float(roc_auc_score(bad, rival)))
    return found


def hdfs(setup: Setup) -> dict[str, Measured]:
    """Blocks of a file system, a session each, whose last lines are marked, or are not."""
    case = "hdfs-sessions"
    train, unseen = cases.rows(setup, case, "train"), cases.rows(setup, case, "eval")
    bundle = bundles.anomaly(setup, case, train, unseen)
    ends = {row.key: i for i, row in enumerate(unseen)}
    marked = [request(row)._replace(last=ends[row.key] == i) for i, row in enumerate(unseen)]
    scores, alarms = _of_sessions(unseen, answers_to(bundle, marked, tell=setup.tell))
    by_lines, raised = _of_sessions(unseen, answers(bundle, unseen, tell=setup.tell))
    labels = {row.key: row.label for row in unseen}
    bad = np.array([label == ANOMALY for label in labels.values()])
    setup.tell("the rival")
    normal = _whole(train)
    rival = tfidf.distances(normal, _whole(unseen))
    rival_alarms = rival > tfidf.threshold(normal, bundles.BUDGET)
    rival_auroc, rival_f1 = roc_auc_score(bad, rival), f1_score(bad, rival_alarms)
    return {
        "hdfs-auroc": once(float(roc_auc_score(bad, scores)), float(rival_auroc)),
        "hdfs-f1": once(float(f1_score(bad, alarms)), float(rival_f1)),
        "hdfs-lines-auroc": once(float(roc_auc_score(bad, by_lines)), float(rival_auroc)),
        "hdfs-lines-f1": once(float(f1_score(bad, raised)), float(rival_f1)),
    }


def memory_cost(setup: Setup) -> dict[str, Measured]:
    """Lines of eight sensors under keys, judged with and without all that knows their plant.

    In the second half each raises an alarm, which is explained. The floor has no windows, no
    sessions and no drift, and its lines stay calm, so that it explains next to nothing.
    """
    calm, unseen = _sensors(_LINES, wild=False), _sensors(_LINES, wild=True)
    known, plain = _fitted(calm), _fitted(calm, windows="none", sessions="off")
    trim()  # as the agent does when a model is loaded: what was fitted is not collected again
    ours: list[float] = []
    floors: list[float] = []
    for number in range(2 if setup.quick else _ROUNDS):
        setup.tell(f"round {number + 1}")
        ours.append(_cpu_us(known, unseen, _watch(known)))
        floors.append(_cpu_us(plain, calm, None))
    return {"memory-cost": above(ours, floors)}


def _of_sessions(
    rows: Sequence[Row], said: Sequence[Answer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the largest score of each session, and whether one of its lines was an alarm."""
    sessions: dict[str | None, list[Answer]] = defaultdict(list)
    for row, answer in zip(rows, said, strict=True):
        sessions[row.key].append(answer)
    scores = [max(answer.score for answer in lines) for lines in sessions.values()]
    alarms = [any(answer.label == ANOMALY for answer in lines) for lines in sessions.values()]
    return np.array(scores), np.array(alarms)


def _missed(bad: NDArray[np.bool_], alarms: NDArray[np.bool_]) -> float:
    return _PERCENT * float((~alarms[bad]).mean())


def _whole(rows: Sequence[Row]) -> list[str]:
    """The lines of each session as one text."""
    sessions: dict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        sessions[row.key].append(row.text)
    return ["\n".join(lines) for lines in sessions.values()]


def _sensors(lines: int, *, wild: bool) -> list[Row]:
    rng = np.random.default_rng(7)
    values = 50 + rng.normal(size=(lines, _SLOTS))  # steady, so that drift is tested on them
    if wild:
        values[lines // 2 :] *= 3
    names = [f"s{chr(97 + i)}=" for i in range(_SLOTS)]
    return [
        Row(
            " ".join(f"{name}{value:.4f}" for name, value in zip(names, row, strict=True)),
            source="pump",
            time=float(i),
            key=f"order {i // 10}",
        )
        for i, row in enumerate(values.tolist())
    ]


def _fitted(rows: Sequence[Row], **options: str) -> Anomaly:
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 1), np.float32)

    head = anomaly.fit(
        rows, embed, alarm_budget=bundles.BUDGET, seed=0, advance=lambda _: None, options=options
    )
    return load(head.parameters)


def _watch(task: Anomaly) -> Watch:
    """Return the agent's test of such a model for drift."""
    watch = Watch(ModelSettings())
    told = watch.begin(bundle="", task="anomaly", version=1, trained=task.trained)
    assert not list(told), "there was no model before it"  # noqa: S101
    return watch


def _cpu_us(task: Anomaly, rows: Sequence[Row], watch: Watch | None) -> float:
    """Return the CPU time of judging a line, without reading it; and of hearing its drift."""
    prepared = [task.prepare(request(row)) for row in rows]
    outputs = {DISTANCE: np.array(0.4, np.float32)}
    memory = task.memory()
    start = time.process_time()
    for one in prepared:
        answer = task.finish(one, outputs, truncated=False, memory=memory)
        sighting = None if watch is None else sighting_of(one.request, answer, "none")
        if watch is not None and sighting is not None:
            for _ in watch.take(sighting, wall=0.0):
                pass  # what is told of it
    return 1e6 * (time.process_time() - start) / len(rows)
