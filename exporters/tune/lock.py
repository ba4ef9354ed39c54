"""`lock.json`: all that an export depends on, and all that a search has decided.

With it, the same export gives the same bytes: without the search, and without a clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from edgeslm import __version__
from edgeslm.contract.base import Name, Sha256, Typed, problems_of
from edgeslm.contract.manifest import SessionSettings
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from exporters.bundle import PACKAGES
from exporters.cache import pins
from exporters.targets.base import Plan
from exporters.training.plan import TrainingPlan

Train = Literal["head", "full", "few", "static", "student"]
"""What learns: a head, the encoder with it, both from few, vectors alone, or a student."""
LOCK: Final = "lock.json"
_MAX_BYTES: Final = 1 << 20


class LockError(RejectedError):
    """The lock file is none, or not one of this export."""

    code = "export.lock"


class LockedPlan(Typed):
    """A recipe that a search has chosen for a target."""

    variant: Name
    precision: str
    recipe: dict[str, Any] = Field(description="In the target's own terms.")
    session: SessionSettings | None = None


class Lock(Typed):
    """The file."""

    schema_version: Literal[1] = 1
    exporter: str = Field(description="edgeslm version.")
    pins: dict[str, str] = Field(description="Package versions that the bytes depend on.")
    cpu: str = Field(description="int8 rounds otherwise on another: tolerances are measured.")
    seed: int
    task: str
    share: float
    max_tokens: Annotated[int, Field(ge=1)]
    prune_vocab: Annotated[int, Field(ge=0)] = Field(
        0, description="Texts that a piece must be of to keep its vector; 0: all are kept."
    )
    options: dict[str, str] = Field(default={}, description="The task's own.")
    model: Sha256 = Field(description="Of the source: its weights, configuration, tokenizer.")
    data: Sha256
    evaluation: Sha256 | None
    profile: Name
    profile_sha256: Sha256 = Field(description="Of the profile as it was read.")
    train: Train = "head"
    student: str | None = Field(None, description="As `edgeslm-export distil` was asked for it.")
    training: TrainingPlan | None = Field(None, description="Null: of train: head.")
    chosen: dict[str, LockedPlan] = Field(
        default={}, description="By provider, where a search was made; else the profile says."
    )

    def to_bytes(self) -> bytes:
        """Return the file."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        LockError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            msg = f"--lock {path}: larger than any lock file"
            raise LockError(msg)
        return Lock.model_validate_json(raw)
    except (OSError, ValueError) as err:
        why = getattr(err, "strerror", None) or "not a path"
        if isinstance(err, ValidationError):
            field, fault = problems_of(err)[0]
            why = f"{field or 'file'}: {fault}"
        msg = f"--lock {path}: {why}; give the lock.json of an earlier export"
        raise LockError(msg) from None


def check_same(given: Lock, now: Lock) -> None:
    """Make sure that a lock is of this export.

    Raises:
        LockError: something differs; names it, what it was, and what it is.
    """
    before, after = _facts(given), _facts(now)
    for name in sorted({*before, *after}):
        was, value = before.get(name), after.get(name)
        if was != value:
            msg = (
                f"--lock: {name} was {was}, and is {value}. Make them equal, or export without "
                "--lock for a new one."
            )
            raise LockError(msg)


def _facts(lock: Lock) -> dict[str, object]:
    """What a lock says of the export, besides what was chosen; a pin is a fact of its own."""
    facts: dict[str, object] = lock.model_dump(exclude={"chosen", "pins", "training"})
    return facts | {f"pins.{package}": version for package, version in lock.pins.items()}


def describe(  # noqa: PLR0913 -- by name
    *,
    profile: DeviceProfile,
    model: str,
    data: Path,
    evaluation: Path | None,
    task: str,
    share: float,
    seed: int,
    max_tokens: int,
    prune_vocab: int,
    options: Mapping[str, str],
    cpu: str,
    train: Train = "head",
    student: str | None = None,
    training: TrainingPlan | None = None,
) -> Lock:
    """Return the lock of an export, for whose targets nothing is chosen yet."""
    said = profile.model_dump_json().encode()
    return Lock(
        exporter=__version__,
        pins=pins(PACKAGES),
        cpu=cpu,
        seed=seed,
        task=task,
        share=share,
        max_tokens=max_tokens,
        prune_vocab=prune_vocab,
        options=dict(options),
        model=model,
        data=_digest(data),
        evaluation=None if evaluation is None else _digest(evaluation),
        profile=profile.name,
        profile_sha256=hashlib.sha256(said).hexdigest(),
        train=train,
        student=student,
        training=training,
    )


def locked(plan: Plan) -> LockedPlan:
    """Return what a lock says of a tuned plan."""
    assert plan.recipe is not None  # noqa: S101 -- a search chose it
    return LockedPlan(
        variant=plan.name,
        precision=plan.precision,
        recipe=plan.recipe.model_dump(mode="json"),
        session=plan.session,
    )


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
