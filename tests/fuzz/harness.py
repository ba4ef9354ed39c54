"""Feeds a parser valid input that has been damaged, and holds it to one rule: it is total.

Whatever comes in, a parser returns, or raises the errors it documents, in time that a device can
spare. `make test` tries a little of everything; `FUZZ_SECONDS` in the environment goes on for so
long, shared among all targets, from another random seed in every round.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

QUICK_EXAMPLES: Final = 60
ROUND_EXAMPLES: Final = 500
MAX_BYTES: Final = 65_536
# CPU seconds for one input of at most MAX_BYTES on a slow machine; quadratic time is far beyond.
MAX_CPU_S: Final = 2.0

# What parsers have tripped over, here or elsewhere.
HOSTILE: Final = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r\n",
    b"\xe2\x80\xa8",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"1" * 5000,
    b"[" * 3000,
    b"a." * 3000,
    b'{"a":' * 1500,
    b'"\\ud800"',
    b"../../etc/passwd",
    b"%s%n{0}",
    b"1.1.1." * 800,
    b"/" * 4000,
    "¤\u202e🙂\u0301".encode(),
    b"1,234.5 12:30:01 0x1p-3",
)
_SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "../x", "a" * 300, [], {}, [[]], {"a": {}}]),
)


def mutants(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return inputs near `seeds`: flipped, cut, doubled, spliced, retyped, or plain noise."""
    return st.composite(_mutant)(list(seeds))


def _mutant(draw: Callable[[st.SearchStrategy[Any]], Any], seeds: list[bytes]) -> bytes:
    data: bytes = draw(st.sampled_from([*seeds, b""]))
    for mutate in draw(st.lists(st.sampled_from(_MUTATIONS), max_size=4)):
        data = mutate(draw, data, seeds)
    return data[:MAX_BYTES]


def _at(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> int:
    place: int = draw(st.integers(0, len(data)))
    return place


def _flip(draw: Any, data: bytes, _: list[bytes]) -> bytes:
    if not data:
        return data
    place = _at(draw, data[:-1])
    return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]


def _cut(draw: Any, data: bytes, _: list[bytes]) -> bytes:
    first, second = sorted((_at(draw, data), _at(draw, data)))
    return data[:first] if draw(st.booleans()) else data[:first] + data[second:]


def _double(draw: Any, data: bytes, _: list[bytes]) -> bytes:
    first, second = sorted((_at(draw, data), _at(draw, data)))
    times: int = draw(st.integers(1, 20))
    return data[:second] + data[first:second] * times + data[second:]


def _splice(draw: Any, data: bytes, seeds: list[bytes]) -> bytes:
    other: bytes = draw(st.sampled_from(seeds))
    return data[: _at(draw, data)] + other[_at(draw, other) :]


def _insert(draw: Any, data: bytes, _: list[bytes]) -> bytes:
    place = _at(draw, data)
    what = draw(st.sampled_from(HOSTILE) | st.binary(max_size=30) | st.text(max_size=20))
    return (
        data[:place]
        + (what.encode("utf-8", "replace") if isinstance(what, str) else what)
        + (data[place:])
    )


def _retype(draw: Any, data: bytes, _: list[bytes]) -> bytes:
    """Put another value into a place of a JSON document, of one of its lines, or of TOML."""
    path: list[int] = draw(st.lists(st.integers(0, 30), max_size=5))
    value = draw(_SCALARS)
    with contextlib.suppress(ValueError, RecursionError):
        return "\n".join(_toml(replaced(tomllib.loads(data.decode()), path, value))).encode()
    lines = data.split(b"\n") if draw(st.booleans()) else [data]
    number = draw(st.integers(0, len(lines) - 1))
    with contextlib.suppress(ValueError, RecursionError):
        lines[number] = json.dumps(replaced(json.loads(lines[number]), path, value)).encode()
    return b"\n".join(lines)


def _toml(table: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield `table` as lines of TOML, or nearly so: a mutant need not be valid."""
    if not isinstance(table, dict):
        yield json.dumps(table, ensure_ascii=False)
        return
    if path:
        yield f"[{'.'.join(map(json.dumps, path))}]"
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False, default=str)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml(value, (*path, key))


def replaced(node: Any, path: list[int], value: object) -> Any:
    """Return `node` with `value` at `path`, whose steps count keys; its end may drop or add one."""
    if not path or not isinstance(node, dict | list) or not node:
        return value
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = keys[path[0] % len(keys)]
    if isinstance(node, list):
        return [*node[:key], replaced(node[key], path[1:], value), *node[key + 1 :]]
    if len(path) > 1 or path[0] < len(keys):
        return {**node, key: replaced(node[key], path[1:], value)}
    return {k: v for k, v in node.items() if k != key} | {f"{key}_": value}


_MUTATIONS: Final[tuple[Callable[[Any, bytes, list[bytes]], bytes], ...]] = (
    _flip,
    _cut,
    _double,
    _splice,
    _insert,
    _retype,
    _retype,
)


def fuzz(
    parse: Callable[[bytes], object],
    seeds: Sequence[bytes],
    *,
    allowed: tuple[type[Exception], ...] = (),
    targets: int,
) -> None:
    """Hold `parse` to the rule; `seeds` are inputs that it takes without an error.

    Args:
        parse: what is tried; it may also assert on what it gets.
        seeds: at least one.
        allowed: errors that it documents.
        targets: among how many FUZZ_SECONDS are shared.
    """
    for each in seeds:
        parse(each)

    def once(data: bytes) -> None:
        began, said = time.thread_time(), "nothing"
        try:
            parse(data)
        except allowed as err:
            said = str(err)
        assert said
        assert time.thread_time() - began < MAX_CPU_S

    def run(examples: int) -> Callable[[], None]:
        options = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        return options(given(mutants(seeds))(once))

    if not (seconds := float(os.environ.get("FUZZ_SECONDS", "0"))):
        run(QUICK_EXAMPLES)()
        return
    until = time.monotonic() + seconds / targets
    while time.monotonic() < until:
        seed(secrets.randbits(64))(run(ROUND_EXAMPLES))()
