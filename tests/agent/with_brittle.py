"""`edgeslm`, with the tests' own tasks among the others."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm import tasks
from edgeslm.cli.main import main

HERE = Path(__file__).parent
tasks.__path__ += [str(HERE / "tasks"), str(HERE.parent / "runtime" / "tasks")]
sys.exit(main())
