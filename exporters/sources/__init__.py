"""Where models come from. Adding a source is adding a file that exports `open_source`."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from exporters.sources.base import Source, SourceError, SourceFactory

_KINDS: Final = "a Hugging Face folder or hub id, an .onnx file, or package:NAME"


def open_source(name: str, *, tokenizer: Path | None) -> Source:
    """Return the source that `name` stands for.

    Args:
        name: as given to `--model`.
        tokenizer: file or folder to take the tokenizer from, in place of the model's own.

    Raises:
        SourceError: no kind of source knows it, or it cannot be used.
    """
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        if module == "base":
            continue
        factory = cast("SourceFactory", import_module(f"{__name__}.{module}").open_source)
        if source := factory(name, tokenizer=tokenizer):
            return source
    msg = f"{name}: no such model; give {_KINDS}"
    raise SourceError(msg)
