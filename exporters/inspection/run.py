"""Looking through examples on its own: `edgeslm-export data`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits

from exporters import recipes
from exporters.data import ANOMALY, NORMAL, Split, read_rows
from exporters.export import ALGEBRA_THREADS, BUNDLE, USUAL_TOKENS, cut_at, exported
from exporters.folders import OutputError, beside, check_out, replace_folder
from exporters.inspection import DATA, inspect
from exporters.rejection import RejectShareError, check
from exporters.report.examples import page
from exporters.room import temporary
from exporters.sources import open_source
from exporters.workbench import Stage, Workbench

PAGE: Final = "data.html"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for; see `edgeslm-export data --help`."""

    data: Path
    evaluation: Path | None = None
    task: str | None = None
    model: str | None = None
    tokenizer: Path | None = None
    max_tokens: int | None = None
    share: float | None = None
    seed: int = 0
    out: Path | None = None


def look(asked: Asked, stage: Stage) -> dict[str, Any]:
    """Return what `data.json` says, and the cautions; leave it with its page in `asked.out`.

    Raises:
        RejectedError: examples that no export would take, or a model that cannot be used.
        UnavailableError: the disk refuses.
    """
    if asked.out is not None:
        check_out(asked.out, holds=PAGE)
        if (asked.out / BUNDLE).exists():
            msg = f"{asked.out}: holds an export, which has its own {DATA}; choose another --out"
            raise OutputError(msg)
    task = asked.task or _task_of(asked.data)
    recipe = recipes.load(task)
    share = recipe.DEFAULT_SHARE if asked.share is None else asked.share
    split = recipe.split(asked.data, asked.evaluation, share=share, seed=asked.seed)
    notes = _share_noted(asked, split, share) if recipe.TRAINABLE else []
    with _scratch(asked.out) as scratch, threadpool_limits(limits=ALGEBRA_THREADS):
        bench = None
        if asked.model is not None:
            source = open_source(asked.model, tokenizer=asked.tokenizer)
            with stage("exporting the encoder", None):
                encoder = exported(source)
            bench = Workbench(
                task=task,
                recipe=recipe,
                split=split,
                encoder=encoder,
                source=source.name,
                max_tokens=cut_at(asked.max_tokens, USUAL_TOKENS, encoder),
                share=share,
                seed=asked.seed,
                scratch=scratch,
                stage=stage,
                fitter=recipe.fitter({name: one.default for name, one in recipe.OPTIONS.items()}),
            )
        found = inspect(task, split, bench)
        found = replace(found, notes=(*notes, *found.notes))
        if asked.out is not None:
            fresh = scratch / "out"
            fresh.mkdir()
            (fresh / DATA).write_bytes(found.to_bytes())
            (fresh / PAGE).write_text(page(f"{asked.data.name}: {task}", found), "utf-8")
            replace_folder(fresh, asked.out)
    return {"cautions": found.cautions(), **found.as_json()}


def _share_noted(asked: Asked, split: Split, share: float) -> list[str]:
    """Return what one should know of the share to reject, where none was given.

    Raises:
        RejectShareError: one was, and a head cannot tell it.
    """
    try:
        return check(split.train, file=str(asked.data), share=share, train="head", seed=asked.seed)
    except RejectShareError as err:
        if asked.share is not None:
            raise
        return [f"an export told neither --reject-share nor --train few would refuse these: {err}"]


def _task_of(data: Path) -> str:
    """Return the task whose labels these are: an intent may be called neither name."""
    labels = {row.label for row in read_rows(data)}
    return "anomaly" if labels <= {None, NORMAL, ANOMALY} else "intent"


@contextmanager
def _scratch(out: Path | None) -> Iterator[Path]:
    if out is not None:
        with beside(out) as folder:
            yield folder
        return
    with temporary() as folder:
        yield folder
