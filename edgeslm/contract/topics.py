"""Every MQTT topic edgeslm publishes on, and the rules for filters it subscribes to."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

DEFAULT_ROOT: Final = "edgeslm/v1"
MAX_TOPIC_BYTES: Final = 65_535  # MQTT 5, 1.5.4
_WILDCARDS: Final = frozenset("+#")
_SHARE: Final = 2  # levels before the filter in `$share/NAME/FILTER`


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device, under one root.

    Args:
        root: topic levels that all devices share, without a trailing slash.
        device: the device's id: one topic level.
    """

    root: str
    device: str

    @property
    def base(self) -> str:
        return f"{self.root}/{self.device}"

    @property
    def status(self) -> str:
        return f"{self.base}/status"

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def events(self) -> str:
        return f"{self.base}/events"

    @property
    def update(self) -> str:
        return f"{self.base}/update"

    @property
    def assignment(self) -> str:
        return f"{self.base}/assignment"

    @property
    def command(self) -> str:
        """Where the fleet's manager asks this device for something; nothing is retained there."""
        return f"{self.base}/command"

    @property
    def feedback(self) -> str:
        """Where people say what they think of this device's answers."""
        return f"{self.base}/feedback"

    @property
    def feedback_reply(self) -> str:
        """Where this device says what came of that; one level below what it listens to itself."""
        return f"{self.base}/feedback/reply"

    def results(self, model: str) -> str:
        return f"{self.base}/results/{model}"

    def answer(self, kind: str) -> str:
        """Where the fleet's servers answer this device: kind is time, delta or missing."""
        return f"{self.base}/fleet/{kind}"

    def reply(self, name: str) -> str:
        """Where this device answers a command; one level below what it listens to itself."""
        return f"{self.base}/fleet/reply/{name}"


@dataclass(frozen=True, slots=True)
class FleetTopics:
    """The topics that all devices of a fleet share, under one root.

    No device's id begins with an underscore.
    """

    root: str

    @property
    def base(self) -> str:
        return f"{self.root}/_fleet"

    @property
    def index(self) -> str:
        return f"{self.base}/index"

    @property
    def ask(self) -> str:
        return f"{self.base}/ask"

    @property
    def wants(self) -> str:
        """Filter of all requests for blocks."""
        return f"{self.base}/want/+"

    @property
    def provisions(self) -> str:
        """Filter of all requests for certificates."""
        return self.provision("+")

    @property
    def authority(self) -> str:
        """Where it is retained whose certificates devices are to have."""
        return f"{self.base}/authority"

    def provision(self, request: str) -> str:
        """Where a device asks for a certificate; the name is its session's client id."""
        return f"{self.base}/provision/{request}"

    def provision_reply(self, request: str) -> str:
        """Where it is answered."""
        return f"{self.provision(request)}/reply"

    def metadata(self, file: str) -> str:
        """Where `file` of the repository's metadata is retained, such as 7.snapshot.json."""
        return f"{self.base}/meta/{file}"

    def want(self, blob: str) -> str:
        return f"{self.base}/want/{blob}"

    def blob(self, blob: str) -> str:
        return f"{self.base}/blob/{blob}"

    @staticmethod
    def shared(topic_filter: str) -> str:
        """`topic_filter` for servers that share the work."""
        return f"$share/edgeslm-fleet/{topic_filter}"


def discovery_base(prefix: str, device: str) -> str:
    """Return below what a device tells Home Assistant of itself and its models.

    Args:
        prefix: of discovery, as Home Assistant has it.
        device: the device's id.
    """
    return f"{prefix}/device/edgeslm_{discovery_level(device)}"


def discovery_level(name: str) -> str:
    """Return a name in the letters that such a topic may have; of different ones, different."""
    plain = name.replace(".", "_")
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def filter_problem(topic_filter: str) -> str | None:
    """Say what is wrong with an MQTT topic filter; None where nothing is (MQTT 5, 4.7)."""
    levels = topic_filter.split("/")
    shared = levels[0] == "$share"
    rules = (
        (not topic_filter, "is empty"),
        ("\0" in topic_filter, "holds a NUL character"),
        (
            len(topic_filter.encode("utf-8", "replace")) > MAX_TOPIC_BYTES,
            f"is longer than {MAX_TOPIC_BYTES} bytes",
        ),
        (
            shared and (levels[1:2] in ([], [""]) or levels[_SHARE:] in ([], [""])),
            "is not $share/NAME/FILTER",
        ),
        (shared and not _WILDCARDS.isdisjoint("".join(levels[1:2])), "has a wildcard for $share"),
        (
            any("#" in level and level != "#" for level in levels) or "#" in levels[:-1],
            "has '#' elsewhere than alone at the end",
        ),
        (
            any("+" in level and level != "+" for level in levels),
            "has '+' in the middle of a level",
        ),
    )
    return next((problem for broken, problem in rules if broken), None)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether `topic` matches `topic_filter` (MQTT 5, 4.7, `$` topics and `$share` included)."""
    levels = _without_share(topic_filter)
    parts = topic.split("/")
    if topic.startswith("$") and levels[0] in _WILDCARDS:
        return False
    for i, level in enumerate(levels):
        if level == "#":
            return True
        if i >= len(parts) or level not in {"+", parts[i]}:
            return False
    return len(levels) == len(parts)


def overlap(first: str, second: str) -> bool:
    """Whether some topic matches both filters."""
    a, b = _without_share(first), _without_share(second)
    if any(x[0].startswith("$") and y[0] in _WILDCARDS for x, y in ((a, b), (b, a))):
        return False
    for x, y in zip(a, b, strict=False):
        if "#" in {x, y}:
            return True
        if x != y and "+" not in {x, y}:
            return False
    if len(a) == len(b):
        return True
    shorter, longer = sorted((a, b), key=len)
    # '/#' matches its parent too, which is the empty topic: nothing is ever published there.
    return longer[len(shorter) :] == ["#"] and longer[:-1] != [""]


def covers(wide: str, narrow: str) -> bool:
    """Whether whoever subscribes to `wide` gets all that matches `narrow`."""
    if wide == narrow:
        return True
    if wide.startswith("$share/"):  # others of its group get a part
        return False
    a, b = wide.split("/"), _without_share(narrow)
    if b[0].startswith("$") and a[0] in _WILDCARDS:
        return False
    for i, level in enumerate(a):
        if level == "#":
            return True
        if i >= len(b) or b[i] == "#" or level not in {"+", b[i]}:
            return False
    return len(a) == len(b)


def widest(filters: Iterable[str]) -> frozenset[str]:
    """Return the filters that no other of them covers: a broker may send once for each."""
    held = frozenset(filters)
    return frozenset(f for f in held if not any(g != f and covers(g, f) for g in held))


def _without_share(topic_filter: str) -> list[str]:
    """Levels of a filter; of a shared subscription, those behind `$share/NAME/`."""
    levels = topic_filter.split("/")
    return levels[_SHARE:] if levels[0] == "$share" and len(levels) > _SHARE else levels
