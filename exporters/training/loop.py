"""The steps of training: judged after each epoch, kept on disk, stopped when they no longer help.

All that happens follows from examples, seed and number of steps: each step draws its dropout from
a seed of its own, so a run that was killed goes on to the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeslm.errors import RejectedError
from exporters.heads.base import Advance
from exporters.training.batches import SIZE, Batch, deal, pad
from exporters.training.checkpoint import Judged, Progress, restore, save
from exporters.training.network import RATE, Network, embed_all, judge, optimiser, start_head

_WARM_UP: Final = 0.06  # of the steps
_CLIP: Final = 1.0  # norm of all gradients
_PATIENCE: Final = 2  # epochs, or a quarter of them, that may bring nothing
_EPOCHS: Final = (4, 20)
_STEPS: Final = 400  # few examples are gone through more often, until there were so many
_KEPT_EVERY: Final = 200  # steps: about a minute of MiniLM's
_START: Final = 50  # texts of each label that the head starts from
_TIMED: Final = 4  # steps, to plan by the clock


class DivergedError(RejectedError):
    """Training came to no numbers."""

    code = "train.diverged"


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts as the network reads them.

    Args:
        texts: token ids of each.
        labels: number of the label of each.
        learn: numbers of the texts to train on.
        held_out: of those to judge by.
    """

    texts: Sequence[NDArray[np.int64]]
    labels: NDArray[np.int64]
    learn: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def epoch(self, number: int, *, seed: int) -> list[Batch]:
        """Return the batches of an epoch, of which all have equally many."""
        lengths = [len(self.texts[i]) for i in self.learn]
        return [self.learn[b] for b in deal(lengths, np.random.default_rng([seed, number]))]


@dataclass(frozen=True, slots=True)
class Bounds:
    """When training ends at the latest.

    Args:
        steps: to plan; None: as many as the examples ask for.
        stop: end after so many of them; None: when all are done.
        minutes: plan no more steps than fit, and end when they are over; None: no clock is read.
    """

    steps: int | None = None
    stop: int | None = None
    minutes: float | None = None


def steps_for(per_epoch: int) -> int:
    """Return how many steps examples are worth, of which an epoch takes so many."""
    least, most = _EPOCHS
    return per_epoch * min(most, max(least, math.ceil(_STEPS / per_epoch)))


class Training:
    """One run, begun or gone on with.

    Args:
        network: at the weights of the source.
        examples: to learn from, and to judge by.
        seed: of order and dropout.
        bounds: when to end.
        folder: keeps the checkpoint.
    """

    rate: float = RATE
    """Of the topmost layer, at its highest."""

    def __init__(
        self, network: Network, examples: Examples, *, seed: int, bounds: Bounds, folder: Path
    ) -> None:
        self._network, self._examples = network, examples
        self._seed, self._bounds, self._folder = seed, bounds, folder
        self._optimiser = optimiser(network, self.rate)
        self._cpu, self._wall = time.process_time(), time.monotonic()
        self._batches = examples.epoch(0, seed=seed)
        self._epoch = 0
        self._per_epoch = len(self._batches)
        found = restore(folder, network, self._optimiser)
        if found is None:
            self._begin()
        else:
            self.progress, self._best = found

    def _begin(self) -> None:
        self._start()
        self._best = copy(self._network)
        self.progress = Progress(steps=self._planned())
        self._judge()
        self._keep()

    def _start(self) -> None:
        """Give the network a head to begin with."""
        examples, network = self._examples, self._network
        few = _some_of_each(examples.labels, examples.learn)
        start_head(network, embed_all(network, examples.texts, few), examples.labels[few])

    def _planned(self) -> int:
        wanted = self._bounds.steps or steps_for(self._per_epoch)
        if self._bounds.minutes is None:
            return wanted
        begun = time.monotonic()
        for step in range(_TIMED):
            self._gradients(step)
        self._optimiser.zero_grad()
        each = (time.monotonic() - begun) / _TIMED
        return max(1, min(wanted, int(60 * self._bounds.minutes / each)))

    @property
    def network(self) -> Network:
        """What is trained."""
        return self._network

    @property
    def stopped(self) -> int | None:
        """After which step it was ended before its last: by the clock, or since nothing helped."""
        return self.progress.step if self.progress.step < self.progress.steps else None

    def run(self, advance: Advance) -> None:
        """Train to the end, and leave the best weights in the network.

        Raises:
            DivergedError: they are no numbers any more.
            OSError: the disk refuses.
        """
        advance(self.progress.step)
        while not self._over():
            self._step()
            advance(1)
        with torch.no_grad():
            for name, parameter in self._network.trained().items():
                parameter.copy_(self._best[name])

    def _over(self) -> bool:
        progress, bounds = self.progress, self._bounds
        if progress.step in {progress.steps, bounds.stop}:
            return True
        if progress.judged[-1].step != progress.step:
            return False
        epochs = progress.steps // self._per_epoch
        vain = sum(one.step > progress.best.step for one in progress.judged)
        late = bounds.minutes is not None and progress.wall_s > 60 * bounds.minutes
        return progress.step > 0 and (late or vain >= max(_PATIENCE, epochs // 4))

    def _step(self) -> None:
        progress = self.progress
        for group in self._optimiser.param_groups:
            group["lr"] = group["initial_lr"] * _share(progress.step, progress.steps)
        self._gradients(progress.step)
        nn.utils.clip_grad_norm_(self._network.trained().values(), _CLIP)
        self._optimiser.step()
        self._optimiser.zero_grad()
        step = progress.step + 1
        self.progress = progress.model_copy(update={"step": step})
        if step % self._per_epoch == 0 or step in {progress.steps, self._bounds.stop}:
            self._judge()
            self._keep()
        elif step % _KEPT_EVERY == 0:
            self._keep()

    def _gradients(self, step: int) -> None:
        """Leave the gradients of a step's batch in the network."""
        epoch, at = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._examples.epoch(epoch, seed=self._seed), epoch
        batch = self._batches[at]
        self._network.train()
        torch.manual_seed(int(np.random.default_rng([self._seed, 1, step]).integers(1 << 62)))
        ids, mask = map(torch.from_numpy, pad([self._examples.texts[i] for i in batch]))
        self._loss(batch, ids, mask).backward()  # type: ignore[no-untyped-call]

    def _loss(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what is to become less, of the texts of a batch."""
        return self._surprise(batch, self._network(ids, mask))

    def _surprise(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return the cross-entropy to the labels."""
        right = torch.from_numpy(self._examples.labels[batch])
        # By the size of a whole batch: a text counts as much in a small one.
        return nn.functional.cross_entropy(logits, right, reduction="sum") / SIZE

    def _judge(self) -> None:
        """Say what the held-out texts say of the weights as they are, and keep those if best."""
        accuracy, surprise = self._seen()
        if not math.isfinite(surprise):
            msg = (
                "training diverged: its weights are no numbers any more. Report this model; "
                "`edgeslm-export intent --train head` trains none."
            )
            raise DivergedError(msg)
        judged = Judged(step=self.progress.step, accuracy=accuracy, surprise=surprise)
        self.progress = self.progress.model_copy(update={"judged": (*self.progress.judged, judged)})
        if self.progress.best is judged:
            self._best = copy(self._network)

    def _seen(self) -> tuple[float, float]:
        """Return accuracy, in per cent, and surprise, in nats, on the held-out texts."""
        examples = self._examples
        return judge(self._network, examples.texts, examples.labels, examples.held_out.tolist())

    def _keep(self) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        self.progress = self.progress.model_copy(
            update={
                "cpu_s": self.progress.cpu_s + cpu - self._cpu,
                "wall_s": self.progress.wall_s + wall - self._wall,
            }
        )
        self._cpu, self._wall = cpu, wall
        save(self._folder, self.progress, self._network, self._optimiser, self._best)


def _share(step: int, steps: int) -> float:
    """Return the share of its highest rate at which a step is taken."""
    warm = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _some_of_each(labels: NDArray[np.int64], learn: NDArray[np.int64]) -> list[int]:
    """Return up to `_START` texts of each label, spread over them."""
    chosen: list[int] = []
    for label in np.unique(labels[learn]):
        of_label = learn[labels[learn] == label]
        picked = np.linspace(0, len(of_label) - 1, min(_START, len(of_label))).round()
        chosen += of_label[picked.astype(int)].tolist()
    return chosen


def copy(network: Network) -> dict[str, Tensor]:
    """Return the weights that training moves, as they are now."""
    return {name: p.detach().clone() for name, p in network.trained().items()}
