"""`edgeslm` that tells, each time it opens a graph, how many models it holds already."""

from __future__ import annotations

import runpy
import weakref
from pathlib import Path
from typing import Any

from edgeslm.logs import Log
from edgeslm.runtime import model

log = Log(__name__)
_open, _begin = model._open_graphs, model.Model.__init__  # noqa: SLF001 -- what takes memory
_held: weakref.WeakSet[model.Model] = weakref.WeakSet()


def opened(*args: Any, **kwargs: Any) -> Any:
    log.info("graph_opened", beside=len(_held))
    return _open(*args, **kwargs)


def begin(self: model.Model, *args: Any, **kwargs: Any) -> None:
    _begin(self, *args, **kwargs)
    _held.add(self)


model._open_graphs = opened  # noqa: SLF001
model.Model.__init__ = begin  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).with_name("with_brittle.py")), run_name="__main__")
