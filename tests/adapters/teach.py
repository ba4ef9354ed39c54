"""Teaches a log of lessons, one after another, and says of each when it is kept."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeslm.adapters.lessons import LessonLog, Taught
from edgeslm.core.overlay import Lesson


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main(path: str, count: str) -> None:
    """Keep so many lessons, take every third back, and print the numbers of those that count."""
    log = LessonLog(Path(path), max_lessons=1000, max_bytes=2**20)
    for i in range(int(count)):
        lesson = Lesson(0, "normal", f"text {i}", source="a", time=float(i))
        kept, _ = log.add(Taught("m", lesson, "Anna", "t" * 16), f"digest {i}")
        say(kept.lesson.id)
        if i % 3 == 2:
            log.undo([kept.lesson.id], at=float(i), by="")
            say(-kept.lesson.id)
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
