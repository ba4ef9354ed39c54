"""Counts what becomes of mutated inputs: refused by an error of ours, accepted, or neither.

The targets beside it look for one failure and shrink it. Here a given number of different inputs is
judged from a fixed seed, so that a run can be repeated, and cheaply enough for whole installs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from edgeslm.errors import EdgeSLMError
from tests.fuzz.harness import HOSTILE, replaced

MOST_BYTES: Final = 512 * 1024
MOST_TRIES: Final = 50  # for each that counts: beyond it, most mutants would mean the same
HEAD_BYTES: Final = 32  # where most formats say what they are; changed more often than the rest
SAY_EVERY: Final = 1_000
SHOWN: Final = 5
_CODES: Final = Path(__file__).parents[2] / "docs" / "error-codes.md"
DOCUMENTED: Final = frozenset(re.findall(r"^\| `([a-z_.]+)` \|", _CODES.read_text(), re.MULTILINE))
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2**53 + 1, 2**70, -(2**70), 0.5, -0.0, 1e308),
    *("", "\0", "../x", "a" * 300, "\ud800", [], {}, [[]], {"a": {}}),
)

Verdict = Literal["accepted", "refused", "same"]
"""`same`: what came out is byte for byte what the valid input leads to, so it was no mutant."""
Mutate = Callable[[random.Random, Sequence[bytes]], bytes]


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of `seeds`, damaged one to three times; at times it is still the same."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_MUTATIONS)(rng, data, seeds)
    return data[:MOST_BYTES]


def _flip(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(min(len(data), HEAD_BYTES) if rng.random() < 1 / 3 else len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    first, second = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:first] if rng.random() < 0.5 else data[:first] + data[second:]


def _double(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    piece = data[at : at + rng.randint(1, 600)]
    return data[:at] + piece * rng.randint(2, 9) + data[at + len(piece) :]


def _splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _insert(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    what = rng.choice((*HOSTILE, rng.randbytes(rng.randint(1, 30))))
    return data[:at] + what + data[at:]


def _retype(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Put another value into a place of a JSON document; of anything else, flip a bit."""
    path = [rng.randint(0, 30) for _ in range(rng.randint(0, 6))]
    with contextlib.suppress(ValueError, RecursionError):
        return _compact(replaced(json.loads(data), path, rng.choice(_VALUES)))
    return _flip(rng, data, ())


def _nudge(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Change one value of a JSON document into another of its type; of anything else, flip a bit.

    Such a mutant is well-formed: what refuses it has read it.
    """
    with contextlib.suppress(ValueError, RecursionError):
        held = json.loads(data)
        if leaves := list(_leaves(held)):
            node, key = rng.choice(leaves)
            node[key] = _other(rng, node[key])
            return _compact(held)
    return _flip(rng, data, ())


def _compact(value: object) -> bytes:
    """As the fleet writes: a mutant of the right length gets further."""
    return json.dumps(value, separators=(",", ":")).encode()


def _leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value that holds no others, as where it is and by what key."""
    if not isinstance(node, dict | list):
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _leaves(value)
        else:
            yield node, key


def _other(rng: random.Random, value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + rng.choice((-1, 1))
        case str() if value:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice("0123456789abcdef") + value[at + 1 :]
        case _:
            return rng.choice(_VALUES)


_MUTATIONS: Final = (_flip, _cut, _double, _splice, _insert, *(_retype,) * 2, *(_nudge,) * 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is mutated, and what a device makes of it.

    Args:
        name: of the case; also the seed of its mutants.
        seeds: valid inputs.
        differs: whether an input means something else than any valid one, by means that are not
            those under test.
        take: has the device take an input; raises what refuses it.
        mutate: makes inputs of the seeds.
    """

    name: str
    seeds: Sequence[bytes]
    differs: Callable[[bytes], bool]
    take: Callable[[bytes], Verdict]
    mutate: Mutate = mutated


@dataclass(slots=True)
class Tally:
    """What became of the inputs of a case.

    Attributes:
        mutated: different inputs that mean something else than a valid one.
        accepted: of these, how many were taken for genuine.
        untyped: of these, how many raised what is none of our documented errors.
        refusals: how often each code refused one; "": without an error.
        examples: some that were accepted or untyped, and why.
    """

    name: str
    mutated: int = 0
    accepted: int = 0
    untyped: int = 0
    seconds: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, bytes]] = field(default_factory=list)

    def __str__(self) -> str:
        codes = ", ".join(f"{code or '(ignored)'} {n}" for code, n in self.refusals.most_common())
        return (
            f"{self.name}: {self.mutated} mutants, {self.accepted} accepted, {self.untyped} "
            f"untyped, {self.seconds:.0f} s; refused by {codes or 'nothing'}"
        )


def count(case: Case, wanted: int) -> Tally:
    """Judge `wanted` different mutants; valid inputs must be taken, before and after."""
    assert not any(case.differs(seed) for seed in case.seeds), case.name
    assert "refused" not in map(case.take, case.seeds), case.name
    tally = Tally(case.name)
    rng = random.Random(case.name)  # noqa: S311 -- mutants to be made again
    seen: set[bytes] = set()
    began = time.monotonic()
    for _ in range(wanted * MOST_TRIES):
        if tally.mutated == wanted:
            break
        raw = case.mutate(rng, case.seeds)
        digest = hashlib.sha256(raw).digest()
        if digest in seen or not case.differs(raw):
            continue
        seen.add(digest)
        before = tally.mutated
        _judge(case, raw, tally)
        tally.seconds = time.monotonic() - began
        if tally.mutated > before and tally.mutated % SAY_EVERY == 0:
            print(tally, flush=True)  # noqa: T201 -- it takes minutes
    if not tally.accepted:  # or what was accepted may rightly stand in their way
        assert "refused" not in map(case.take, case.seeds), case.name
    return tally


def _judge(case: Case, raw: bytes, tally: Tally) -> None:
    try:
        verdict = case.take(raw)
    except EdgeSLMError as err:
        if err.code not in DOCUMENTED or not str(err):
            tally.untyped += 1
            tally.examples.append((repr(err), raw))
        tally.refusals[err.code] += 1
    except Exception as err:  # noqa: BLE001 -- it is what is counted
        tally.untyped += 1
        tally.examples.append((repr(err), raw))
    else:
        if verdict == "same":
            return
        if verdict == "accepted":
            tally.accepted += 1
            tally.examples.append((verdict, raw))
        else:
            tally.refusals[""] += 1
    tally.mutated += 1
