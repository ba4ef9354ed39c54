"""The straightforward script: a paho callback that tokenizes, runs the model and publishes.

ONNX Runtime with its default threads, batch 1, QoS 1; with `--cache N`, an `lru_cache` on the text.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.rivals.bare import Bare


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--into", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cache", type=int, default=0)
    args = parser.parse_args()
    infer = Bare(args.bundle).answer
    if args.cache:
        infer = lru_cache(args.cache)(infer)

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe(args.into, qos=1)

    def on_message(client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        answer = infer(message.payload.decode("utf-8", "replace"))
        client.publish(args.out, json.dumps(answer), qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", args.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
