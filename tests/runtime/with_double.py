"""`edgeslm`, with the tests' own task and provider: `python with_double.py COMMAND ...`."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm import providers, tasks
from edgeslm.cli.main import main

HERE = Path(__file__).parent
tasks.__path__.append(str(HERE / "tasks"))
providers.__path__.append(str(HERE / "providers"))
sys.exit(main())
