"""The results of late, so that people can judge one by its id; in memory, and bounded."""

from __future__ import annotations

from typing import Final, NamedTuple

from edgeslm.contract.feedback import MAX_FEEDBACK_CHARS

MAX_CHARS: Final = 1 << 20
"""Of the texts of one ring."""


class Said(NamedTuple):
    """A result, and what it was of."""

    id: str
    text: str
    source: str
    label: str
    alert: bool
    """It counts as an alert: by its label, or by its route."""
    channel: str
    """What made an alarm of it; "" of others."""
    cut: bool = False
    """The text is the beginning of a longer one."""


class Ring:
    """The newest results, by id.

    Args:
        most: how many; fewer where their texts are long.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, Said] = {}
        self._chars = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, said: Said) -> None:
        """Take in the newest."""
        held = self._held
        if (before := held.pop(said.id, None)) is not None:
            self._chars -= len(before.text)
        held[said.id] = said
        self._chars += len(said.text)
        while len(held) > self.most or self._chars > MAX_CHARS:
            self._chars -= len(held.pop(next(iter(held))).text)

    def find(self, id_: str) -> Said | None:
        """Return the result of this id; None: it is not here, or no more."""
        return self._held.get(id_)


class Recent:
    """Results of all models. Owned by the agent's main thread.

    Alerts have a ring of their own: it is they that are judged, minutes later, and the rest of a
    busy line's results must not push them out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rings: dict[str, tuple[Ring, Ring]] = {}  # by model: alerts, others

    def limit(self, most: int) -> None:
        """Keep so many of each kind from now on."""
        self._most = most
        for rings in self._rings.values():
            for ring in rings:
                ring.most = most

    def add(self, model: str, said: Said) -> None:
        """Take in a model's newest result; of a long text, as much as may be taught."""
        if len(said.text) > MAX_FEEDBACK_CHARS:
            said = said._replace(text=said.text[:MAX_FEEDBACK_CHARS], cut=True)
        if (rings := self._rings.get(model)) is None:
            rings = self._rings[model] = Ring(self._most), Ring(self._most)
        rings[0 if said.alert else 1].add(said)

    def find(self, id_: str, model: str | None) -> list[tuple[str, Said]]:
        """Return the results of this id, with their models; `model`: of this one alone."""
        return [
            (name, said)
            for name, rings in self._rings.items()
            if model in {None, name}
            for ring in rings
            if (said := ring.find(id_)) is not None
        ]

    def forget(self, models: set[str]) -> None:
        """Keep those of these models alone."""
        for name in self._rings.keys() - models:
            del self._rings[name]
