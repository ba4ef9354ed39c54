"""What a broker lets devices, the fleet's service and people do, in mosquitto's own words.

A device's user is its id. All that its agent and its updater do is on topics of its own and on
those that the fleet shares. Who has no certificate yet asks for one as `edgeslm-provision`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgeslm.contract.provision import PROVISIONER
from edgeslm.contract.topics import (
    FleetTopics,
    Topics,
    discovery_base,
    discovery_level,
    filter_problem,
    overlap,
)
from edgeslm.errors import RejectedError

USER: Final = "%u"  # in a pattern: whoever is connected
CLIENT: Final = "%c"  # in a pattern: by whatever client id
SERVICE: Final = "edgeslm-fleet"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX: Final = "edgeslm"  # of roles
_PROVISION: Final = f"{_PREFIX}-provisioner"
_SEND: Final = "publishClientSend"
_SUBSCRIBE: Final = "subscribePattern"
# As the plug-in begins: who has no role may send nothing, and subscribe to nothing.
_DEFAULTS: Final = {_SEND: False, "publishClientReceive": True, "subscribe": False,
                    "unsubscribe": True}  # fmt: skip


class BrokerConfigError(RejectedError):
    """A name or a filter cannot stand in a broker's configuration; says which."""

    code = "fleet.broker_config"


@dataclass(frozen=True, slots=True)
class Grants:
    """What one client may do; nothing else.

    Args:
        publish: filters of topics.
        subscribe: the same.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """Who there is.

    Args:
        root: topic levels that the fleet's devices share.
        inputs: filters that devices read their inputs from; `%u` in them is the device's id.
        devices: ids; a role for each is made where the broker knows no patterns, or where none
            says what a device may do: in Home Assistant's topics an id with a dot is spelled
            differently.
        service: user of the fleet's service.
        viewers: users that see what devices say.
        operators: users that see it, and say what they think of it.
        provisioner: user of devices that have no certificate yet.
        revoked: ids of devices that may do nothing any more.
        discovery: Home Assistant's prefix, where devices may tell it of themselves.

    Raises:
        BrokerConfigError: see there.
    """

    root: str
    inputs: Sequence[str] = ()
    devices: Sequence[str] = ()
    service: str = SERVICE
    viewers: Sequence[str] = ()
    operators: Sequence[str] = ()
    provisioner: str = PROVISIONER
    revoked: Sequence[str] = ()
    discovery: str | None = None
    _users: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        people = (*self.viewers, *self.operators)
        users = (*self.devices, self.service, *people, self.provisioner)
        for name in (*users, *self.revoked):
            if not _NAME.fullmatch(name):
                msg = f"{name!r}: not a user: letters, digits, '.', '_', '-', up to 64"
                raise BrokerConfigError(msg)
        if twice := [name for name in users if users.count(name) > 1]:
            msg = f"{twice[0]}: given twice; each device, viewer and service is a user of its own"
            raise BrokerConfigError(msg)
        for each in (self.root, self.discovery or self.root, *self.inputs):
            if not each.isprintable() or each != each.strip() or '"' in each:
                msg = f"{each!r}: has what a line of a configuration cannot hold"
                raise BrokerConfigError(msg)
        for each in self.inputs:
            if problem := filter_problem(each):
                msg = f"--input {each}: {problem}"
                raise BrokerConfigError(msg)
            if overlap(each, f"{self.root}/#"):
                msg = f"--input {each}: would let a device read what is under {self.root}"
                raise BrokerConfigError(msg)
        if self.discovery is not None:
            _expect_apart(self.discovery, self.root)
        object.__setattr__(self, "_users", users)

    def of_device(self, device: str) -> Grants:
        """Return what a device may do; `USER` in place of its id: any device."""
        own, fleet = Topics(self.root, device), FleetTopics(self.root)
        answers = (own.reply("+"), own.feedback_reply)
        said = (own.status, own.state, own.events, own.update, own.results("+"), *answers)
        heard = (own.assignment, own.command, own.feedback, own.answer("+"))
        shared = (fleet.index, fleet.metadata("+"), fleet.blob("+"))
        inputs = tuple(_unshared(each).replace(USER, device) for each in self.inputs)
        asks = self.of_provisioner(CLIENT if device == USER else "+")
        told = self.told_by(device)
        return Grants(
            (*said, fleet.want("+"), fleet.ask, *asks.publish, *told),
            (*heard, *shared, *inputs, *asks.subscribe),
        )

    def told_by(self, device: str) -> tuple[str, ...]:
        """Return where a device tells Home Assistant of itself, if it may."""
        if self.discovery is None:
            return ()
        return (f"{discovery_base(self.discovery, device)}/+/config",)

    def of_provisioner(self, client: str) -> Grants:
        """Return what somebody may do who asks for a certificate, by their client id."""
        fleet = FleetTopics(self.root)
        heard = (fleet.provision_reply(client), fleet.authority)
        return Grants((fleet.provision(client),), heard)

    def of_service(self) -> Grants:
        """Return what the fleet's service may do."""
        each, fleet = Topics(self.root, "+"), FleetTopics(self.root)
        shared = (fleet.index, fleet.metadata("+"), fleet.blob("+"))
        asked = (fleet.wants, fleet.ask, fleet.provisions)
        answers = (each.reply("+"), each.feedback_reply)
        heard = (*self.of_viewer().subscribe, *answers, fleet.metadata("+"), *asked)
        # What its processes share, as those brokers see it that look at the whole filter.
        said = (each.events, each.results("+"), *asked)
        return Grants(
            (
                *(each.assignment, each.command, each.feedback, each.answer("+")),
                *shared,
                fleet.provision_reply("+"),
                fleet.authority,
            ),
            (*heard, *map(fleet.shared, said)),
        )

    def of_viewer(self) -> Grants:
        """Return what somebody may do who only looks."""
        each = Topics(self.root, "+")
        return Grants((), (each.status, each.state, each.update, each.events, each.results("+")))

    def of_operator(self) -> Grants:
        """Return what somebody may do who judges results; what silences takes a token besides."""
        each = Topics(self.root, "+")
        return Grants((each.feedback,), (*self.of_viewer().subscribe, each.feedback_reply))


def _expect_apart(prefix: str, root: str) -> None:
    """Hold Home Assistant's prefix against the topics of the fleet.

    Raises:
        BrokerConfigError: it is none, or devices would write among those.
    """
    problem = filter_problem(prefix) or ("a wildcard" if {"+", "#"} & set(prefix) else None)
    if problem is None and overlap(f"{prefix}/device/#", f"{root}/#"):
        problem = f"would let a device write under {root}"
    if problem is not None:
        msg = f"--homeassistant {prefix}: {problem}"
        raise BrokerConfigError(msg)


def acl_file(access: Access) -> str:
    """Return an `acl_file` of mosquitto. Its patterns hold for every device there will be."""
    lines = [
        "# Made by `edgeslm fleet broker-config`: change what it is given, and make it anew.",
        "# A device's user is its id. Patterns hold for whoever is connected under a user's name.",
        *_topics("pattern", access.of_device(USER)),
        "",
        "# The fleet's service, and the commands of `edgeslm fleet` that ask devices.",
        f"user {access.service}",
        *_topics("topic", access.of_service()),
    ]
    for device in access.devices:
        if access.discovery is not None and discovery_level(device) != device:
            lines += ["", f"user {device}"]
            lines += [f"topic write {each}" for each in access.told_by(device)]
    people = dict.fromkeys(access.viewers, access.of_viewer())
    people |= dict.fromkeys(access.operators, access.of_operator())
    for viewer, granted in people.items():
        own = Topics(access.root, viewer)
        lines += [
            "",
            f"user {viewer}",
            # The patterns above hold for it too: it is no device, and asks the fleet for nothing.
            f"topic deny {own.base}/#",
            f"topic deny {FleetTopics(access.root).base}/#",
            *(f"topic deny {_unshared(each).replace(USER, viewer)}" for each in access.inputs),
            *(f"topic deny {each.replace(USER, viewer)}" for each in access.told_by(USER)),
            *_topics("topic", granted),
        ]
    grants = access.of_device(access.provisioner)
    asks = access.of_provisioner("+")
    taken = [each for each in (*grants.publish, *grants.subscribe) if each not in _both(asks)]
    lines += [
        "",
        "# Devices that have no certificate yet: of the patterns above, they ask for one.",
        f"user {access.provisioner}",
        *(f"topic deny {each}" for each in dict.fromkeys(taken)),
    ]
    if access.revoked:
        lines += ["", "# Devices that were revoked."]
    for device in access.revoked:
        lines += [f"user {device}", "topic deny #"]
    return "\n".join([*lines, ""])


def dynamic_security(access: Access) -> str:
    """Return the same as commands to mosquitto's plug-in, as one message for its topic."""
    return json.dumps({"commands": list(_commands(access))}, indent=1) + "\n"


def mosquitto_ctrl(access: Access) -> str:
    """Return the same as a script of `mosquitto_ctrl`, which is given how to connect."""
    lines = ["#!/bin/sh", "# Options of mosquitto_ctrl follow: sh FILE -h HOST -u admin", "set -e"]
    for command in _commands(access):
        lines += [
            'mosquitto_ctrl "$@" dynsec ' + " ".join(map(shlex.quote, words))
            for words in _words(command)
        ]
    return "\n".join([*lines, ""])


Command = dict[str, object]


def _commands(access: Access) -> Iterator[Command]:
    defaults = [{"acltype": kind, "allow": allow} for kind, allow in _DEFAULTS.items()]
    yield {"command": "setDefaultACLAccess", "acls": defaults}
    # The plug-in of mosquitto 2.0 knows no patterns: a role for each device. Nor can it name a
    # client id: who asks for a certificate may hear the others' answers, which hold no secret.
    grants = {f"{_PREFIX}-device-{name}": access.of_device(name) for name in access.devices}
    grants[f"{_PREFIX}-service"] = access.of_service()
    if access.viewers:
        grants[f"{_PREFIX}-viewer"] = access.of_viewer()
    if access.operators:
        grants[f"{_PREFIX}-operator"] = access.of_operator()
    grants[_PROVISION] = access.of_provisioner("+")
    for role, granted in grants.items():
        allowed = [(_SEND, topic) for topic in granted.publish]
        allowed += [(_SUBSCRIBE, topic) for topic in granted.subscribe]
        acls = [
            {"acltype": kind, "topic": topic, "priority": 0, "allow": True}
            for kind, topic in allowed
        ]
        yield {"command": "createRole", "rolename": role, "acls": acls}
    roles = {name: f"{_PREFIX}-device-{name}" for name in access.devices}
    roles[access.service] = f"{_PREFIX}-service"
    roles |= dict.fromkeys(access.viewers, f"{_PREFIX}-viewer")
    roles |= dict.fromkeys(access.operators, f"{_PREFIX}-operator")
    roles[access.provisioner] = _PROVISION
    for user, role in roles.items():
        # One that is there already stays as it is; a new one has no password until it is given one.
        yield {"command": "createClient", "username": user}
        yield {"command": "addClientRole", "username": user, "rolename": role, "priority": 0}
    for device in access.devices:  # that was revoked once, and enrolled anew
        yield {"command": "enableClient", "username": device}
    for device in access.revoked:
        yield {"command": "disableClient", "username": device}


def _words(command: Command) -> Iterator[list[str]]:
    """Yield the words of a command, and of each ACL in it."""
    name, acls = str(command["command"]), command.get("acls", [])
    assert isinstance(acls, list)  # noqa: S101 -- ours
    if name == "setDefaultACLAccess":
        yield from ([name, a["acltype"], "allow" if a["allow"] else "deny"] for a in acls)
        return
    yield [name, *(str(command[key]) for key in ("username", "rolename") if key in command)]
    for acl in acls:
        allow = "allow" if acl["allow"] else "deny"
        rule = [acl["acltype"], acl["topic"], allow, str(acl["priority"])]
        yield ["addRoleACL", str(command["rolename"]), *rule]


def _topics(word: str, grants: Grants) -> list[str]:
    """Return a line for each topic; what is published and read alike has one."""
    both = [topic for topic in grants.publish if topic in grants.subscribe]
    rows = [("readwrite", both)]
    rows += [("write", [topic for topic in grants.publish if topic not in both])]
    # mosquitto looks at the topic of what it delivers, whoever shares the subscription.
    read = [each for each in grants.subscribe if each not in both and not each.startswith("$share")]
    return [f"{word} {how} {topic}" for how, topics in [*rows, ("read", read)] for topic in topics]


def _both(grants: Grants) -> tuple[str, ...]:
    return (*grants.publish, *grants.subscribe)


def _unshared(topic_filter: str) -> str:
    return topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter
