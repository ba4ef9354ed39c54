"""Fetches a blob in a network namespace whose way to the device loses packets; says what it took.

Run by test_losses.py, inside the namespace: PERCENT BYTES FOLDER.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import SystemClock
from edgeslm.contract.brokers import Broker
from edgeslm.contract.settings import UpdateSettings
from edgeslm.contract.topics import Topics
from edgeslm.updater.download import Fetcher
from edgeslm.updater.mailbox import open_mailbox
from tests.fleet.served import ROOT, FakeServed, Running, hashes
from tests.mosquitto import Mosquitto

# The device reaches the broker under another address than the server does: so the way from there
# can be told from the other.
DEVICE_SIDE: Final = "127.0.0.3"
RULES: Final = """
add table inet lossy
add counter inet lossy wire
add chain inet lossy in {{ type filter hook input priority 0; }}
add rule inet lossy in ip saddr {address} tcp sport {port} counter name wire
add rule inet lossy in ip saddr {address} tcp sport {port} numgen random mod 100 < {percent} drop
"""


def main(percent: int, size: int, folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    mosquitto = Mosquitto(folder / "mosquitto")
    mosquitto.configure(f"allow_anonymous true\nlistener {mosquitto.port} {DEVICE_SIDE}")
    mosquitto.start()
    rules = RULES.format(address=DEVICE_SIDE, port=mosquitto.port, percent=percent)
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    data = bytes(size)
    served = FakeServed(folder / "repository")
    blob = served.add(data)
    running = Running(served, mosquitto.port)
    mailbox = open_mailbox("dev-updater", Broker(host=DEVICE_SIDE, port=mosquitto.port))
    fetcher = Fetcher(
        mailbox,
        FileBlockStore(folder / "download"),
        Topics(ROOT, "dev"),
        settings=UpdateSettings(),
        clock=SystemClock(),
    )
    began = time.monotonic()
    path = fetcher.fetch(blob, size, hashes(data))
    took_s = time.monotonic() - began
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    listed = subprocess.run(
        ["nft", "-j", "list", "counter", "inet", "lossy", "wire"],
        check=True,
        capture_output=True,
        text=True,
    )
    [wire] = [row["counter"] for row in json.loads(listed.stdout)["nftables"] if "counter" in row]
    mailbox.close()
    running.stop()
    mosquitto.kill()
    found = {"sha256": sha256, "wire": wire["bytes"], "seconds": took_s}
    found["sent"] = running.server.sent_bytes
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
