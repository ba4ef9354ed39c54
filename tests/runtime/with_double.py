"""`edgeslm`, with the tests' own task among the others: `python with_double.py COMMAND ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm import tasks
from edgeslm.cli.main import main

tasks.__path__.append(str(Path(__file__).parent / "tasks"))
sys.exit(main())
