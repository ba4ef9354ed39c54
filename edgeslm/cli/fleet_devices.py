"""`edgeslm fleet devices VERB`: find devices, look at one, tag them, forget them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from edgeslm.cli.fleet import add_database, database, opened, parser
from edgeslm.cli.text import printable, whole
from edgeslm.contract.base import Name
from edgeslm.errors import RejectedError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from edgeslm.fleet.database.registry import DeviceRow

_VERBS: Final = """\
  list    devices that match --where; all of them without it
  show    one: what it runs, and what it last said
  tag     give a tag, KEY=VALUE, or take one away, KEY=, to devices named or matching --where
  forget  remove devices from the registry; one that still speaks registers anew
"""
_PAGE: Final = 1000
_VALUE_CHARS: Final = 200
_SORTS: Final = ("id", "profile", "arch", "online", "health", "phase", "heard_at", "registered_at")


class TagError(RejectedError):
    """What should be tagged, or how, does not say so."""

    code = "fleet.tag"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = _options()
    args = options.parse_args(argv)
    if args.verb == "show" and len(args.devices) != 1:
        options.error("show: which one DEVICE?")
    if args.verb in {"tag", "forget"} and bool(args.devices) == (args.where is not None):
        options.error(f"{args.verb}: name DEVICEs, or give --where")
    if args.verb == "tag" and not args.tag:
        options.error("tag: --tag KEY=VALUE")
    _RUN[args.verb](database(args, opened(args)), args)
    return 0


def _list(engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.core.filters import parse  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import registry  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415

    expression, now = parse(args.where or ""), time.time()
    after: str | None = None
    left = args.limit
    with reading(engine) as conn:
        while True:
            page = registry.find(
                conn,
                expression,
                now=now,
                sort=cast("registry.Sort", args.sort),
                descending=args.descending,
                after=after,
                limit=min(left, _PAGE),
            )
            for device in page.devices:
                _say(json.dumps(_json_of(device)) if args.json else _line(device, now))
            left -= len(page.devices)
            after = page.next
            if after is None or left <= 0:
                break
    if not args.json:
        shown = args.limit - left
        _say(f"{shown} of {page.total} devices" if page.total else "no device matches")


def _show(engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.fleet.database import events, registry, rollouts  # noqa: PLC0415 -- as above
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.database.errors import UnknownDeviceError  # noqa: PLC0415

    name, now = args.devices[0], time.time()
    with reading(engine) as conn:
        device = registry.device(conn, name)
        if device is None:
            msg = f"{name}: not registered. A device registers itself when it connects."
            raise UnknownDeviceError(msg)
        told = events.newest(conn, device=name, limit=10)
        in_ = rollouts.of_device(conn, name, limit=5)
    if args.json:
        found = _json_of(device)
        found["state"], found["update"] = device.state, device.update
        found["events"] = [dataclasses.asdict(each) for each in told]
        found["rollouts"] = [
            {"rollout": number, "state": target.state.value, "reason": target.reason}
            for number, target in in_
        ]
        _say(json.dumps(found))
        return
    _say(_line(device, now))
    for model in device.models:
        answered = f"{model.answers} answers, {model.errors} errors, {model.alarms} alarms"
        p99 = f", p99 {model.p99_ms:.1f} ms" if model.p99_ms is not None else ""
        on = f" on {model.provider}" if model.provider else ""
        said = f": {model.error}" if model.error else ""
        _say(f"  {model.model} {model.version or '-'} {model.state}{said}{on}: {answered}{p99}")
    for number, target in in_:
        why = f": {target.reason}" if target.reason else ""
        _say(f"  roll-out {number}: {target.state.value}{why}")
    for each in told:
        _say(f"  {_utc(each.at)}  {each.event} {each.model} {each.code} {each.message}".rstrip())


def _tag(engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.fleet.database import audit, registry  # noqa: PLC0415 -- needs the extra

    key, equals, value = args.tag.partition("=")
    if not equals or not _is_key(key) or len(value) > _VALUE_CHARS or not value.isprintable():
        msg = (
            f"{args.tag!r}: not KEY=VALUE. A key has a-z, 0-9, '.', '_', '-', up to 64; a value "
            f"up to {_VALUE_CHARS} printable characters."
        )
        raise TagError(msg)
    now = time.time()
    names = _named(engine, args, now)
    with engine.begin() as conn:
        registry.tag(conn, names, key, value or None)
        what = "device.tagged" if value else "device.untagged"
        audit.record(conn, audit.at_terminal(), what, now=now, devices=names, key=key, value=value)
    _say(f"{len(names)} devices: {key} {'= ' + value if value else 'taken away'}")


def _forget(engine: Engine, args: argparse.Namespace) -> None:
    from edgeslm.fleet.database import audit, registry  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database.errors import UnknownDeviceError, some  # noqa: PLC0415

    now = time.time()
    names = _named(engine, args, now)
    with engine.begin() as conn:
        if unknown := [name for name in names if not registry.forget(conn, name)]:
            msg = f"{some(unknown)}: not registered; none was forgotten."
            raise UnknownDeviceError(msg)
        audit.record(conn, audit.at_terminal(), "device.forgotten", now=now, devices=names)
    _say(f"{len(names)} devices: forgotten")


def _named(engine: Engine, args: argparse.Namespace, now: float) -> list[str]:
    """Return the devices that the options name.

    Raises:
        NothingMatchesError: the filter matches none.
    """
    if args.devices:
        return sorted(set(args.devices))
    from edgeslm.core.filters import parse  # noqa: PLC0415 -- needs the extra
    from edgeslm.fleet.database import registry  # noqa: PLC0415
    from edgeslm.fleet.database.engine import reading  # noqa: PLC0415
    from edgeslm.fleet.service.preview import NothingMatchesError  # noqa: PLC0415

    with reading(engine) as conn:
        found = list(registry.ids(conn, parse(args.where), now=now))
    if not found:
        msg = f"{args.where}: matches no device that has registered. Correct it."
        raise NothingMatchesError(msg)
    return found


def _is_key(text: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


def _line(device: DeviceRow, now: float) -> str:
    tags = " ".join(f"{key}={value}" for key, value in sorted(device.tags.items()))
    models = " ".join(f"{each.model}:{each.version or '-'}" for each in device.models)
    ago = max(0.0, now - device.heard_at)
    here = "online" if device.online else "offline"
    return (
        f"{device.id:<24}  {device.profile or '-':<20}  {here:<7}"
        f"  {device.health:<8}  {device.phase:<9}  {ago:>7.0f} s ago  {models}  {tags}".rstrip()
    )


def _json_of(device: DeviceRow) -> dict[str, Any]:
    found = dataclasses.asdict(device)
    del found["state"], found["update"]
    return {**found, "given": sorted(device.given)}


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def _say(line: str) -> None:
    sys.stdout.write(printable(line + "\n"))


def _options() -> argparse.ArgumentParser:
    options = parser("edgeslm fleet devices", __doc__)
    options.epilog = f"verbs:\n{_VERBS}\n{options.epilog}"
    options.add_argument("verb", choices=list(_RUN), metavar="VERB")
    options.add_argument("devices", nargs="*", metavar="DEVICE")
    add_database(options)
    options.add_argument(
        "--where", metavar="FILTER", help="such as 'profile = pi-4 and heard_ago > 1h'"
    )
    options.add_argument("--tag", metavar="KEY=VALUE", help="tag: KEY= takes it away")
    options.add_argument("--sort", choices=_SORTS, default="id", help="list: by what (default: id)")
    options.add_argument("--descending", action="store_true", help="list: the other way round")
    options.add_argument(
        "--limit",
        type=whole(1, 1_000_000),
        default=50,
        metavar="N",
        help="list: so many at most (default: 50)",
    )
    options.add_argument("--json", action="store_true", help="one JSON object a line")
    return options


_RUN: Final[dict[str, Callable[[Engine, argparse.Namespace], None]]] = {
    "list": _list,
    "show": _show,
    "tag": _tag,
    "forget": _forget,
}
