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

from edgeslm.contract.messages import ModelRef, Result, encode
from edgeslm.core.inputs import (
    Fields,
    Input,
    InputJsonError,
    InputTooLongError,
    decode_text,
    parse_json,
    read_fields,
)
from edgeslm.errors import EXIT_REJECTED, EdgeSLMError
from edgeslm.ports import Request
from edgeslm.runtime.golden import user_verdicts
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import load_profile
from edgeslm.runtime.result import answered, refused
from edgeslm.runtime.stream import Group, Line, map_in_order, read_groups

DEFAULT_MAX_BYTES: Final = 65_536  # as of a route
_FIELDS: Final = Fields(("text",), ("source",), ("time",), ("key",), ("id",))
_EPILOG: Final = """\
Each line of input gives one line of output, in order: the result that the agent would publish.
A line is a text, or a JSON object with "text" and, where known, "source", "time", "key" and "id".

exit status:
  0   every line was answered
  65  a line got an error result in place of an answer, or the bundle cannot be used
  78  the device profile cannot be used
"""


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


@dataclass(frozen=True, slots=True)
class _Answering:
    """Answers groups of lines; called on several threads at once."""

    model: Model
    form: str
    source: str
    device: str
    share: str
    max_bytes: int

    def __call__(self, group: Group) -> tuple[bytes, bool]:
        """Return the results, a line each, and whether all are answers."""
        results = [self._result(line, group) for line in group.lines]
        payload = b"".join(encode(result) + b"\n" for result in results)
        return payload, not any("error" in result for result in results)

    def _result(self, line: Line, group: Group) -> Result:
        request, id_ = None, str(line.number)
        try:
            given = read_line(line, form=self.form, max_bytes=self.max_bytes)
            id_ = id_ if given.id is None else given.id
            source = self.source if given.source is None else given.source
            request = Request(given.text, source, given.time, given.key)
            answer = self.model.answer(request)
        except EdgeSLMError as err:
            envelope = self._envelope(group, id_)
            return refused(err.code, str(err), request=request, **envelope)
        return answered(answer, request=request, **self._envelope(group, id_))

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
            "share": self.share,
        }


def read_line(line: Line, *, form: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Input:
    """Return what a line says.

    Args:
        line: as read.
        form: "text", "json", or "auto": JSON where it is an object with "text".
        max_bytes: longest line allowed.

    Raises:
        InputError: too long, not UTF-8, or not the JSON it should be.
    """
    if line.too_long:
        msg = f"longer than {max_bytes} bytes"
        raise InputTooLongError(msg)
    text = decode_text(line.data, max_bytes=max_bytes)
    if form == "text" or (form == "auto" and not text.lstrip().startswith("{")):
        return Input(text)
    try:
        document = parse_json(text)
    except InputJsonError:
        if form == "auto":
            return Input(text)
        raise
    if form == "auto" and not (isinstance(document, dict) and "text" in document):
        return Input(text)
    return read_fields(document, _FIELDS)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = _arguments(argv)
    model = load_model(
        args.bundle,
        profile=load_profile(args.profile) if args.profile else None,
        cache_entries=0 if args.no_cache else args.cache_entries,
        verdict_dir=user_verdicts(),
    )
    answering = _Answering(model, args.format, args.source, args.device, args.share, args.max_bytes)
    groups = read_groups(sys.stdin.fileno(), max_bytes=args.max_bytes)
    all_answered = True
    for payload, good in map_in_order(groups, answering, threads=args.threads):
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
    add("--source", default="", help="which machine, for lines that do not say")
    add("--device", default="local", help="the results' device (default: local)")
    add("--share", choices=("none", "explanation", "text"), default="none", help="as in a route")
    add("--profile", help="device profile, by name or .toml file")
    add("--threads", type=positive, default=os.cpu_count() or 1, help="callers (default: cores)")
    add("--cache-entries", type=positive, default=4096, help="model outputs kept (default: 4096)")
    add("--no-cache", action="store_true", help="run the model for every line; same results")
    add("--max-bytes", type=positive, default=DEFAULT_MAX_BYTES, help="longest line allowed")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Read a whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        msg = "not above zero"
        raise argparse.ArgumentTypeError(msg)
    return number
