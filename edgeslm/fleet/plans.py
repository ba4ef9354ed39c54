"""Plans of roll-outs as files, which people write."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeslm.contract.base import parse_toml
from edgeslm.contract.rollout import Plan
from edgeslm.core.filters import FilterError, parse
from edgeslm.fleet.errors import PlanInvalidError

_MAX_BYTES: Final = 65_536
_REMEDY: Final = "docs/rollouts.md lists every key."


def read_plan(file: Path) -> Plan:
    """Return a roll-out's plan from a TOML file.

    Raises:
        PlanInvalidError: it cannot be read, or is wrong; names each key.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise PlanInvalidError(str(file), [("", what)], remedy="Check the path.") from None
    if len(raw) > _MAX_BYTES:
        what = f"longer than {_MAX_BYTES} bytes"
        raise PlanInvalidError(str(file), [("", what)], remedy=_REMEDY)
    plan = parse_toml(Plan, raw, file=str(file), remedy=_REMEDY, error=PlanInvalidError)
    try:
        parse(plan.where)
    except FilterError as err:
        what = f"character {err.position + 1}: {err.what}"
        raise PlanInvalidError(str(file), [("where", what)], remedy=_REMEDY) from None
    return plan
