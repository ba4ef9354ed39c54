"""edgeslm: a small language model next to the machine it listens to."""

import os
from typing import Final

__version__ = "0.1.0"
RELEASED: Final = "2026-11-01"  # no clock can be right that is before it

# Official builds of ONNX Runtime (from 1.29) report to their maker, from Linux too, unless told
# otherwise before they are loaded. Nothing leaves the plant that its owner has not asked for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
