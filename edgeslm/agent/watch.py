"""Whether one model drifts: what its answers tell of it, and what is told of that."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from edgeslm.contract.messages import DriftState
from edgeslm.contract.settings import ModelSettings, Share
from edgeslm.core.drift import NEW, RECENT, Drift, Kind, Sighting
from edgeslm.core.template import readable
from edgeslm.ports import Answer, Request

SUSPECTED: Final = "drift_suspected"
OVER: Final = "drift_over"
NAMED: Final = 3
"""Sources and templates that an event names, the most frequent first."""
SHOWN: Final = 120
"""Characters of a template that an event quotes, where its route shares text."""
_PROPOSALS: Final = {
    True: "Tell by feedback which of these lines are normal",
    False: "See to these sources and their sensors",
}
Told = tuple[str, Mapping[str, str | float]]
"""An event and its detail."""


def sighting_of(request: Request, answer: Answer, share: Share) -> Sighting | None:
    """Return what an answer tells of drift; None where it has no p-value."""
    if answer.p_value is None:
        return None
    what = request.text if answer.template is None else answer.template
    channels = answer.channels or {NEW: answer.p_value}
    return Sighting((request.source, what), channels, answer.worth, share == "text")


class Watch:
    """Owned by the agent's main thread; lives as long as its model's slot, and outlasts no restart.

    What it has won by betting is gone with the process, and so are at most a few hundred messages'
    worth; a drift that goes on is reported once more.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._drift = Drift(settings.drift_false_rate)
        self._model: tuple[str, str, int] | None = None  # hash, task, version
        self._trained: float | None = None
        self._since: float | None = None

    def live_by(self, settings: ModelSettings) -> None:
        """Obey these settings from now on; what was won stays."""
        self._settings = settings
        self._drift.false_rate = settings.drift_false_rate

    def begin(
        self, *, bundle: str, task: str, version: int, trained: float | None
    ) -> Iterator[Told]:
        """Watch this model from now on; yield what is to be told of the one before it.

        Args:
            bundle: its hash.
            task: of the model.
            version: of the model.
            trained: share of new templates that it was trained to expect; None: it knows none.
        """
        if self._model is not None and self._model[0] == bundle:
            return
        if self._drift.suspected:
            yield OVER, {"why": "another bundle answers"}
        self._drift = Drift(self._settings.drift_false_rate)
        self._model, self._trained, self._since = (bundle, task, version), trained, None

    def take(self, sighting: Sighting, *, wall: float) -> Iterator[Told]:
        """Hear an answer; yield what is to be told.

        Args:
            sighting: of `sighting_of`.
            wall: now, seconds since 1970.
        """
        if not self._settings.drift:
            return
        drift = self._drift
        was = bool(drift.suspected)
        if not drift.take(sighting):
            return
        if drift.suspected and not was:
            self._since = wall
            yield SUSPECTED, self._detail()
        elif was and not drift.suspected:
            since, self._since = self._since or wall, None
            yield OVER, {"why": "messages are as in training again", "for_s": round(wall - since)}

    def state(self) -> DriftState | None:
        """Return its part of a model's state; None: nothing is watched, or was heard yet."""
        drift = self._drift
        if not self._settings.drift or drift.new_rate is None:
            return None
        state: DriftState = {
            "suspected": bool(drift.suspected),
            "channels": sorted(drift.suspected),
            "evidence": round(math.log10(max(1.0, drift.evidence)), 2),
            "limit": round(math.log10(drift.limit), 2),
            "new_rate": round(drift.new_rate, 4),
        }
        if self._trained is not None:
            state["trained_new_rate"] = round(self._trained, 4)
        if self._since is not None:
            state["since"] = self._since
        return state

    def _detail(self) -> dict[str, str | float]:
        drift = self._drift
        seen = [(one.kind, one.shared) for one in drift.unusual() if one.channel in drift.suspected]
        sources = Counter(source for (source, _), _ in seen)
        kinds = Counter(kind for kind, _ in seen)
        detail: dict[str, str | float] = {
            "channels": ", ".join(sorted(drift.suspected)),
            "sources": _listed(sources),
            "unusual": f"{len(kinds)} kinds of message, in {len(seen)} of the last {RECENT}: "
            + ", ".join(str(count) for _, count in kinds.most_common(NAMED)),
            "new_rate": round(drift.new_rate or 0.0, 4),
            "proposal": self._proposal(),
        }
        if self._trained is not None:
            detail["trained_new_rate"] = round(self._trained, 4)
        if quoted := _quoted(kinds, {kind for kind, shared in seen if shared}):
            detail["texts"] = quoted
        return detail

    def _proposal(self) -> str:
        said = _PROPOSALS[NEW in self._drift.suspected]
        if self._model is None:
            return f"{said}."
        _, task, version = self._model
        anew = f"edgeslm-export {task} --version {version + 1} with messages of now as --data"
        return f"{said}; if this is how it is from now on: {anew}"


def _listed(sources: Counter[str]) -> str:
    return ", ".join(f"{source or '(none)'} {n}" for source, n in sources.most_common(NAMED))


def _quoted(kinds: Counter[Kind], shared: set[Kind]) -> str:
    """Return the most frequent kinds of message, of those that may leave the device."""
    found = [template for kind, _ in kinds.most_common() if kind in shared for template in kind[1:]]
    return "; ".join(readable(template)[:SHOWN] for template in found[:NAMED])
