"""What comes in over MQTT, on standard input, and as examples."""

from __future__ import annotations

import math

from edgeslm.agent.reading import MAX_ID, read
from edgeslm.contract.routes import Route
from edgeslm.contract.vocabulary import INPUT_ERRORS
from edgeslm.ports import Received
from edgeslm.runtime.stream import split_lines
from exporters.data import parse_csv, parse_json_lines
from tests.fuzz.harness import fuzz

PAYLOADS = (
    b'{"a": {"text": ["x", "press 7: 71.9 C"]}, "s": "p", "t": 1767225600.5, "k": 7, "id": "r1"}',
    b'{"a": {"text": ["", "\\u20ac"]}, "s": null, "t": null, "~": 1}',
    b'[{"a": {"text": [0, "x"]}}]',
    b"plain text, 71.9 C",
)
POINTERS = {"text": "/a/text/1", "source": "/s", "time": "/t", "key": "/k", "id": "/id"}
EXAMPLES = (
    b'{"text": "ram 71.9 C", "label": "normal", "source": "p", "time": 1.5, "key": "k"}\n'
    b'\n{"text": "\\u00e9", "label": null, "other": [1]}\r\n{"text": "b", "label": "oos"}'
)
TABLE = b'\xef\xbb\xbftext,label,time\r\n"a, ""b""\nc",normal,1.5\r\nx,,\r\n'


def checked(payload: bytes, route: Route) -> None:
    message = Received("t", payload, 1, 1, dup=False, retain=False, epoch=0, received_at=0.0)
    reading = read(message, route)
    assert (reading.request is None) is (reading.code in INPUT_ERRORS)
    assert reading.own_id is None or 0 < len(reading.own_id) <= MAX_ID
    if reading.request is None:
        assert reading.why
        return
    assert reading.request.text.strip()
    assert reading.request.time is None or math.isfinite(reading.request.time)


def test_payloads_with_pointers(targets: int) -> None:
    route = Route(topic="t", models=("m",), max_bytes=20_000, **POINTERS)
    fuzz(lambda raw: checked(raw, route), PAYLOADS, targets=targets)


def test_payloads_in_every_encoding(targets: int) -> None:
    routes = [
        Route(topic="t", models=("m",), encoding=encoding)
        for encoding in Route.model_fields["encoding"].annotation.__args__  # type: ignore[union-attr]
    ]

    def parse(raw: bytes) -> None:
        for route in routes:
            checked(raw, route)

    seeds = [*PAYLOADS, "r\u00e9gulation 71,9".encode("utf-16-le"), b"\xe9\x80"]
    fuzz(parse, seeds, targets=targets)


def test_lines_of_standard_input(targets: int) -> None:
    limit = 64

    def parse(raw: bytes) -> None:
        whole = [line for lines in split_lines(iter([raw]), max_bytes=limit) for line in lines]
        pieces = (raw[i : i + 7] for i in range(0, len(raw), 7))
        cut = [line for lines in split_lines(pieces, max_bytes=limit) for line in lines]
        assert cut == whole  # how the bytes arrive makes no difference
        assert [line.number for line in whole] == list(range(1, len(whole) + 1))
        assert all(len(line.data) <= limit for line in whole)

    fuzz(parse, [b"a\r\nb\n\n" + b"x" * 70 + b"\n" + b"y" * 64 + b"\r\nend"], targets=targets)


def test_examples_as_json_lines(targets: int) -> None:
    def parse(raw: bytes) -> None:
        rows, problems = parse_json_lines(raw)
        assert len(rows) + len(problems) <= raw.count(b"\n") + 1
        for row in rows:
            assert row.text.strip().encode()
            assert row.time is None or math.isfinite(row.time)

    fuzz(parse, [EXAMPLES], targets=targets)


def test_examples_as_csv(targets: int) -> None:
    def parse(raw: bytes) -> None:
        rows, problems = parse_csv(raw)
        assert all(row.text.strip() for row in rows)
        assert all(what for _, what in problems)

    fuzz(parse, [TABLE, b"label,text\nx,hello\n"], targets=targets)
