"""The bare echo: a paho callback that publishes what it got. No model: what MQTT alone costs."""

from __future__ import annotations

import argparse
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--into", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    def on_connect(client: mqtt.Client, *_: Any) -> None:
        client.subscribe(args.into, qos=1)

    def on_message(client: mqtt.Client, _: Any, message: mqtt.MQTTMessage) -> None:
        client.publish(args.out, message.payload, qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = on_connect
    client.on_message = on_message
    client.connect("127.0.0.1", args.port)
    client.loop_forever()


if __name__ == "__main__":
    main()
