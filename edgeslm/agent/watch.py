"""Whether one model drifts: what its answers tell of it, and what is told of that."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from edgeslm.contract.messages import DriftState
from edgeslm.contract.routes import ModelSettings, Share
from edgeslm.core.drift import INTENT, NEW, NUMBER, RECENT, Drift, Sighting, Trained
from edgeslm.core.template import readable
from edgeslm.ports import Answer, Request

SUSPECTED: Final = "drift_suspected"
OVER: Final = "drift_over"
NAMED: Final = 3
"""Sources and texts that an event names, the most frequent first."""
SHOWN: Final = 120
"""Characters of a text that are kept and quoted, where its route shares text."""
_PROPOSALS: Final = {
    NEW: "Tell by feedback which of these lines are normal",
    NUMBER: "See to these sources and their sensors",
    INTENT: "Tell by feedback which intents these texts have, or that they have none",
}
Told = tuple[str, Mapping[str, str | float]]
"""An event and its detail."""


def sighting_of(request: Request, answer: Answer, share: Share) -> Sighting | None:
    """Return what an answer tells of drift; None where it has no p-value.

    It does not keep what was said: a text may be long, and is nobody's business.
    """
    if answer.p_value is None:
        return None
    what = request.text if answer.template is None else answer.template
    channels = answer.channels or {INTENT: answer.p_value}
    shown = what[:SHOWN] if share == "text" else None
    return Sighting((request.source, hash(what)), channels, shown)


class Watch:
    """Owned by the agent's main thread; lives as long as its model's slot, and outlasts no restart.

    What it has won by betting is gone with the process, and so are at most a few hundred messages'
    worth; a drift that goes on is reported once more.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._trained = Trained()
        self._drift = Drift(settings.drift_false_rate, self._trained)
        self._model: tuple[str, str, int] | None = None  # hash, task, version
        self._since: dict[str, float] = {}  # by channel

    def live_by(self, settings: ModelSettings) -> None:
        """Obey these settings from now on; what was won stays."""
        self._settings = settings
        self._drift.false_rate = settings.drift_false_rate

    def begin(self, *, bundle: str, task: str, version: int, trained: Trained) -> Iterator[Told]:
        """Watch this model from now on; yield what is to be told of the one before it.

        Args:
            bundle: its hash.
            task: of the model.
            version: of the model.
            trained: what its training says of what it will hear.
        """
        if self._model is not None and self._model[0] == bundle:
            return
        if self._drift.suspected:
            yield OVER, {"channels": _all(self._drift.suspected), "why": "another bundle answers"}
        self._drift = Drift(self._settings.drift_false_rate, trained)
        self._model, self._trained = (bundle, task, version), trained
        self._since.clear()

    def take(self, sighting: Sighting, *, wall: float) -> Iterable[Told]:
        """Hear an answer; return what is to be told, of each channel for itself.

        Args:
            sighting: of `sighting_of`.
            wall: now, seconds since 1970.
        """
        if self._settings.drift and self._drift.take(sighting):
            return self._changes(wall)
        return ()

    def _changes(self, wall: float) -> Iterator[Told]:
        """Yield what is to be told of channels that are suspected now, or no longer."""
        drift = self._drift
        for channel in sorted(drift.suspected - self._since.keys()):
            self._since[channel] = wall
            yield SUSPECTED, self._detail(channel)
        for channel in sorted(self._since.keys() - drift.suspected):
            detail: dict[str, str | float] = {
                "channels": channel,
                "why": "messages are as in training again",
                "for_s": round(wall - self._since.pop(channel)),
            }
            if drift.suspected:
                detail["still"] = _all(drift.suspected)
            yield OVER, detail

    def state(self) -> DriftState | None:
        """Return its part of a model's state; None: nothing is watched, or was heard yet."""
        drift = self._drift
        if not self._settings.drift or not drift.messages:
            return None
        state: DriftState = {
            "suspected": bool(drift.suspected),
            "channels": sorted(drift.suspected),
            "evidence": round(math.log10(max(1.0, drift.evidence)), 2),
            "limit": round(math.log10(drift.limit), 2),
        }
        if self._trained.untested:
            state["untested"] = self._trained.untested
        if drift.new_rate is not None:
            state["new_rate"] = round(drift.new_rate, 4)
        if self._trained.new_rate is not None:
            state["trained_new_rate"] = round(self._trained.new_rate, 4)
        if self._since:
            state["since"] = min(self._since.values())
        return state

    def _detail(self, channel: str) -> dict[str, str | float]:
        seen = [one for one in self._drift.unusual() if one.channel == channel]
        sources = Counter(one.kind[0] for one in seen)
        kinds = Counter(one.kind for one in seen)
        detail: dict[str, str | float] = {
            "channels": channel,
            "sources": _listed(sources),
            "unusual": f"{len(kinds)} kinds of message, in {len(seen)} of the last {RECENT}: "
            + ", ".join(str(count) for _, count in kinds.most_common(NAMED)),
            "proposal": self._proposal(channel),
        }
        if self._drift.new_rate is not None:
            detail["new_rate"] = round(self._drift.new_rate, 4)
        if self._trained.new_rate is not None:
            detail["trained_new_rate"] = round(self._trained.new_rate, 4)
        texts = Counter(one.text for one in seen if one.text is not None)
        if texts:
            detail["texts"] = "; ".join(readable(text) for text, _ in texts.most_common(NAMED))
        return detail

    def _proposal(self, channel: str) -> str:
        said = _PROPOSALS.get(channel, "See to these sources")
        if self._model is None:
            return f"{said}."
        _, task, version = self._model
        anew = f"edgeslm-export {task} --version {version + 1} with messages of now as --data"
        return f"{said}; if this is how it is from now on: {anew}"


def _listed(sources: Counter[str]) -> str:
    return ", ".join(f"{source or '(none)'} {n}" for source, n in sources.most_common(NAMED))


def _all(channels: set[str]) -> str:
    return ", ".join(sorted(channels))
