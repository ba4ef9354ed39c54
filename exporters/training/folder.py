"""A trained encoder in a folder: `OUT/trained/` of an export with `--train full` or `few`.

It is a Hugging Face model folder, which any source of encoders reads, and two files beside:

| file | holds |
|---|---|
| `config.json`, `model.safetensors`, `tokenizer.json` | The encoder after training, float32 |
| other small files of its tokenizer | As its source had them |
| `head.npz` | `weight` float32 [dim, labels], `bias` float32 [labels] |
| `trained.json` | `Facts`: labels in the head's order, where texts were cut, what was held out |

The head is on embeddings of length 1, as every head of ours: hidden states are averaged over real
tokens and scaled to length 1; logits are `embedding @ weight + bias`, at temperature 1. So a
teacher's logits come from `torch` or from the exported graph alike.

Texts whose `fingerprint` is among `held_out` were not trained on. Epochs and scores were chosen by
them, and whoever trains a student of this teacher calibrates it on the same.

`read_trained` takes the folder of the export or the folder `trained` in it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeslm.contract.base import Typed, parse_json
from edgeslm.contract.manifest import BaseModelInfo
from edgeslm.errors import InvalidFileError

TRAINED: Final = "trained"
"""Folder of the trained encoder in an export."""
HEAD: Final = "head.npz"
FACTS: Final = "trained.json"
_MAX_BYTES: Final = 64 << 20  # of either file: 10,000 labels of 1,024 values are 41 MB
_MATRIX: Final = 2
_REMEDY: Final = "Give the folder of a trained export as `edgeslm-export` left it, or export again."


class TrainedError(InvalidFileError):
    """A folder holds no trained encoder, or not a whole one."""

    code = "train.folder"


Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Facts(Typed):
    """`trained.json`."""

    schema_version: Literal[1] = 1
    task: Literal["intent"] = "intent"
    labels: Annotated[
        tuple[str, ...], Field(min_length=2, max_length=10_000, description="In the head's order.")
    ]
    max_tokens: Annotated[int, Field(ge=4, le=8192, description="Where texts were cut.")]
    seed: int
    base: BaseModelInfo = Field(description="What training began with.")
    held_out: tuple[Fingerprint, ...] = Field(
        description="Of the texts that were not trained on, ascending."
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained encoder and its head.

    Args:
        folder: the Hugging Face folder.
        facts: what is known of it.
        weight: float32 [dim, labels].
        bias: float32 [labels].
    """

    folder: Path
    facts: Facts
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def digest(self) -> bytes:
        """Return a hash of all that is in the folder."""
        digest = hashlib.sha256()
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").digest()
            digest.update(file.relative_to(self.folder).as_posix().encode() + b"\0" + content)
        return digest.digest()

    def unseen(self, texts: Iterable[str]) -> list[bool]:
        """Return for each text whether training held it out."""
        held_out = frozenset(self.facts.held_out)
        return [fingerprint(text) in held_out for text in texts]


def fingerprint(text: str) -> str:
    """Return what stands for a text in `trained.json`, which is to hold none."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_head(
    folder: Path, facts: Facts, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    """Write head and facts beside a model."""
    # Not np.savez, which writes the time of day into the archive.
    with zipfile.ZipFile(folder / HEAD, "w") as archive:
        for name, value in (("weight", weight), ("bias", bias)):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(value), allow_pickle=False)
    (folder / FACTS).write_text(facts.model_dump_json(indent=1) + "\n", "utf-8")


def read_trained(given: Path) -> Trained:
    """Return the trained encoder in a folder, or in the export that it is.

    Raises:
        TrainedError: there is none, or it is damaged; says what and where.
    """
    inside = given / TRAINED
    folder = inside if inside.is_dir() else given
    file, head = folder / FACTS, folder / HEAD
    facts = parse_json(Facts, _read(file), file=str(file), remedy=_REMEDY, error=TrainedError)
    weight, bias = _head(head)
    labels = len(facts.labels)
    if weight.ndim != _MATRIX or weight.shape[1] != labels or bias.shape != (labels,):
        what = f"{list(weight.shape)} and {list(bias.shape)} do not go with {labels} labels"
        raise TrainedError(str(head), [("weight, bias", what)], remedy=_REMEDY)
    return Trained(folder, facts, weight, bias)


def _head(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    raw = _read(file)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            sizes = sum(inside.file_size for inside in archive.infolist())
        with np.load(io.BytesIO(raw if sizes <= _MAX_BYTES else b""), allow_pickle=False) as arrays:
            found = arrays["weight"], arrays["bias"]
    except Exception as err:  # noqa: BLE001 -- zipfile, zlib and numpy share no base
        what = f"not a head: {str(err)[:200]}"
        raise TrainedError(str(file), [("", what)], remedy=_REMEDY) from None
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in found):
        what = "not float32, or not finite"
        raise TrainedError(str(file), [("weight, bias", what)], remedy=_REMEDY)
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        why = getattr(err, "strerror", None) or str(err)
        raise TrainedError(str(file), [("", why)], remedy=_REMEDY) from None
    if len(raw) > _MAX_BYTES:
        raise TrainedError(str(file), [("", f"over {_MAX_BYTES} bytes")], remedy=_REMEDY)
    return raw
