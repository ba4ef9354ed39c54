"""How a student of fewer layers is taught by the encoder that it is cut out of.

It learns what its teacher holds likely, and what the teacher's last layer says of each token, which
is computed once; the labels themselves count little. All else is as in the teacher's own training:
batches, rates that fall, a judgement after each epoch, checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeslm.adapters.fs import flush_folder
from exporters.heads.base import Advance
from exporters.training.batches import SIZE, Batch, by_length, pad
from exporters.training.folder import Trained
from exporters.training.loop import Bounds, Examples, Training
from exporters.training.network import Network, open_network

RATE: Final = 3e-4
"""Learning rate of a student's topmost layer: it has further to go than its teacher had."""
HIDDEN: Final = "hidden.npy"
LOGITS: Final = "logits.npy"
_TEMPERATURE: Final = 2.0  # at which logits are compared
_HALF: Final = 2  # bytes of a float16
_OWN: Final = 0.1  # weight of the labels themselves


def open_teacher(trained: Trained) -> Network:
    """Return a trained encoder under its own head.

    Raises:
        SourceError: PyTorch cannot load it.
    """
    network = open_network(trained.folder, len(trained.facts.labels))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(trained.weight.T))
        network.head.bias.copy_(torch.from_numpy(trained.bias))
    return network


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a teacher says of texts, in files: those of many texts do not fit into memory.

    Args:
        logits: float32 [texts, labels].
        hidden: float16 [tokens, dim], of one text behind the other.
        starts: int64 [texts], where in `hidden` each begins.
    """

    logits: NDArray[np.float32]
    hidden: NDArray[np.float16]
    starts: NDArray[np.int64]

    def of(self, batch: Batch, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return logits, float32 [batch, labels], and states, float32 [batch, longest, dim]."""
        states = np.zeros((len(batch), max(lengths), self.hidden.shape[1]), np.float32)
        for row, (text, length) in enumerate(zip(batch, lengths, strict=True)):
            start = self.starts[text]
            states[row, :length] = self.hidden[start : start + length]
        return torch.from_numpy(self.logits[batch]), torch.from_numpy(states)


def ask(
    teacher: Network, texts: Sequence[NDArray[np.int64]], folder: Path, advance: Advance
) -> Knowledge:
    """Return what `teacher` says of `texts`, now or in an earlier run that kept it in `folder`.

    Args:
        teacher: under its head.
        texts: token ids.
        folder: of this run alone.
        advance: called with the number of texts just done.

    Raises:
        OSError: the disk refuses.
    """
    lengths = [len(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    if (folder / LOGITS).is_file():  # which is written last
        advance(len(texts))
    else:
        _write(teacher, texts, starts, folder, advance)
    hidden = np.load(folder / HIDDEN, mmap_mode="r", allow_pickle=False)
    return Knowledge(np.load(folder / LOGITS, allow_pickle=False), hidden, starts)


def _write(
    teacher: Network,
    texts: Sequence[NDArray[np.int64]],
    starts: NDArray[np.int64],
    folder: Path,
    advance: Advance,
) -> None:
    """Ask, and write both files: a map of a file would end the process where the disk is full."""
    teacher.eval()
    labels, dim = teacher.head.weight.shape
    logits = np.empty((len(texts), labels), np.float32)
    shape = {"descr": "<f2", "fortran_order": False, "shape": (sum(map(len, texts)), dim)}
    with (folder / HIDDEN).open("wb") as file, torch.no_grad():
        np.lib.format.write_array_header_1_0(file, shape)
        begin = file.tell()
        for batch in by_length(range(len(texts)), [len(text) for text in texts]):
            ids, mask = map(torch.from_numpy, pad([texts[i] for i in batch]))
            states = teacher.hidden(ids, mask)
            logits[batch] = teacher.head(teacher.pool(states, mask)).numpy()
            for row, text in zip(states.numpy().astype("<f2"), batch, strict=True):
                file.seek(begin + int(starts[text]) * dim * _HALF)
                file.write(row[: len(texts[text])].tobytes())
            advance(len(batch))
        file.flush()
        os.fsync(file)
    fresh = folder / f".{LOGITS}"
    with fresh.open("wb") as file:
        np.save(file, logits, allow_pickle=False)
        file.flush()
        os.fsync(file)
    fresh.replace(folder / LOGITS)
    flush_folder(folder)


class Distillation(Training):
    """The training of a student, which begins as a part of its teacher.

    Args:
        network: see `exporters.training.layers.cut`.
        knowledge: of the teacher, about `examples.learn`.
    """

    rate = RATE

    def __init__(  # noqa: PLR0913 -- by name
        self,
        network: Network,
        knowledge: Knowledge,
        examples: Examples,
        *,
        seed: int,
        bounds: Bounds,
        folder: Path,
    ) -> None:
        self._knowledge = knowledge
        super().__init__(network, examples, seed=seed, bounds=bounds, folder=folder)

    def _start(self) -> None:
        """Leave the head as it is: the teacher's."""

    def _loss(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what a batch costs.

        Source:
            Hinton et al. 2015, arXiv:1503.02531, section 2: soft targets, multiplied by the square
            of the temperature; Sanh et al. 2019, arXiv:1910.01108, section 3, for the states.
        """
        lengths = [len(self._examples.texts[i]) for i in batch]
        goal, states = self._knowledge.of(batch, lengths)
        hidden = self._network.hidden(ids, mask)
        logits = self._network.head(self._network.pool(hidden, mask))
        own = self._surprise(batch, logits)
        soft = nn.functional.cross_entropy(
            logits / _TEMPERATURE, (goal / _TEMPERATURE).softmax(dim=1), reduction="sum"
        )
        real = mask.unsqueeze(-1).to(hidden.dtype)
        apart = ((hidden - states) * real).square().sum() / (real.sum() * hidden.shape[-1])
        share = len(batch) / SIZE
        return _TEMPERATURE**2 * soft / SIZE + _OWN * own + share * apart
