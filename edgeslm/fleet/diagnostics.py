"""Has one device look at itself: a signed command, and the answer to it."""

from __future__ import annotations

import secrets
import time
from typing import Final, Protocol

from pydantic import ValidationError
from sqlalchemy import Engine

from edgeslm.adapters.dsse import seal
from edgeslm.contract.base import problems_of
from edgeslm.contract.fleet import COMMAND, MAX_REPLY_BYTES, Command, CommandReply, Diagnosis
from edgeslm.contract.topics import Topics
from edgeslm.core.trust import MAX_SKEW_S
from edgeslm.errors import RejectedError, UnavailableError
from edgeslm.fleet.database.audit import at_terminal, record
from edgeslm.fleet.director import director_signers
from edgeslm.fleet.repository import Repository
from edgeslm.ports import Received

LIFE_S: Final = MAX_SKEW_S
"""Of a command: as long as two of the fleet's clocks may differ."""


class CommandInvalidError(RejectedError):
    """What was asked for cannot be a command: not a device's id, or not a model's name."""

    code = "fleet.command"


class DiagnosisRefusedError(RejectedError):
    """The device would not, and says why."""

    code = "fleet.diagnosis_refused"


class NoAnswerError(UnavailableError):
    """The device has not answered in time."""

    code = "fleet.no_answer"


class Mailbox(Protocol):
    """One MQTT session; `edgeslm.updater.mailbox.Mailbox` is one."""

    trouble: str
    held: frozenset[str]
    refused: frozenset[str]

    def subscribe(self, filters: frozenset[str]) -> None: ...
    def send(self, topic: str, payload: bytes) -> None: ...
    def wait(self, timeout_s: float) -> list[Received]: ...


def command(
    repository: Repository, engine: Engine, device: str, do: Diagnosis, *, model: str | None = None
) -> tuple[Command, bytes]:
    """Return a command to a device, and its signed envelope; that it was given is written down.

    Raises:
        CommandInvalidError: see there.
        EdgeSLMError: the director's key is missing, the database refused.
    """
    now = repository.now()
    nonce = secrets.token_hex(16)
    try:
        made = Command(
            schema=1,
            device=device,
            nonce=nonce,
            issued=now,
            expires=now + LIFE_S,
            do=do,
            model=model,
            reply=Topics(repository.config.topic_root, device).reply(nonce),
        )
    except ValidationError as err:
        field, what = problems_of(err)[0]
        msg = f"{field}: {what}"
        raise CommandInvalidError(msg) from None
    payload = made.model_dump_json(by_alias=True, exclude_none=True).encode()
    envelope = seal(payload, kind=COMMAND, signers=director_signers(repository))
    with engine.begin() as conn:
        detail = {"device": device} | ({"model": model} if model is not None else {})
        record(conn, at_terminal(), f"device.{do}", now=now, **detail)
    return made, envelope


def ask(
    mailbox: Mailbox, topics: Topics, made: Command, envelope: bytes, *, timeout_s: float
) -> CommandReply:
    """Send a command, and return the device's answer.

    Args:
        mailbox: of a session on the device's broker.
        topics: the device's.
        made: the command.
        envelope: of it, signed.
        timeout_s: for the answer.

    Raises:
        DiagnosisRefusedError, NoAnswerError: see there.
    """
    mailbox.subscribe(frozenset({made.reply}))
    until = time.monotonic() + timeout_s
    sent = False
    while (left := until - time.monotonic()) > 0:
        if not sent and made.reply in mailbox.held:
            sent = True  # kept until there is a connection, and not sent twice: it is heeded once
            mailbox.send(topics.command, envelope)
        if made.reply in mailbox.refused:
            msg = f"the broker does not let us listen to {made.reply}: fleet broker-config"
            raise DiagnosisRefusedError(msg)
        for message in mailbox.wait(min(left, 1.0)):
            if message.topic == made.reply and (reply := _reply(message.payload, made)):
                if reply.error is not None:
                    msg = f"{made.device}: {reply.error['message']} [{reply.error['code']}]"
                    raise DiagnosisRefusedError(msg)
                return reply
    why = mailbox.trouble or (
        "no answer. Is its updater there (`status`, `update`), does it read commands, and is the "
        "clock right here and there? It does not answer what it cannot verify."
    )
    msg = f"{made.device}: {why}"
    raise NoAnswerError(msg)


def _reply(payload: bytes, made: Command) -> CommandReply | None:
    """Return the answer to a command; None where it is none, or one to another."""
    if len(payload) > MAX_REPLY_BYTES:
        return None
    try:
        reply = CommandReply.model_validate_json(payload)
    except ValidationError:
        return None
    ours = (reply.device, reply.nonce, reply.do) == (made.device, made.nonce, made.do)
    return reply if ours else None
