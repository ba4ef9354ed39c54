"""Trains the encoder of a source on few examples, and keeps it as any other that was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from edgeslm.errors import RejectedError
from exporters.cache import pins
from exporters.heads import linear
from exporters.training.checkpoint import Progress
from exporters.training.contrastive import Comparison, Pairs, share_taken
from exporters.training.divide import divide
from exporters.training.loop import Bounds, Examples, Training
from exporters.training.network import Network, open_network
from exporters.training.train import Order, Outcome, Run, carry_out, trainable
from exporters.workbench import Stage

_PACKAGES: Final = ("scikit-learn", "scipy")  # besides those of all training: layers to judge by
MOST: Final = 5_000
"""Texts to learn from: beyond them there is enough to stop by."""


class NotFewError(RejectedError):
    """The examples are more than the way for few is meant for."""

    code = "train.not_few"


def few(order: Order, stage: Stage) -> Outcome:
    """Return the encoder of `order`, trained now or in an earlier run; see `train`.

    Raises:
        NoWeightsError: the source has none.
        TooFewError: the rows are too few even so.
        NotFewError: they are more than few.
        TooLongError: texts are to be longer than the model takes.
        DivergedError: training came to no numbers.
        CacheError: the disk refuses.
    """
    source = trainable(order.source)
    division = divide(order.rows, seed=order.seed, way="few")
    if len(division.learn) > MOST:
        msg = f"--train few: {len(division.learn)} texts are not few. Take --train full."
        raise NotFewError(msg)
    run = _Few(order, source, division, stage)
    return replace(carry_out(run, division, order.plan), whole=True)


class _Few(Run):
    doing = "comparing texts"

    def depends_on(self) -> list[bytes]:
        here = Path(__file__)
        code = [here.with_name("contrastive.py"), here, Path(linear.__file__)]
        return [*(file.read_bytes() for file in code), json.dumps(pins(_PACKAGES)).encode()]

    def begin(self, examples: Examples, bounds: Bounds) -> Training:
        network = open_network(self._source.folder, len(self._division.labels))
        pairs = Pairs(examples.texts, examples.labels, examples.learn, examples.held_out)
        with self._stage("preparing to train", None):
            return Comparison(
                network, pairs, seed=self._order.seed, bounds=bounds, folder=self._folder
            )

    def _train(self, bounds: Bounds) -> tuple[Network, Progress]:
        network, progress = super()._train(bounds)
        self.told = {"best_after": progress.step, "share_taken": share_taken(progress.judged)}
        return network, progress
