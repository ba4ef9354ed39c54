"""`edgeslm infer BUNDLE`: answer lines from standard input, without a broker."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from edgeslm.agent.reading import Reading, read
from edgeslm.cli.text import printable, whole
from edgeslm.contract.messages import ModelRef, Result, encode
from edgeslm.contract.routes import Route
from edgeslm.errors import EXIT_REJECTED, EdgeSLMError, RejectedError
from edgeslm.ports import Memory, Received
from edgeslm.runtime.golden import user_verdicts
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.model import Reading as ModelReading
from edgeslm.runtime.placement import remarks
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.result import answered, refused
from edgeslm.runtime.stream import Group, Line, map_in_order, read_groups

_ROUTE: Final = Route(topic="#", models=("model",))  # as an agent that is told nothing else
_FIELDS: Final = {name: f"/{name}" for name in ("text", "source", "time", "key", "last", "id")}
_EPILOG: Final = """\
Each line of input gives one line of output, in order: the result that the agent would publish.
A line is a text, or a JSON object with "text" and, where known, "source", "time", "key", "last" and
"id".
With --format auto a line that begins with "{" must be such an object, else its result is an error;
with --format text it is a text like any other.
A text alone has no source: a bundle trained on several machines judges it as one of a machine it
does not know (source_known is false), unless --source names the machine.

exit status:
  0   every line was answered
  65  a line got an error result in place of an answer, or the bundle or a standard stream
      cannot be used
  78  the device profile cannot be used
"""


class ClosedStreamError(RejectedError):
    """Standard input or output is closed."""

    code = "stream.closed"


class _Envelope(TypedDict):
    """What answers and errors have in common."""

    ref: ModelRef
    task: str
    device: str
    topic: None
    id: str
    time_in: float
    time_out: float
    latency_ms: float
    share: str


_Read = tuple[Line, Reading, ModelReading | Exception | None]
"""A line, what it asks, and what the model read of that; None: it asks nothing."""


@dataclass(frozen=True, slots=True)
class _Answering:
    """Answers groups of lines: `read` on several threads at once, `judge` in order."""

    model: Model
    memory: Memory | None
    form: str
    device: str
    text: Route
    fields: Route
    source: str

    def answer(self, group: Group) -> tuple[bytes, bool]:
        """Do both, which will do where nothing is remembered."""
        return self.judge(self.read(group))

    def read(self, group: Group) -> tuple[Group, list[_Read]]:
        """Return the group, its lines read."""
        return group, [self._ask(line) for line in group.lines]

    def judge(self, both: tuple[Group, list[_Read]]) -> tuple[bytes, bool]:
        """Return the results, a line each, and whether all are answers."""
        group, lines = both
        results = [self._result(group, *one) for one in lines]
        payload = b"".join(encode(result) + b"\n" for result in results)
        return payload, not any("error" in result for result in results)

    def _ask(self, line: Line) -> _Read:
        reading = self._read(line)
        if reading.request is None:
            return line, reading, None
        (read,) = self.model.read([reading.request])
        return line, reading, read

    def _result(
        self, group: Group, line: Line, reading: Reading, read: ModelReading | Exception | None
    ) -> Result:
        request, code, why = reading.request, reading.code, reading.why
        id_ = reading.own_id or str(line.number)
        if request is not None and read is not None:
            (answer,) = self.model.judge([read], self.memory)
            if isinstance(answer, EdgeSLMError):
                code, why = answer.code, str(answer)
            elif isinstance(answer, Exception):  # one line must not end the others
                code, why = "internal", type(answer).__name__
            else:
                return answered(answer, request=request, **self._envelope(group, id_))
        return refused(code, why, request=request, **self._envelope(group, id_))

    def _read(self, line: Line) -> Reading:
        """Read a line as a message with this payload would be read."""
        if line.too_long:
            why = f"longer than {self.text.max_bytes} bytes"
            return Reading(None, code="input.too_long", why=why)
        message = Received(
            self.source, line.data, 0, 0, dup=False, retain=False, epoch=0, received_at=0
        )
        if self.form == "text" or (self.form == "auto" and not line.data.lstrip().startswith(b"{")):
            return read(message, self.text)
        return read(message, self.fields)

    def _envelope(self, group: Group, id_: str) -> _Envelope:
        return {
            "ref": self.model.ref,
            "task": self.model.task,
            "device": self.device,
            "topic": None,
            "id": id_,
            "time_in": group.time,
            "time_out": time.time(),
            "latency_ms": (time.monotonic() - group.monotonic) * 1e3,
            "share": self.text.share,
        }


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status.

    Raises:
        EdgeSLMError: the bundle, the profile or a standard stream cannot be used.
    """
    args = _arguments(argv)
    for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
        if stream is None:
            msg = f"standard {name} is closed; give a file, a pipe or a terminal"
            raise ClosedStreamError(msg)
    model = load_model(
        args.bundle,
        profile=load_profile(args.profile) if args.profile else None,
        variant=args.variant,
        cache_entries=0 if args.no_cache else args.cache_entries,
        verdict_dir=user_verdicts(),
    )
    for remark in remarks(model):
        sys.stderr.write(printable(f"edgeslm infer: note: {remark}\n"))
    text = _ROUTE.model_copy(update={"max_bytes": args.max_bytes, "share": args.share})
    memory = model.memory()
    answering = _Answering(
        model=model,
        memory=memory,
        form=args.format,
        device=args.device,
        text=text,
        fields=text.model_copy(update=_FIELDS),
        source=args.source,
    )
    groups = read_groups(sys.stdin.fileno(), max_bytes=args.max_bytes)
    if memory is None or not memory.ordered:
        done = map_in_order(groups, answering.answer, threads=args.threads)
    else:
        read = map_in_order(groups, answering.read, threads=args.threads)
        done = (answering.judge(both) for both in read)
    all_answered = True
    for payload, good in done:
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()  # whoever reads may be waiting for just this line
        all_answered = all_answered and good
    return 0 if all_answered else EXIT_REJECTED


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgeslm infer",
        description=(__doc__ or "").partition(": ")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", type=Path, help="bundle folder")
    add("--format", choices=("auto", "text", "json"), default="auto", help="of the lines")
    add("--source", default="", help="which machine, for lines that do not say (default: none)")
    add("--device", default="local", help="the results' device (default: local)")
    add("--share", choices=("none", "explanation", "text"), default="none", help="as in a route")
    add("--profile", help="device profile, by name or .toml file")
    add("--variant", help="which of the bundle's (default: the first that this device can run)")
    add(
        "--threads",
        type=whole(1, 64),
        default=os.cpu_count() or 1,
        help="callers (default: cores)",
    )
    add(
        "--cache-entries",
        type=whole(1, 1_000_000),
        default=4096,
        help="model outputs kept (default: 4096)",
    )
    add("--no-cache", action="store_true", help="run the model for every line; same results")
    add(
        "--max-bytes",
        type=whole(1, 1 << 24),
        default=_ROUTE.max_bytes,
        help="longest line allowed",
    )
    return parser.parse_args(argv)
