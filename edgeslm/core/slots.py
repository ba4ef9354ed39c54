"""What happens to a model's two slots, step by step: pure functions on `contract.slots.SlotTable`.

Each returns the table to write next. The rule of all of them: what takes something away is written
before it is done, and what promises something after it was done. So a table that is read after a
power cut may know less than there is, and never promises what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from edgeslm.contract.messages import Phase
from edgeslm.contract.slots import MAX_BAD, Bad, ModelSlots, Operation, Slot, SlotName, SlotTable
from edgeslm.errors import RejectedError

M = TypeVar("M", bound=BaseModel)
_BY_STEPS_OF_THEIR_OWN: Final = frozenset({"trial", "reverting"})
_NOTHING: Final = ModelSlots()
_MAX_MESSAGE: Final = 300  # of what is remembered, so that the table stays small


class KnownBadError(RejectedError):
    """This bundle, or this configuration, has failed on this device: it is not tried again."""

    code = "update.known_bad"

    def __init__(self, bad: Bad) -> None:
        what = "this configuration" if bad.version is None else f"version {bad.version}"
        remedy = "Assign another; or have the device forget it: `edgeslm update --forget-bad`."
        super().__init__(
            f"{what} ({bad.hash[:12]}) has failed here with {bad.error['code']}: "
            f"{bad.error['message'].rstrip('. ')}. {remedy}"
        )
        self.bad = bad


class NothingBadError(RejectedError):
    """Nothing of this model, or of the configuration, is remembered as bad on this device."""

    code = "update.nothing_bad"


class IllegalStepError(Exception):
    """A fault of ours: this step cannot be taken now."""


def slots_of(table: SlotTable, model: str) -> ModelSlots:
    """Return the slots of a model; empty ones where it has none yet."""
    return table.models.get(model, _NOTHING)


def slot(models: ModelSlots, name: SlotName) -> Slot | None:
    """Return what is in a slot."""
    return models.a if name == "a" else models.b


def committed(models: ModelSlots) -> Slot | None:
    """Return what was committed; None where nothing was."""
    return None if models.active is None else slot(models, models.active)


def spare(models: ModelSlots) -> SlotName:
    """Return the slot that may be emptied: the one that is not active."""
    return "b" if models.active == "a" else "a"


def candidates(models: ModelSlots) -> tuple[SlotName, ...]:
    """Return the slots that an agent loads when it starts: the next one where one fails.

    Nothing before the first commit: what is on its first trial is loaded by order alone.
    """
    if models.active is None:
        return ()
    other = spare(models)
    held = slot(models, other)
    return (models.active, other) if held is not None and held.whole else (models.active,)


def known_bad(table: SlotTable, model: str | None, hash_: str) -> Bad | None:
    """Return what is remembered of a bundle, or of a configuration where `model` is None."""
    bad = table.bad_config if model is None else slots_of(table, model).bad
    return next((each for each in bad if each.hash == hash_), None)


def begin(table: SlotTable, operation: Operation) -> SlotTable:
    """Begin a change; of a configuration, whose `bundle` is its hash, or of a model.

    Raises:
        KnownBadError: it is remembered as bad.
        IllegalStepError: another change is under way.
    """
    _expect(table.operation is None, "a change is under way")
    _expect(operation.phase == "resolving" and operation.slot is None, "not a beginning")
    _refuse_bad(table, operation)
    return _with(table, operation=operation)


def filling(table: SlotTable, *, bundle: str, version: int, blocks: str | None) -> SlotTable:
    """The spare slot holds nothing whole from now on: it is emptied, and filled with this bundle.

    Args:
        table: with an operation in `resolving`.
        bundle: sha256 of its manifest.
        version: of the model.
        blocks: sha256 of its block list.

    Raises:
        KnownBadError: it is remembered as bad.
        IllegalStepError: no model is being resolved.
    """
    operation = _under_way(table, "resolving")
    model = _model(operation)
    into = spare(slots_of(table, model))
    changed = _with(
        operation, phase="fetching", slot=into, bundle=bundle, version=version, blocks=blocks
    )
    _refuse_bad(table, changed)
    put = Slot(bundle=bundle, version=version)
    return _with(_put(table, model, into, put), operation=changed)


def emptied(table: SlotTable, model: str) -> SlotTable:
    """Nothing is in a model's spare slot from now on, to make room.

    Raises:
        IllegalStepError: a change has it.
    """
    _expect(table.operation is None or table.operation.model != model, "its slot is being changed")
    return _put(table, model, spare(slots_of(table, model)), None)


def whole(table: SlotTable) -> SlotTable:
    """Every byte of the bundle was held against its hash and flushed.

    Raises:
        IllegalStepError: none is being verified.
    """
    operation = _under_way(table, "verifying")
    model, into = _model(operation), operation.slot
    held = slot(slots_of(table, model), into) if into is not None else None
    if into is None or held is None or held.bundle != operation.bundle:
        msg = "nothing was put there"
        raise IllegalStepError(msg)
    put = _put(table, model, into, _with(held, whole=True))
    return _with(put, operation=_with(operation, phase="staged"))


def moved(table: SlotTable, phase: Phase) -> SlotTable:
    """The change is in another phase, and nothing else changes.

    Raises:
        IllegalStepError: there is none, or that phase begins with more than this.
    """
    operation = table.operation
    if operation is None:
        msg = "no change is under way"
        raise IllegalStepError(msg)
    _expect(phase not in _BY_STEPS_OF_THEIR_OWN, f"{phase} begins with a step of its own")
    if phase == "staged":
        _expect_ready(table, operation)
    return _with(table, operation=_with(operation, phase=phase))


def begin_trial(table: SlotTable, *, boot: str, agent: str) -> SlotTable:
    """An agent is about to be told to try it: counted before, since it may not survive that.

    Raises:
        KnownBadError: it is remembered as bad.
        IllegalStepError: nothing is staged.
    """
    operation = _under_way(table, "staged")
    _expect_ready(table, operation)
    _refuse_bad(table, operation)
    attempts = operation.attempts + 1
    changed = _with(operation, phase="trial", attempts=attempts, boot=boot, agent=agent)
    return _with(table, operation=changed)


def uncounted(table: SlotTable) -> SlotTable:
    """The trial was broken off by an operator, and does not count.

    Raises:
        IllegalStepError: there is none.
    """
    operation = _under_way(table, "trial")
    changed = _with(operation, phase="staged", attempts=operation.attempts - 1)
    return _with(table, operation=changed)


def commit(table: SlotTable) -> SlotTable:
    """What was on trial stays, and the change is over.

    Raises:
        IllegalStepError: nothing is on trial.
    """
    operation = _under_way(table, "trial")
    _expect_ready(table, operation)
    if operation.model is None:
        return _with(table, config=operation.config, config_seq=operation.seq, operation=None)
    slots = _with(slots_of(table, operation.model), active=operation.slot)
    return _with(table, models={**table.models, operation.model: slots}, operation=None)


def revert(table: SlotTable) -> SlotTable:
    """What was on trial does not stay; the agent is about to be told.

    Raises:
        IllegalStepError: nothing is on trial.
    """
    operation = _under_way(table, "trial")
    return _with(table, operation=_with(operation, phase="reverting"))


def remember_bad(table: SlotTable, model: str | None, bad: Bad) -> SlotTable:
    """It failed here by its own fault. Of `MAX_BAD` others, the one remembered longest is dropped.

    Raises:
        IllegalStepError: it is what was committed.
    """
    held = table.bad_config if model is None else slots_of(table, model).bad
    message = bad.error["message"][:_MAX_MESSAGE]
    bad = _with(bad, error={"code": bad.error["code"], "message": message})
    kept = [each for each in held if each.hash != bad.hash]
    newest = (*kept, bad)[-MAX_BAD:]
    if model is None:
        return _with(table, bad_config=newest)
    slots = slots_of(table, model)
    runs = committed(slots)
    _expect(runs is None or runs.bundle != bad.hash, "it is what was committed")
    changed = {**table.models, model: _with(slots, bad=newest)}
    table = _with(table, models=changed)
    other = spare(slots)
    beside = slot(slots, other)
    if beside is not None and beside.bundle == bad.hash:  # no agent is to load it
        table = _put(table, model, other, _with(beside, whole=False))
    return table


def forgotten(table: SlotTable, model: str | None) -> SlotTable:
    """An operator says that what failed here of a model may be tried again.

    Args:
        table: as it is.
        model: which; None: the configuration.

    Raises:
        NothingBadError: nothing of it is remembered.
    """
    held = table.bad_config if model is None else slots_of(table, model).bad
    if not held:
        some = ", ".join(sorted(name for name, each in table.models.items() if each.bad))
        msg = f"{model or 'the configuration'}: nothing of it is remembered as bad here; "
        raise NothingBadError(msg + f"of models: {some or 'none'}")
    if model is None:
        return _with(table, bad_config=())
    return _with(table, models={**table.models, model: _with(slots_of(table, model), bad=())})


def end(table: SlotTable) -> SlotTable:
    """The change is over; what was committed stays."""
    return _with(table, operation=None)


def rebuilt(found: Mapping[str, Mapping[SlotName, tuple[Slot, float]]]) -> SlotTable:
    """Return a table in place of one that was lost.

    Of two whole bundles the one that was written first is taken as committed: it has proved itself
    longer, and the other one may be what was on trial.

    Args:
        found: by model and slot, what is whole there, and when that was written.
    """
    models = {}
    for model, slots in sorted(found.items()):
        oldest = min(slots, key=lambda name: (slots[name][1], slots[name][0].version, name))
        held = {name: whole for name, (whole, _) in slots.items()}
        models[model] = ModelSlots(active=oldest, a=held.get("a"), b=held.get("b"))
    return SlotTable(models=models)


def problem(table: SlotTable) -> str | None:
    """Say what no step leads to; None where each of the functions above can go on from here.

    For a table that was read: a flipped bit must not stop an updater for ever.
    """
    operation = table.operation
    if operation is None:
        return None
    if operation.phase == "trial" and not operation.attempts:
        return "operation.attempts: a trial that was not counted"
    hash_ = operation.bundle
    if operation.phase != "reverting" and hash_ and known_bad(table, operation.model, hash_):
        return "operation.bundle: known to be bad"
    if operation.model is not None:
        return _problem_of_slot(slots_of(table, operation.model), operation)
    if operation.slot is not None or operation.phase in {"fetching", "verifying"}:
        return "operation: a configuration has no slot and is not fetched"
    return None


def _problem_of_slot(slots: ModelSlots, operation: Operation) -> str | None:
    if operation.phase == "resolving":
        return None
    held = slot(slots, operation.slot) if operation.slot is not None else None
    if operation.slot != spare(slots) or held is None or held.bundle != operation.bundle:
        return "operation.slot: not the one that is being changed"
    if operation.phase in {"staged", "trial"} and not held.whole:
        return f"operation.phase: {operation.phase}, and nothing whole is in the slot"
    return None


def _under_way(table: SlotTable, phase: Phase) -> Operation:
    operation = table.operation
    if operation is None or operation.phase != phase:
        msg = f"nothing is in {phase}: {operation.phase if operation else 'no change under way'}"
        raise IllegalStepError(msg)
    return operation


def _model(operation: Operation) -> str:
    if operation.model is None:
        msg = "a configuration has no slot"
        raise IllegalStepError(msg)
    return operation.model


def _expect_ready(table: SlotTable, operation: Operation) -> None:
    """A model's slot is whole; a configuration has none."""
    if operation.model is None:
        return
    slots = slots_of(table, operation.model)
    held = slot(slots, operation.slot) if operation.slot is not None else None
    _expect(held is not None and held.whole, "the slot is not whole")
    _expect(operation.slot == spare(slots), "the slot is active")


def _refuse_bad(table: SlotTable, operation: Operation) -> None:
    if operation.bundle is not None:
        bad = known_bad(table, operation.model, operation.bundle)
        if bad is not None:
            raise KnownBadError(bad)


def _expect(fits: bool, otherwise: str) -> None:  # noqa: FBT001 -- it reads as a condition
    if not fits:
        raise IllegalStepError(otherwise)


def _put(table: SlotTable, model: str, name: SlotName, what: Slot | None) -> SlotTable:
    slots = _with(slots_of(table, model), **{name: what})
    return _with(table, models={**table.models, model: slots})


def _with(part: M, **changes: Any) -> M:
    """Return `part` with other values, checked as a file's are."""
    return type(part)(**{**dict(part), **changes})
