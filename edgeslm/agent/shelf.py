"""The updater's slots, as the agent reads them; imported only on a device with an updater."""

from __future__ import annotations

from pathlib import Path

from edgeslm.adapters.slot_store import ReadOnlySlots, SlotsInvalidError
from edgeslm.agent.desired import Laid, Source
from edgeslm.contract.slots import SlotName, SlotTable
from edgeslm.core.slots import candidates, known_bad, slot, slots_of
from edgeslm.runtime.slot import whole_slot


class Shelf:
    """Owned by the agent's main thread, which never writes there.

    Args:
        folder: of the updater.

    Attributes:
        laid: the configuration that is committed.
    """

    def __init__(self, folder: Path) -> None:
        self.laid = Laid()
        self._folder = folder
        self._slots = ReadOnlySlots(folder)
        self._table = SlotTable()
        self._committed: dict[str, Source] = {}  # since the table was read

    def read(self) -> SlotsInvalidError | None:
        """Read the table; return what is wrong with it, where it was guessed from the bundles.

        Raises:
            SlotsUnavailableError: it cannot be read; nothing has changed.
        """
        damage = None
        try:
            table = self._slots.read()
        except SlotsInvalidError as err:
            damage, table = err, SlotTable()
        if not table.models:  # nothing is there, or the table is lost
            table = ReadOnlySlots(self._folder, whole_slot).read()
        self._table = table
        # The updater tells us after it has written, or before: ours may be the newer.
        if table.config_seq >= self.laid.seq:
            self.laid = Laid(table.config_seq, table.config)
        kept = {name: source for name, source in self._committed.items() if self._has(name, source)}
        self._committed = kept
        return damage

    def models(self) -> set[str]:
        """Names of the models of which something was committed."""
        held = self._table.models.items()
        return {name for name, slots in held if slots.active is not None} | set(self._committed)

    def place(self, model: str, name: SlotName, bundle: str) -> Source:
        """Return where a bundle lies in a slot."""
        return Source(self._slots.folder(model, name), bundle, name)

    def commit(self, model: str, source: Source) -> None:
        """This is the model from now on."""
        self._committed[model] = source

    def sources(self, model: str) -> tuple[list[Source], list[Source]]:
        """Return where bundles of a model lie: those to serve, best first, and the last resort.

        That is the one that was being tried when an agent ended before us: it may be why.
        """
        held = slots_of(self._table, model)
        best = [self._committed[model]] if model in self._committed else []
        last: list[Source] = []
        for name in candidates(held):
            found = slot(held, name)
            if found is None or known_bad(self._table, model, found.bundle):
                continue
            tried = self._tried(model, name) and name != held.active
            (last if tried else best).append(self.place(model, name, found.bundle))
        return best, [source for source in last if source not in best]

    def _tried(self, model: str, name: SlotName) -> bool:
        operation = self._table.operation
        return operation is not None and (operation.model, operation.slot) == (model, name)

    def _has(self, model: str, source: Source) -> bool:
        """Whether the table still has in its slot what we committed."""
        found = None if source.slot is None else slot(slots_of(self._table, model), source.slot)
        return found is not None and found.whole and found.bundle == source.hash
