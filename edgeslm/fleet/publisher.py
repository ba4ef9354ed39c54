"""What a fleet's devices find retained on the broker, and in which order it gets there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edgeslm.contract.fleet import Index
from edgeslm.contract.topics import FleetTopics, Topics
from edgeslm.ports import Letter

MAX_SEEN: Final = 16_384  # files on the broker that are remembered: anybody may put some there
KEEP_S: Final = 600.0  # a version that was replaced stays so long: a device may be half-way
_VERSIONED: Final = re.compile(r"^([1-9][0-9]{0,15})\.(.+)\.json$")
_ROOT: Final = "root"


@dataclass(frozen=True, slots=True)
class Publications:
    """All that is to be retained.

    Args:
        files: metadata by file name, in the order of publication; the timestamp is the last.
        index: of these files.
        assignments: signed envelopes by device.
        authority: says who signs devices' certificates; None: nobody does.
    """

    files: Mapping[str, bytes]
    index: Index
    assignments: Mapping[str, bytes] = field(default_factory=dict)
    authority: bytes | None = None


class Publisher:
    """Knows what is retained on this connection's broker. Time is an argument.

    Args:
        root: topic levels that the fleet's devices share.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._topics = FleetTopics(root)
        self._there: dict[str, bytes] = {}
        self._seen: dict[str, float] = {}  # metadata files that the broker has, since when old
        self._newest: dict[str, int] = {}  # by role
        self._devices: set[str] = set()

    def connected(self) -> None:
        """The broker may have lost everything: all is published again."""
        self._there.clear()

    def heard(self, topic: str, payload: bytes, now: float) -> None:
        """Note what the broker retains, perhaps from an earlier life of ours."""
        file = topic.removeprefix(self._topics.metadata(""))
        if file != topic and _VERSIONED.match(file):
            if payload and len(self._seen) < MAX_SEEN:
                self._seen.setdefault(file, now)
            elif not payload:
                self._seen.pop(file, None)

    def letters(self, wanted: Publications, now: float) -> list[Letter]:
        """Return what is to be published now, in order: afterwards the broker has what is wanted.

        Metadata come in the order given, but before the last of them, the timestamp, the index:
        who sees a timestamp finds everything that it leads to.
        """
        *files, last = wanted.files
        index = wanted.index.model_dump_json(by_alias=True).encode()
        retained = {self._topics.metadata(file): wanted.files[file] for file in files}
        retained[self._topics.index] = index
        retained[self._topics.metadata(last)] = wanted.files[last]
        if wanted.authority is not None:
            retained[self._topics.authority] = wanted.authority
        for device, envelope in wanted.assignments.items():
            retained[Topics(self._root, device).assignment] = envelope
        gone = self._devices - wanted.assignments.keys()
        for device in sorted(gone):
            retained[Topics(self._root, device).assignment] = b""
        self._devices = set(wanted.assignments)
        letters = [
            Letter(topic, payload, retain=True)
            for topic, payload in retained.items()
            if self._there.get(topic) != payload
        ]
        self._there |= retained
        self._note(wanted.files, now)
        return letters

    def cleared(self, now: float) -> list[Letter]:
        """Return what takes old versions of metadata off the broker."""
        letters = []
        for file, since in list(self._seen.items()):
            found = _VERSIONED.match(file)
            if found is None or found[2] == _ROOT:  # every root is needed for good
                continue
            # One that is newer than ours is another server's.
            if int(found[1]) >= self._newest.get(found[2], 0):
                self._seen[file] = now
            elif now - since >= KEEP_S:
                del self._seen[file]
                topic = self._topics.metadata(file)
                self._there.pop(topic, None)
                letters.append(Letter(topic, b"", retain=True))
        return letters

    def _note(self, files: Mapping[str, bytes], now: float) -> None:
        for file in files:
            if (found := _VERSIONED.match(file)) is not None:
                self._newest[found[2]] = int(found[1])
                self._seen[file] = now
