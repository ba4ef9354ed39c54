"""An ONNX file with a tokenizer.json beside it, or named by the user."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # has no stubs

from exporters.cache import pins
from exporters.sources.base import (
    SourceError,
    digest_of,
    read_tokenizer,
    sha256_of,
    tidy_encoder,
    write_encoder,
)


class OnnxFile:
    """Implements `exporters.sources.base.Source`."""

    def __init__(self, path: Path, tokenizer: Path) -> None:
        self.name = path.name
        self._path = path
        self._model = _load(path)
        self._tokenizer = read_tokenizer(tokenizer)

    def digest(self) -> bytes:
        facts = [self._tokenizer.decode("utf-8"), pins(["onnx", "tokenizers"])]
        return digest_of([self._path, *_external(self._path)], facts)

    def export(self, folder: Path) -> None:
        write_encoder(
            folder,
            tidy_encoder(self._model, file=str(self._path)),
            self._tokenizer,
            weights_sha256=self._weights_sha256(),
            max_positions=None,
        )

    def _weights_sha256(self) -> str:
        files = _external(self._path) or [self._path]
        return sha256_of(files[0]) if len(files) == 1 else digest_of(files, None).hex()


def open_source(name: str, *, tokenizer: Path | None) -> OnnxFile | None:
    """See `exporters.sources.base.SourceFactory`."""
    path = Path(name)
    if path.suffix.lower() != ".onnx":
        return None
    return OnnxFile(path, tokenizer or path.parent)


def _load(path: Path) -> onnx.ModelProto:
    """Return the model with its external weights.

    Raises:
        SourceError: not readable, not ONNX, or weights outside its folder.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as err:
        msg = f"{path}: {err.strerror}"
        raise SourceError(msg) from None
    except (DecodeError, ValueError, onnx.checker.ValidationError) as err:
        msg = f"{path}: not a usable ONNX file: {str(err).splitlines()[0][:200]}"
        raise SourceError(msg) from None
    return model


def _external(path: Path) -> list[Path]:
    """Files beside `path` that hold its weights, if any."""
    model = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]
