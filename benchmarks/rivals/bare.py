"""The bare process: onnxruntime, tokenizers and a bundle's model, nothing else.

As a program: answer the first line of `--texts`, print the answer, answer the rest, print
`done`, and stay until standard input closes, to be weighed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MAX_TOKENS = 128


class Bare:
    """One session, one tokenizer.

    Args:
        bundle: folder of a bundle whose first graph takes texts of any length.
        threads: of one inference; 0: ONNX Runtime's own choice.
    """

    def __init__(self, bundle: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        manifest = json.loads((bundle / "manifest.json").read_bytes())
        path = next(a["path"] for a in manifest["artifacts"] if a["role"] == "graph")
        graph = str(bundle / path)
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.inputs = [i.name for i in self.session.get_inputs()]
        self.output = self.session.get_outputs()[0].name

    def feeds(self, text: str) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
        """Return the graph's inputs for one text."""
        encoded = self.tokenizer.encode(text)
        columns = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        return {name: np.array([columns[name]], np.int64) for name in self.inputs}

    def answer(self, text: str) -> dict[str, float]:
        """Return the best label's index and probability; of one number, that number."""
        row = self.session.run([self.output], self.feeds(text))[0][0]
        if row.ndim == 0:
            return {"score": float(row)}
        odds = np.exp(row - row.max())
        best = int(odds.argmax())
        return {"label": best, "confidence": float(odds[best] / odds.sum())}


def main() -> None:
    """Answer, then wait to be weighed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one a line")
    args = parser.parse_args()
    bare = Bare(args.bundle)
    with args.texts.open(encoding="utf-8", newline="\n") as texts:
        print(json.dumps(bare.answer(next(texts).rstrip("\n"))), flush=True)  # noqa: T201
        for text in texts:
            bare.answer(text.rstrip("\n"))
    print("done", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
