"""One change of one model as an updater makes it, with nobody around: to be killed in tests.

`python -m tests.updater.one_change DIRECTORY BUNDLE` brings BUNDLE into the updater's DIRECTORY, or
goes on with that, and commits it. Status 75: the disk was full.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.contract.fleet import BlockList
from edgeslm.contract.slots import Operation, SlotTable
from edgeslm.core import slots
from edgeslm.errors import EXIT_UNAVAILABLE
from edgeslm.ports import DiskFullError, SlotStore
from edgeslm.runtime.slot import whole_slot
from edgeslm.updater.install import fill, verify
from tests.blocks import block_list, bringing

MODEL: Final = "press"


def change(directory: Path, bundle: Path) -> None:
    """Have `bundle` committed in `directory`."""
    blocks = block_list(bundle)
    with closing(FileSlotStore(directory, whole_slot)) as store:
        assert store.damaged is None, store.damaged
        table = store.read()
        held = slots.slots_of(table, MODEL)
        active = slots.slot(held, held.active) if held.active is not None else None
        if table.operation is None and (active is None or active.bundle != blocks.bundle):
            store.write(slots.begin(table, Operation(model=MODEL, seq=1, phase="resolving")))
        while (operation := store.read().operation) is not None:
            store.write(_step(store, operation, blocks, bundle))


def _step(store: SlotStore, operation: Operation, blocks: BlockList, bundle: Path) -> SlotTable:
    table = store.read()
    match operation.phase:
        case "resolving":
            table = slots.filling(table, bundle=blocks.bundle, version=2, blocks="0" * 64)
            store.write(table)
            assert table.operation is not None
            assert table.operation.slot is not None
            store.empty(MODEL, table.operation.slot)
            return table
        case "fetching" | "verifying":
            assert operation.slot is not None
            held = slots.slots_of(table, MODEL)
            into = store.folder(MODEL, operation.slot)
            if operation.phase == "verifying":
                verify(blocks, into)
                return slots.whole(table)
            near = [store.folder(MODEL, held.active)] if held.active is not None else []
            fill(blocks, into, near=near, bring=bringing(bundle))
            return slots.moved(table, "verifying")
        case "staged":
            return slots.begin_trial(table, boot="b", agent="i")
        case _:
            return slots.commit(table)


if __name__ == "__main__":
    try:
        change(Path(sys.argv[1]), Path(sys.argv[2]))
    except DiskFullError:
        sys.exit(EXIT_UNAVAILABLE)
