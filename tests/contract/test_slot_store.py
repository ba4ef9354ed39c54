"""What every store of slots must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.adapters.slot_store import FileSlotStore, MemorySlotStore
from edgeslm.contract.slots import ModelSlots, Operation, Slot, SlotName, SlotTable
from edgeslm.core.slots import IllegalStepError
from edgeslm.ports import SlotStore

WHOLE = Slot(bundle="1" * 64, version=1, whole=True)
PART = Slot(bundle="2" * 64, version=2)
FILLING = Operation(model="press", seq=3, phase="fetching", slot="b", version=2, bundle=PART.bundle)
NAMES: tuple[SlotName, SlotName] = ("a", "b")
TABLE = SlotTable(models={"press": ModelSlots(active="a", a=WHOLE, b=PART)}, operation=FILLING)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SlotStore]:
    if request.param == "memory":
        yield MemorySlotStore(tmp_path)
        return
    opened = FileSlotStore(tmp_path / "update", lambda _: None)
    yield opened
    opened.close()


def test_begins_with_nothing(store: SlotStore) -> None:
    assert store.read() == SlotTable()
    assert not store.folder("press", "a").exists()


def test_gives_back_the_table_written_last(store: SlotStore) -> None:
    for table in (TABLE, SlotTable(), TABLE):
        store.write(table)
        assert store.read() == table


def test_each_slot_of_each_model_has_a_folder_of_its_own(store: SlotStore) -> None:
    folders = {store.empty(model, slot) for model in ("press", "valve") for slot in NAMES}
    assert len(folders) == 4
    for number, folder in enumerate(sorted(folders)):
        (folder / "manifest.json").write_text(str(number))
    assert {(folder / "manifest.json").read_text() for folder in folders} == set("0123")
    assert store.folder("press", "a") in folders


def test_an_emptied_slot_is_there_and_empty(store: SlotStore) -> None:
    store.write(TABLE)
    for _ in range(2):
        folder = store.empty("press", "b")
        assert folder == store.folder("press", "b")
        assert list(folder.iterdir()) == []
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x")
        (folder / "link").symlink_to("/")


def test_what_the_table_promises_is_not_emptied(store: SlotStore) -> None:
    both = ModelSlots(active="a", a=WHOLE, b=WHOLE)
    for name in NAMES:
        (store.empty("press", name) / "file").write_bytes(b"x")
    store.write(SlotTable(models={"press": both}))
    for name in NAMES:
        with pytest.raises(IllegalStepError, match=f"press, slot {name}"):
            store.empty("press", name)
        assert (store.folder("press", name) / "file").read_bytes() == b"x"
    store.empty("valve", "a")
