"""A device that fetches one blob when it is told to, and says how long that took.

Run by benchmarks/groups/push.py: prints `ready`, begins at a message on `GO`, prints one line of
JSON: `seconds` from its first request to the verified hash.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.contract.settings import UpdateSettings
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.ports import Letter
from edgeslm.updater.download import Fetcher
from edgeslm.updater.mailbox import IN_FLIGHT, MAX_PACKET_BYTES, RECEIVE_MAXIMUM, Mailbox

GO: Final = "benchmarks/go"


class TimedMailbox(Mailbox):
    """Notes when the first thing was sent."""

    first_at = 0.0

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1, keep: bool = True
    ) -> None:
        """See `Mailbox.send`."""
        self.first_at = self.first_at or time.perf_counter()
        super().send(topic, payload, retain=retain, qos=qos, keep=keep)


def main() -> None:
    """Fetch once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--blob", type=Path, required=True, help="JSON: blob, size, blocks")
    args = parser.parse_args()
    wanted = json.loads(args.blob.read_text("utf-8"))
    config = LinkConfig(
        args.name,
        Broker(host="127.0.0.1", port=args.port),
        receive_maximum=RECEIVE_MAXIMUM,
        window=IN_FLIGHT,
        max_packet_bytes=MAX_PACKET_BYTES,
    )
    mailbox = TimedMailbox(partial(MqttLink[Letter], config))
    fetcher = Fetcher(
        mailbox,
        FileBlockStore(args.folder / args.name),
        Topics(DEFAULT_ROOT, args.name),
        settings=UpdateSettings(),
        clock=SystemClock(),
    )
    mailbox.subscribe(frozenset({GO}))
    while GO not in mailbox.held:
        mailbox.wait(1.0)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not any(message.topic == GO for message in mailbox.wait(1.0)):
        pass
    mailbox.subscribe(frozenset())
    fetcher.fetch(wanted["blob"], wanted["size"], wanted["blocks"])
    seconds = time.perf_counter() - mailbox.first_at
    mailbox.close()
    sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
