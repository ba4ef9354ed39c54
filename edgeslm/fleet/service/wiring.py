"""Puts a service together from a repository, a database and a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from sqlalchemy import Engine

from edgeslm.adapters.clock import SystemClock
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.fleet.authority import Authority
from edgeslm.fleet.issuing import answer
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.served import ServedRepository
from edgeslm.fleet.service.ingest import RECEIVE_MAXIMUM
from edgeslm.fleet.service.orders import Orders
from edgeslm.fleet.service.service import LEASE_S, Parts, Service, Session
from edgeslm.fleet.service.shelf import RepositoryShelf
from edgeslm.fleet.service.store import Store, prune
from edgeslm.ports import Letter, Sink, Transport

WINDOW: Final = 64  # publications that the broker has not confirmed
SESSION_S: Final = 7 * 86_400  # that the broker keeps what a worker that is gone has not taken
MAX_PACKET_BYTES: Final = 2**20  # of what devices send; our own may be longer


def make(  # noqa: PLR0913 -- by name, once
    repository: Repository,
    engine: Engine,
    broker: Broker,
    *,
    shares: bool = True,
    page: Callable[[threading.Event], None] | None = None,
    lease_s: float = LEASE_S,
) -> Service:
    """Return a service that has not begun.

    Args:
        repository: opened with what its online keys need.
        engine: of the fleet's database.
        broker: where devices are.
        shares: it shares subscriptions out among workers.
        page: serves the web page until its event is set.
        lease_s: after which another takes the place of a worker that is gone.

    Raises:
        EdgeSLMError: a key is missing, or its passphrase is.
    """
    clock = SystemClock()
    orders = Orders(repository)
    orders.open()  # it may ask for a passphrase: now, and not when the first roll-out begins
    authority = Authority(repository)
    if authority.exists:  # where it is made later, it is opened when the first device asks
        authority.open()

    def connect(session: Session, sink: Sink) -> Transport[Letter]:
        config = LinkConfig(
            session.client_id,
            broker,
            session_expiry_s=SESSION_S if session.keeps else 0,
            receive_maximum=RECEIVE_MAXIMUM,
            window=WINDOW,
            held=session.held,
            max_packet_bytes=MAX_PACKET_BYTES,
        )
        return MqttLink[Letter](config, sink)

    parts = Parts(
        engine=engine,
        served=ServedRepository(repository, engine),
        signs=orders,
        catalogue=RepositoryShelf(repository),
        keeps=lambda: Store(engine),
        prune=lambda: prune(engine, clock.wall()),
        certifies=partial(answer, engine, authority),
        connect=connect,
        clock=clock,
        page=page,
    )
    return Service(parts, root=repository.config.topic_root, shares=shares, lease_s=lease_s)
