"""Say which links between the repository's Markdown pages lead nowhere; status 1 if any does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Return the anchors that forges give the headings of `page`."""
    titles = _HEADING.findall(_FENCE.sub("", page))
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def broken(page: Path) -> list[str]:
    """Return the links of `page` that do not resolve inside the repository."""
    found = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere: not ours to keep alive
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT):
            found.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            found.append(f"{target}: no such heading")
    return found


def pages() -> Iterator[Path]:
    """Yield every Markdown page outside hidden folders."""
    for folder, inside, files in os.walk(ROOT):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if name.endswith(".md"))


def main() -> int:
    """Check every page."""
    faults = [f"{page.relative_to(ROOT)}: {fault}" for page in pages() for fault in broken(page)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
