"""The key of a kept bundle covers every module that the exporter and the runtime are made of."""

import subprocess
import sys
from pathlib import Path

from edgeslm.demo import bundles

ROOT = Path(bundles.__file__).parent.parent.parent
# Loaded beside them, and none of a bundle's bytes depend on it.
BESIDE = {"errors", "ports", "adapters/fs", "adapters/clock", "adapters/process", "__init__"}


def test_it_covers_what_an_export_imports() -> None:
    code = (
        "import sys, exporters.cli, exporters.export\n"
        "import exporters.recipes.anomaly, exporters.recipes.intent, edgeslm.runtime.model\n"
        "files = (m.__file__ for n, m in sys.modules.items() if n.startswith('edgeslm.'))\n"
        "print(*files, sep='\\n')"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    keyed = {path for pattern in bundles._CODE for path in ROOT.glob(pattern)}  # noqa: SLF001
    loaded = {Path(line) for line in out.stdout.split()}
    beside = {ROOT / f"edgeslm/{name}.py" for name in BESIDE}
    messages = {ROOT / f"edgeslm/contract/{n}.py" for n in ("messages", "settings", "topics")}
    packages = {path for path in loaded if path.name == "__init__.py"}
    assert loaded - keyed - beside - messages - packages == set()
    assert len(keyed & loaded) > 20
