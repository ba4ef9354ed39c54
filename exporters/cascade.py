"""Two exports as one bundle, whose first stage answers what it is sure of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm.contract.manifest import CASCADE, Tolerance
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Answer
from edgeslm.runtime.bundle import MANIFEST, open_bundle
from edgeslm.runtime.cascade import CascadeError, CascadeParameters
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.variants import CPU
from exporters import recipes
from exporters.budget import check_latency, latency_ms, over_size
from exporters.bundle import write_tar
from exporters.cascade_bundle import Names, Part, Writer, widest
from exporters.data import OUT_OF_SCOPE, DataError, Row, contradictions, read_rows
from exporters.evaluation.measures import Metrics
from exporters.export import BUNDLE, QUALITY, TAR, check_name
from exporters.folders import beside, check_out, replace_folder
from exporters.golden import POOL, Judged, Twin, choose, golden_file, pick, strange_rows
from exporters.handover import FewTextsError, HandOver, find, settled
from exporters.members import Member, member
from exporters.mlbom import ML_BOM, Origins, StageOrigin, ml_bom
from exporters.quality import answer_all, request_of, short, tidy
from exporters.report import write_reports
from exporters.report.content import Content, Judgement, Reference
from exporters.sources.base import sha256_of
from exporters.workbench import Stage as Announce

TASK: Final = "intent"
SECOND: Final = Reference("second", "second alone")
"""What a cascade is held against."""
RECALL: Final = "oos_recall"
_ROUNDING: Final = 1e-9  # of points that are differences of percentages
_SHOWN: Final = 5


class LossError(RejectedError):
    """The whole loses more accuracy against its second stage than was asked for."""

    code = "cascade.loss"


@dataclass(frozen=True, slots=True)
class Order:
    """One cascade, as the user asked for it; see `edgeslm-export cascade --help`."""

    first: Path
    second: Path
    data: Path
    lose: float
    profile: str
    name: str
    version: int
    out: Path
    evaluation: Path | None = None
    supported_until: str | None = None
    allow_drop: bool = False


def make(order: Order, stage: Announce) -> dict[str, Any]:
    """Make the bundle, its tar and its reports in `order.out`; return what `quality.json` says.

    Raises:
        CascadeError: the two cannot go together.
        FewTextsError: the texts are too few to find a hand-over by.
        DataError: they cannot be used.
        LossError: more is lost than was allowed.
        RejectedError: of other kinds; nothing is left behind.
        UnavailableError: the disk refuses.
    """
    check_name(order.name)
    check_out(order.out, holds=f"{BUNDLE}/{MANIFEST}")
    profile = load_profile(order.profile)
    first, second = member(order.first, "--first"), member(order.second, "--second")
    _check_alike(first, second, profile)
    examples = _examples(order, first, second)
    with beside(order.out) as scratch:
        making = _Making(order, profile, first, second, examples, scratch / "out", stage)
        report = making.run()
        replace_folder(scratch / "out", order.out)
    return report


def _check_alike(first: Member, second: Member, profile: DeviceProfile) -> None:
    """Make sure that two exports can be stages of one cascade.

    Raises:
        CascadeError: they cannot; says why.
    """
    one, other = first.bundle.manifest, second.bundle.manifest
    for option, manifest in ((first.option, one), (second.option, other)):
        if manifest.task != TASK:
            msg = f"{option}: its task is {manifest.task}; a cascade is of {TASK} alone"
            raise CascadeError(msg)
        if CASCADE in manifest.requires:
            msg = f"{option}: is a cascade itself. Give one of the exports it was made of."
            raise CascadeError(msg)
        if profile.name not in manifest.profiles:
            msg = (
                f"{option}: made for {', '.join(manifest.profiles)}. Export it for {profile.name}."
            )
            raise CascadeError(msg)
    if one.max_tokens != other.max_tokens:
        msg = (
            f"{first.option} reads {one.max_tokens} tokens of a text, {second.option} "
            f"{other.max_tokens}: export both with the same --max-tokens"
        )
        raise CascadeError(msg)
    if alone := sorted(first.labels ^ second.labels):
        shown = ", ".join(map(repr, alone[:_SHOWN])) + ", ..." * (len(alone) > _SHOWN)
        msg = f"{len(alone)} labels are of one stage alone ({shown}): train both on the same"
        raise CascadeError(msg)


@dataclass(frozen=True, slots=True)
class _Examples:
    """Texts of a cascade.

    Args:
        unseen: in scope, fitted on by neither stage: what the hand-over loses is told by them.
        outside: out of scope; what the first may reject for good, it is worth it for.
        judged: to judge the whole by.
        cautions: what the user should know of them, a sentence each.
    """

    unseen: list[Row]
    outside: list[Row]
    judged: list[Row]
    cautions: list[str]


def _examples(order: Order, first: Member, second: Member) -> _Examples:
    """Read the texts.

    Raises:
        DataError: they are none of these labels.
        CascadeError: one of the stages was fitted on all of them.
    """
    rows = _labelled(order.data, first)
    fresh = [
        one and other
        for one, other in zip(
            first.unseen(rows, order.data), second.unseen(rows, order.data), strict=True
        )
    ]
    kept = [row for row, is_fresh in zip(rows, fresh, strict=True) if is_fresh]
    unseen = [row for row in kept if row.label != OUT_OF_SCOPE]
    if not unseen:
        msg = (
            f"{order.data}: of {len(rows)} texts none is in scope and new to both stages. Give "
            "texts that neither was fitted on; of one file and --seed both hold out the same."
        )
        raise CascadeError(msg)
    outside = [row for row in rows if row.label == OUT_OF_SCOPE]
    cautions = contradictions(kept, order.data.name)
    if order.evaluation is None:
        cautions.append(
            f"judged on the {len(unseen)} texts that the hand-over was found by: give others with "
            "--eval for figures that owe them nothing"
        )
        return _Examples(unseen, outside, kept, cautions)
    judged = _labelled(order.evaluation, first)
    return _Examples(
        unseen, outside, judged, cautions + contradictions(judged, order.evaluation.name)
    )


def _labelled(file: Path, first: Member) -> list[Row]:
    rows = read_rows(file)
    known = first.labels | {OUT_OF_SCOPE}
    strange = [row for row in rows if row.label not in known]
    if strange:
        problems = [(f"line {row.line}", f"label: {row.label!r}") for row in strange[:_SHOWN]]
        remedy = "Give labels that both stages know."
        raise DataError(str(file), problems, remedy=remedy)
    return rows


@dataclass(frozen=True, slots=True)
class _Judged:
    """One variant of the whole.

    Args:
        part: its second stage.
        report: what `quality.json` says.
        judgement: for the page.
        golden: bytes of its golden file.
    """

    part: Part
    report: dict[str, Any]
    judgement: Judgement
    golden: bytes


class _Making:
    """One run.

    Args:
        order: what was asked for.
        profile: of the device.
        first: the export that is asked first.
        second: the other.
        examples: to find the hand-over by, and to judge by.
        out: folder to fill; not there yet.
        stage: shows progress.
    """

    def __init__(  # noqa: PLR0913, PLR0917 -- by `make` alone
        self,
        order: Order,
        profile: DeviceProfile,
        first: Member,
        second: Member,
        examples: _Examples,
        out: Path,
        stage: Announce,
    ) -> None:
        self._order, self._profile, self._examples = order, profile, examples
        self._first, self._second = first, second
        self._out, self._bundle = out, out / BUNDLE
        self._stage = stage
        self._recipe = recipes.load(TASK)
        self._cautions = list(examples.cautions)

    def run(self) -> dict[str, Any]:
        """Fill the folder; return what `quality.json` says."""
        front = self._front()
        backs = list(self._backs())
        rows, strange = self._examples.unseen, self._examples.outside
        truth = [str(row.label) for row in rows]
        said = self._ask(front.model, rows, "asking the first stage")
        outside = self._ask(front.model, strange, "asking what is out of scope")
        order = self._order
        try:
            found = [
                find(
                    said,
                    self._ask(b.model, rows, f"asking {b.name}"),
                    truth,
                    lose=order.lose,
                    outside=(outside, self._ask(b.model, strange, f"asking {b.name} of the same")),
                )
                for b in backs
            ]
        except FewTextsError as err:
            err.args = (f"{order.data}: {err}",)
            raise
        names = Names(order.name, order.version, self._profile.name, order.supported_until)
        writer = Writer(self._bundle, names, front, backs)
        settings = [
            CascadeParameters(**one.bounds._asdict(), lose_points=self._order.lose) for one in found
        ]
        writer.write(settings, [b""] * len(backs))
        judged = [
            self._judge(front, back, hand_over, self._load(back, golden=False))
            for back, hand_over in zip(backs, found, strict=True)
        ]
        bundle_hash = writer.write(settings, [one.golden for one in judged])
        for back in backs:
            whole = self._load(back, golden=True)  # raises where a case does not replay
            if back.stand_in is None:
                took = latency_ms(whole, [request_of(row) for row in self._examples.judged])
                check_latency(self._profile, whole.provider, [took])
        return self._finish(bundle_hash, judged)

    def _front(self) -> Part:
        """Return the first stage: its best form for the CPU.

        Raises:
            CascadeError: it has none.
        """
        for variant in self._first.bundle.manifest.variants():
            if self._first.provider(variant) == CPU:
                return Part(self._first, variant, *self._first.load(variant))
        msg = f"{self._first.option}: has no form for the CPU, which runs the first stage"
        raise CascadeError(msg)

    def _backs(self) -> Iterator[Part]:
        """Yield the forms of the second stage that can be judged here.

        Raises:
            RejectedError: there is none; says why of the last.
        """
        failed: RejectedError | None = None
        found = False
        for variant in self._second.bundle.manifest.variants():
            try:
                yield Part(self._second, variant, *self._second.load(variant))
                found = True
            except RejectedError as err:
                failed = err
                self._cautions.append(f"{variant} is left out, for nobody here can run it: {err}")
        if not found and failed is not None:
            raise failed

    def _load(self, back: Part, *, golden: bool) -> Model:
        return load_model(self._bundle, variant=back.variant, stand_in=back.stand_in, golden=golden)

    def _ask(self, model: Model, rows: Sequence[Row], what: str) -> list[Answer]:
        with self._stage(what, len(rows)) as advance:
            return answer_all(model, rows, advance)

    def _judge(self, front: Part, back: Part, found: HandOver, whole: Model) -> _Judged:
        """Judge a variant, and choose its golden cases.

        Raises:
            LossError: it loses more than was allowed.
            OverBudgetError: it is too large.
        """
        rows, lose = self._examples.judged, self._order.lose
        alone = self._ask(back.model, rows, f"judging {back.name} alone")
        said = self._ask(whole, rows, f"judging the cascade with {back.name}")
        before, after = (self._measure(rows, answers) for answers in (alone, said))
        lost = {
            metric: float(before[metric] or 0) - float(after[metric] or 0)
            for metric in ("accuracy", RECALL)
            if before[metric] is not None
        }
        passed = lost["accuracy"] <= lose + _ROUNDING
        if not passed and not self._order.allow_drop:
            msg = (
                f"{back.name}: on {len(rows)} texts the cascade loses {lost['accuracy']:.2f} "
                f"points of accuracy ({before['accuracy']:.2f} -> {after['accuracy']:.2f}), and "
                f"{lose:g} may be. Give more texts with --data, or pass --allow-drop."
            )
            raise LossError(msg)
        if (error := over_size(self._profile, back.name, front.size + back.size)) is not None:
            raise error
        notes = []
        if lost.get(RECALL, 0.0) > lose + _ROUNDING:
            notes.append(
                f"{back.name}: of {before['out_of_scope']:g} texts out of scope the cascade "
                f"rejects {after[RECALL]:.1f} %, and the second alone {before[RECALL]:.1f} %: the "
                "first is sure of the others. Give more texts labelled oos with --data, or less to "
                "--lose."
            )
            self._cautions += notes
        handed = sum(one.stage == "second" for one in said)
        report: dict[str, Any] = {
            "provider": whole.provider,
            "precision": back.model.files.artifacts("graph")[0].precision,
            "verified": whole.verified,
            "rows": len(rows),
            SECOND.key: tidy(before),
            "artifact": tidy(after),
            "lost_points": tidy(lost),
            "allowed_points": lose,
            "passed": passed,
            "handed_over": short(handed / len(rows)),
            "hand_over": {
                **found.bounds._asdict(),
                "texts": found.texts,
                "share": short(found.share),
                "rejected": short(found.rejected),
                "lost_points": short(found.lost),
                "standard_error": short(found.error),
                "oos_taken_points": None if found.taken is None else short(found.taken),
            },
            "notes": notes,
        }
        return _Judged(
            back,
            report,
            Judgement(back.name, rows, alone, said),
            self._golden(front, back, found, list(map(Judged, rows, said)), whole),
        )

    def _measure(self, rows: Sequence[Row], answers: Sequence[Answer]) -> Metrics:
        share = self._second.parameters(self._second.bundle.manifest.variants()[0]).reject_share
        return self._recipe.measure(rows, answers, share=share)

    def _golden(
        self,
        front: Part,
        back: Part,
        found: HandOver,
        judged: Sequence[Judged],
        whole: Model,
    ) -> bytes:
        """Return the golden file: of texts that every device hands over, or that none does.

        Raises:
            CascadeError: no text is one of these.
        """
        strange = list(strange_rows([j.row for j in judged]))
        pool = [*judged, *map(Judged, strange, self._ask(whole, strange, "more cases"))]
        allowed = widest(front.tolerance, back.tolerance)
        own, limits = front.member.parameters(front.variant), front.tolerance
        first = self._ask(front.model, [j.row for j in pool], "more cases of the first stage")

        raw = {
            stage: part.member.bundle.of(part.variant).read("parameters")
            for stage, part in (("first", front), ("second", back))
        }

        def surety(answer: Answer, limits: Tolerance) -> float:
            return self._recipe.surety(answer, raw[str(answer.stage)], limits)

        certain = [
            j for j, one in zip(pool, first, strict=True) if settled(one, found.bounds, limits, own)
        ]
        if not certain:
            msg = (
                f"{self._first.option}: its confidence in each of {len(pool)} texts is within "
                f"{limits.confidence:g} of the hand-over, and by so much devices may differ: "
                "which stage answers could not be proved on them. Give more texts with --data, or "
                "allow another loss with --lose."
            )
            raise CascadeError(msg)
        twins = [Twin(j, j.answer) for j in choose(certain, surety, cases=POOL)]
        return golden_file(pick(twins, surety, allowed=allowed))

    def _finish(self, bundle_hash: str, judged: Sequence[_Judged]) -> dict[str, Any]:
        """Write what lies beside the bundle; return what `quality.json` says."""
        order, rows = self._order, self._examples.judged
        report: dict[str, Any] = {
            "bundle": bundle_hash,
            "task": TASK,
            "held_out": {"rows": len(rows), "given": order.evaluation is not None},
            SECOND.key: judged[0].report[SECOND.key],
            "variants": {one.part.name: one.report for one in judged},
            "cautions": self._cautions,
        }
        write_tar(self._bundle, self._out / TAR)
        (self._out / QUALITY).write_text(json.dumps(report, indent=2) + "\n")
        manifest = open_bundle(self._bundle, verify=False).manifest
        origins = Origins(
            base_license=None,
            base_supplier=None,
            data=sha256_of(order.data),
            evaluation=None if order.evaluation is None else sha256_of(order.evaluation),
            rows=len(self._examples.unseen),
            held_out=len(rows),
            stages=(
                StageOrigin("first", self._first.bundle.manifest, self._first.bundle.hash),
                StageOrigin("second", self._second.bundle.manifest, self._second.bundle.hash),
            ),
        )
        (self._out / ML_BOM).write_text(ml_bom(manifest, bundle_hash, report, origins))
        judgements = [one.judgement for one in judged]
        write_reports(
            self._out,
            Content(
                manifest,
                bundle_hash,
                self._profile,
                report,
                judgements,
                judged[0].part.size,
                SECOND,
            ),
        )
        return report
