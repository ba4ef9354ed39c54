"""Tables of slots as a broken disk leaves them, block lists, and sticks from anybody."""

from __future__ import annotations

import io
import tarfile
from contextlib import closing
from pathlib import Path

from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.adapters.stick import (
    StickInvalidError,
    StickMissingError,
    StickTamperedError,
    open_stick,
)
from edgeslm.contract.base import parse_json
from edgeslm.contract.fleet import BLOCK_BYTES, BlobFile, BlockList, DeviceConfig
from edgeslm.contract.routes import Route
from edgeslm.contract.slots import Bad, ModelSlots, Operation, Slot, SlotTable
from edgeslm.core.slots import begin, candidates, end, problem, slot
from edgeslm.errors import InvalidFileError
from tests.blocks import sha256
from tests.fuzz.harness import fuzz

ONE, TWO = (Slot(bundle=str(n) * 64, version=n, whole=True) for n in (1, 2))
BAD = Bad(hash="3" * 64, version=3, error={"code": "trial.errors", "message": "2 of 5"})
TRIAL = Operation(
    model="press",
    seq=3,
    phase="trial",
    slot="b",
    version=2,
    bundle=TWO.bundle,
    blocks="4" * 64,
    attempts=1,
    since=1.5,
    boot="b",
    agent="i",
)
CONFIG = DeviceConfig(routes={"r": Route(topic="t/#", models=("press",))}, state_interval_s=5.0)
TABLES = (
    SlotTable(
        models={"press": ModelSlots(active="a", a=ONE, b=TWO, bad=(BAD,)), "valve": ModelSlots()},
        config=CONFIG,
        config_seq=2,
        bad_config=(BAD,),
        operation=TRIAL,
    ),
    SlotTable(
        operation=Operation(model=None, seq=1, phase="staged", bundle="5" * 64, config=CONFIG)
    ),
)


def test_tables_of_slots(tmp_path: Path, targets: int) -> None:
    file = tmp_path / "slots.json"

    def parse(raw: bytes) -> None:
        file.write_bytes(raw)
        with closing(FileSlotStore(tmp_path, lambda _: None)) as store:
            table = store.read()
            assert (store.damaged is None) or table == SlotTable()
            assert problem(table) is None
            for models in table.models.values():
                for name in candidates(models):
                    held = slot(models, name)
                    assert held is not None
                    assert held.whole
            # Whatever was under way can be ended, and the next change can begin.
            store.write(begin(end(table), Operation(model="press", seq=9, phase="resolving")))
        with closing(FileSlotStore(tmp_path, lambda _: None)) as store:
            assert store.damaged is None
            assert store.read().operation is not None

    fuzz(parse, [table.model_dump_json().encode() for table in TABLES], targets=targets)


def test_block_lists(targets: int) -> None:
    size = 2 * BLOCK_BYTES + 1
    files = (
        BlobFile(path="deep/er/model.onnx", size=size, sha256="2" * 64, blocks=("3" * 64,) * 3),
        BlobFile(path="deep/empty", size=0, sha256="4" * 64),
        BlobFile(path="manifest.json", size=9, sha256="1" * 64),
    )

    def parse(raw: bytes) -> None:
        blocks = parse_json(BlockList, raw, file="blocks.json", remedy="Publish it again.")
        for file in blocks.files:
            parts = file.path.split("/")
            assert not any(part.startswith(".") or not part for part in parts)
            assert len(file.blocks) in {0, -(-file.size // BLOCK_BYTES)}
        assert [file.sha256 for file in blocks.files if file.path == "manifest.json"] == [
            blocks.bundle
        ]

    seed = BlockList(bundle="1" * 64, files=files).model_dump_json().encode()
    fuzz(parse, [seed], allowed=(InvalidFileError,), targets=targets)


def archive(form: int, **more: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, data in (
            ("index.json", b"{}"),
            ("metadata/1.root.json", b"x" * 600),
            (f"blobs/{sha256(b'y')}", b"y"),
            ("README", b""),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), more
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()[: 9 * 512 + 1_024 if not more else None]


def mended(raw: bytes) -> bytes:
    """Return `raw` with right sums in all that looks like a header: mutants get further."""
    blocks = [raw[at : at + 512] for at in range(0, len(raw), 512)]
    for number, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            blank = block[:148] + b" " * 8 + block[156:]
            blocks[number] = blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]
    return b"".join(blocks)


def test_tars_of_sticks(tmp_path: Path, targets: int) -> None:
    file, out = tmp_path / "stick.tar", tmp_path / "out"

    def parse(raw: bytes) -> None:
        for each in {raw, mended(raw)}:
            file.write_bytes(each)
            try:
                look(each)
                seen.append(str(out))
            except StickInvalidError as err:
                seen.append(str(err))

    def look(raw: bytes) -> None:
        with closing(open_stick(file)) as stick:
            for name in ("index.json", "metadata/1.root.json", "metadata/../index.json"):
                try:
                    data = stick.read(name, 700)
                except (StickMissingError, StickInvalidError):
                    continue
                assert len(data) <= 700
                assert data in raw
            try:
                stick.copy(sha256(b"y"), out, 1)
            except (StickMissingError, StickTamperedError):
                assert not out.exists()
            else:
                assert out.read_bytes() == b"y"
                out.unlink()

    seen: list[str] = []
    plain = [archive(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)]
    fuzz(parse, [*plain, archive(tarfile.PAX_FORMAT, comment="z")], targets=targets)
    assert str(out) in seen, "some mutants are read"
    assert {said.partition(":")[0] for said in seen} == {str(out), str(file)}
