"""Plans of roll-outs as files, which people write."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeslm.contract.rollout import Plan
from edgeslm.core.filters import FilterError, parse
from edgeslm.fleet.errors import PlanInvalidError
from edgeslm.fleet.files import read_toml_file

_MAX_BYTES: Final = 65_536
_REMEDY: Final = "docs/rollouts.md lists every key."


def read_plan(file: Path) -> Plan:
    """Return a roll-out's plan from a TOML file.

    Raises:
        PlanInvalidError: it cannot be read, or is wrong; names each key.
    """
    plan = read_toml_file(Plan, file, max_bytes=_MAX_BYTES, remedy=_REMEDY, error=PlanInvalidError)
    try:
        parse(plan.where)
    except FilterError as err:
        what = f"character {err.position + 1}: {err.what}"
        raise PlanInvalidError(str(file), [("where", what)], remedy=_REMEDY) from None
    return plan
