"""An export that is to be a stage of a cascade, and which texts it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgeslm.runtime.bundle import MANIFEST, Bundle, open_bundle
from edgeslm.runtime.cascade import CascadeError
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.variants import CPU, NoArtifactError
from edgeslm.tasks.intent import IntentParameters
from exporters.data import Row
from exporters.export import BUNDLE
from exporters.sources.base import sha256_of
from exporters.training.folder import TRAINED, Trained, read_trained
from exporters.tune.lock import LOCK, read_lock


@dataclass(frozen=True)
class Member:
    """One export.

    Args:
        option: that names it, as it was given: with its folder.
        bundle: as it lies there, every file as listed.
        trained: what its training left; None: its encoder was not trained.
        data: SHA-256 of the examples that its head was fitted on; None: it does not say.
    """

    option: str
    bundle: Bundle
    trained: Trained | None
    data: str | None

    @cached_property
    def labels(self) -> frozenset[str]:
        """What it can answer."""
        return frozenset(self.parameters(self.bundle.manifest.variants()[0]).labels)

    def parameters(self, variant: str | None) -> IntentParameters:
        """Return those of a variant."""
        raw = self.bundle.of(variant).read("parameters")
        return IntentParameters.model_validate_json(raw)

    def provider(self, variant: str | None) -> str:
        """Return who runs a variant."""
        return self.bundle.of(variant).artifacts("graph")[0].provider or CPU

    def load(self, variant: str | None) -> tuple[Model, str | None]:
        """Return a variant, and who stands in for its provider, which may not be here.

        Raises:
            RejectedError: nobody here can run it.
        """
        try:
            return load_model(self.bundle.path, variant=variant), None
        except NoArtifactError:
            return load_model(self.bundle.path, variant=variant, stand_in=CPU, golden=False), CPU

    def unseen(self, rows: Sequence[Row], file: Path) -> list[bool]:
        """Return for each row whether nothing in the export was fitted on it.

        Raises:
            CascadeError: of an encoder that was not trained, the head was fitted on that file.
        """
        if self.trained is not None:
            return self.trained.unseen(row.text for row in rows)
        if self.data == sha256_of(file):
            msg = (
                f"{self.option} was fitted on {file}, so it is too sure of these texts. Give "
                "--data texts that neither stage was fitted on."
            )
            raise CascadeError(msg)
        return [True] * len(rows)


def member(folder: Path, option: str) -> Member:
    """Return the export in `folder`.

    Raises:
        BundleMissingError, BundleInvalidError, BundleForeignError, BundleTamperedError: there is
            none, or it is not whole.
        TrainedError, LockError: what lies beside its bundle is damaged.
    """
    whole = (folder / BUNDLE / MANIFEST).is_file()
    bundle = open_bundle(folder / BUNDLE if whole else folder)
    beside = bundle.path.resolve().parent
    trained = read_trained(beside) if (beside / TRAINED).is_dir() else None
    lock = beside / LOCK
    data = read_lock(lock).data if lock.is_file() else None
    return Member(f"{option} {folder}", bundle, trained, data)
