"""The service as it runs beside a real broker, and what that broker lets a device do."""

from __future__ import annotations

import secrets
import threading
import time
from queue import SimpleQueue

from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig, visit
from edgeslm.contract.brokers import Broker
from edgeslm.contract.settings import AgentSettings
from edgeslm.fleet import enrolment
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.service.service import Service
from edgeslm.fleet.service.wiring import make
from edgeslm.ports import Confirmed, Letter, Report, Up
from tests.fleet.service import kit as service_kit
from tests.provision.kit import WE, Site


class Running(service_kit.Running):
    """The service, on the site's listener with a password."""

    def __init__(self, site: Site, database: str) -> None:
        self.engine = open_database(database)
        self.service: Service = make(site.repository, self.engine, site.service, lease_s=1.0)
        self.ended = None
        self._thread = threading.Thread(target=self._run, name="service")
        self._thread.start()

    def token(self, device: str, **more: bool) -> str:
        wanted = [enrolment.Wanted(device)]
        said = {"actor": WE, "now": time.time(), "days": 30.0}
        return enrolment.enrol(self.engine, wanted, **said, **more).tokens[device]  # type: ignore[arg-type]

    def refused(self) -> dict[str, int]:
        return dict(self.service.refused())


def connects(settings: AgentSettings, as_: str = "a-client") -> bool:
    """Whether the broker takes the device by its certificate."""
    client = visit(LinkConfig(as_, settings.uplink), timeout_s=5.0)
    return client.session_present is not None


def up(reports: SimpleQueue[Report]) -> Up:
    while not isinstance(report := reports.get(timeout=20), Up):
        pass
    return report


def publishes(broker: Broker, topic: str) -> bool:
    """Whether the service's side hears it."""
    reports: SimpleQueue[Report] = SimpleQueue()
    link = MqttLink[Letter](LinkConfig(secrets.token_hex(4), broker), reports.put)
    link.start()
    try:
        link.publish([Letter(topic, b"{}")], epoch=up(reports).epoch)
        while not isinstance(done := reports.get(timeout=10), Confirmed):
            pass
        return bool(done.publications)
    finally:
        link.stop()
        link.join(5)
