"""OpenVINO by its own interface, where its plug-in offers no device: another maker's processor.

Settings are those of `edgeslm.providers.openvino.on`, one stream. Reads a line of JSON for each
turn, a list of texts as lists of token ids; prints the processor time that it took of all threads.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import openvino


def main() -> None:
    """Answer turn after turn until the input ends."""
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    model = openvino.Core().compile_model(sys.argv[1], "CPU", config)
    names = [port.get_any_name() for port in model.inputs]
    request = model.create_infer_request()
    for line in sys.stdin:
        feeds = []
        for ids in json.loads(line):
            row = np.array([ids], np.int64)
            values = {"attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
            feeds.append({name: {"input_ids": row, **values}[name] for name in names})
        begun = time.process_time()
        for feed in feeds:
            request.infer(feed)
        print(time.process_time() - begun, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
