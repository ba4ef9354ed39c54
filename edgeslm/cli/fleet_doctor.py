"""`edgeslm fleet doctor DEVICE --broker HOST`: have a device look at itself; say what it found."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.cli.fleet_diagnosis import options_of, run


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    args = options_of("doctor", __doc__).parse_args(argv)
    return run("doctor", args, model=None)
