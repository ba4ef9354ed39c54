"""Inference alone: one session with one thread, called by two threads, no MQTT.

Prints the seconds that the texts took, after a few to warm up.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.rivals.bare import Bare

CALLERS = 2
WARM_UP = 20


def main() -> None:
    """Answer every text once and print the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one a line")
    args = parser.parse_args()
    bare = Bare(args.bundle, threads=1)
    texts = args.texts.read_text("utf-8").rstrip("\n").split("\n")
    for text in texts[:WARM_UP]:
        bare.answer(text)
    shares = [texts[caller::CALLERS] for caller in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as callers:
        begun = time.perf_counter()
        list(callers.map(lambda share: [bare.answer(text) for text in share], shares))
        print(time.perf_counter() - begun, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
