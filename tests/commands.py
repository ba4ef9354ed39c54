"""Commands run in the tests' own process, which spares each the seconds that imports take."""

from __future__ import annotations

import contextlib
import io
import subprocess

from edgeslm.cli.main import main


def here(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `edgeslm ARGV`, for what needs no process of its own: one that sets up no logs."""
    out, err = io.StringIO(), io.StringIO()
    status: object
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as ended:  # as argparse ends
            status = ended.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())
