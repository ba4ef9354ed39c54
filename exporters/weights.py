"""Graphs in files, their weights beside them, each once for graphs of several lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

from exporters.targets.base import WEIGHTS

_EXTERNAL_FROM_BYTES: Final = 1024  # smaller constants stay in the graph, where shapes need them
_PAGE: Final = 4096  # bytes of memory: what begins on one can be mapped


def save_graphs(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Write `graphs` by file name, and the weights of all of them into `WEIGHTS`, each once."""
    places: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for name, model in graphs.items():
            written = onnx.ModelProto()
            written.CopyFrom(model)
            for tensor in _tensors(written.graph):
                raw = tensor.raw_data
                if len(raw) < _EXTERNAL_FROM_BYTES:
                    continue
                digest = hashlib.sha256(raw).digest()
                if digest not in places:
                    file.write(bytes(-file.tell() % _PAGE))
                    places[digest] = file.tell(), len(raw)
                    file.write(raw)
                _refer(tensor, *places[digest])
            (folder / name).write_bytes(written.SerializeToString(deterministic=True))


def save_whole(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Write `graphs` by file name, each with its weights inside."""
    for name, model in graphs.items():
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for tensor in graph.initializer:
        if not tensor.HasField("raw_data"):  # in a field of its type: as bytes, it can be moved
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
            )
        yield tensor


def _refer(tensor: TensorProto, offset: int, length: int) -> None:
    """Say where the bytes of `tensor` are, in place of them."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
