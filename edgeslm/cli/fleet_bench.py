"""`edgeslm fleet bench DEVICE --broker HOST`: have a device measure the model that it runs."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.cli.fleet_diagnosis import options_of, run


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    options = options_of("bench", __doc__)
    options.add_argument("--model", metavar="NAME", help="which; the device's only one, if absent")
    args = options.parse_args(argv)
    return run("bench", args, model=args.model)
