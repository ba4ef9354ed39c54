"""`edgeslm`, with the tests' own tasks and provider among the others."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm import providers, tasks
from edgeslm.cli.main import main

HERE = Path(__file__).parent
tasks.__path__ += [str(HERE / "tasks"), str(HERE.parent / "runtime" / "tasks")]
providers.__path__.append(str(HERE.parent / "runtime" / "providers"))
sys.exit(main())
