"""What int8 saves: bytes on disk, time of one inference."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
import onnxruntime

from benchmarks import bundles, cases
from benchmarks.errors import RunFailedError
from benchmarks.figures import Measured
from benchmarks.setup import Setup
from benchmarks.stats import paired
from benchmarks.turns import Run, in_turns
from edgeslm.adapters.ort import make_session
from edgeslm.demo.bundles import WEIGHTS_PACKAGE
from edgeslm.providers import cpu
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.tokenizer import Tokenizer
from exporters.heads.base import embedder
from exporters.sources import open_source
from exporters.sources.base import read_encoder

_TOKENS: Final = range(16, 33)
_TEXTS: Final = 200
_QUICK_TEXTS: Final = 20


def int8(setup: Setup) -> dict[str, Measured]:
    """The bundle's graph against the encoder that it was made from, fp32 and pooled, without head.

    Both with one thread, turn by turn: ours opened as a device opens it, fp32 by ONNX Runtime's
    defaults, which rewrite it as far as they can.
    """
    bundle = bundles.intent(setup, "clinc150")
    setup.tell("exporting fp32")
    fp32 = _fp32(setup.work / "fp32")
    opened = open_bundle(bundle)
    files = opened.of(opened.manifest.variants()[0])
    [graph] = files.artifacts("graph")
    small = make_session(bundle / graph.path, options=cpu.options(graph))
    large = _session(fp32)
    tokenizer = Tokenizer((bundle / "tokenizer.json").read_bytes(), max_tokens=_TOKENS[-1])
    texts = [row.text for part in ("train", "eval") for row in cases.rows(setup, "clinc150", part)]
    read = [tokenizer.encode(text) for text in texts]
    feeds = [f for f, cut in read if not cut and f["input_ids"].shape[1] in _TOKENS]
    feeds = feeds[: _QUICK_TEXTS if setup.quick else _TEXTS]
    if not feeds:
        msg = f"no text of {_TOKENS[0]} to {_TOKENS[-1]} tokens"
        raise RunFailedError(msg)
    # Both before the first round: the clock sees neither's inputs being picked.
    mine = [{name: feed[name] for name in small.inputs} for feed in feeds]
    took = in_turns(setup, (small.run, mine), (large, feeds))
    ours, rivals = ([len(feeds) / seconds for seconds in one] for one in took)
    size = sum(file.stat().st_size for file in (bundle / graph.path).parent.glob("model.onnx*"))
    return {
        "int8-size": paired([size / 1e6], [fp32.stat().st_size / 1e6]),
        "int8-speed": paired(ours, rivals),
    }


def _fp32(folder: Path) -> Path:
    """Export the encoder anew, with the pooling that heads begin with."""
    folder.mkdir()
    open_source(f"package:{WEIGHTS_PACKAGE}", tokenizer=None).export(folder)
    encoder = read_encoder(folder)
    file = folder / "fp32.onnx"
    onnx.save(embedder(encoder.model, encoder.dim), file)
    return file


def _session(graph: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))
