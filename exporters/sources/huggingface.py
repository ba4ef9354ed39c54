"""A Hugging Face model: a local folder, or a hub id (from its cache where it is there)."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from edgeslm.errors import UnavailableError
from exporters.cache import pins
from exporters.sources.base import (
    SourceError,
    digest_of,
    read_tokenizer,
    sha256_of,
    tidy_encoder,
    write_encoder,
)

_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_REFUSALS: Final = frozenset({400, 401, 403, 404})  # HTTP statuses: asking again will not help
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_FILES: Final = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model.bin")
_PACKAGES: Final = ("onnx", "optimum", "optimum-onnx", "tokenizers", "torch", "transformers")
# Two shapes that differ from the one traced, each with a padded row: an exporter that bakes a
# length or ignores the mask is right at the traced shape alone.
_UNSEEN_SHAPES: Final = ((3, 7), (2, 29))
_MAX_DIFFERENCE: Final = 1e-3  # of hidden states, whose size is about 1


class ParityError(SourceError):
    """The exported graph does not compute what the original does."""

    code = "source.parity"


class HubUnavailableError(UnavailableError):
    """The model is not in the local cache, and the hub cannot be reached."""

    code = "source.hub_unavailable"


class HuggingFace:
    """Implements `exporters.sources.base.Source`.

    Attributes:
        folder: where the model lies.
        tokenizer: the bytes of a tokenizer.json without padding or truncation.
    """

    def __init__(self, name: str, folder: Path, tokenizer: Path) -> None:
        self.name = name
        self.folder = folder
        self.tokenizer = read_tokenizer(tokenizer)
        self._weights = _weights_of(name, folder)

    def weights_sha256(self) -> str:
        """Return the hash of the weights, of one file or several."""
        weights = self._weights
        return sha256_of(weights[0]) if len(weights) == 1 else digest_of(weights, None).hex()

    def max_positions(self) -> int | None:
        """Return the longest sequence that the model takes, in tokens; None: it does not say."""
        try:
            said = json.loads((self.folder / "config.json").read_bytes())
        except (OSError, ValueError):  # whoever loads the model will say so
            return None
        found = said.get("max_position_embeddings") if isinstance(said, dict) else None
        return found if isinstance(found, int) and found > 0 else None

    def digest(self) -> bytes:
        facts = [self.tokenizer.decode("utf-8"), pins(_PACKAGES)]
        return digest_of([*self._weights, self.folder / "config.json"], facts)

    def export(self, folder: Path) -> None:
        # Imported here: it takes seconds, and a cached export needs none of it.
        with _quiet():
            from optimum.exporters.onnx import main_export  # noqa: PLC0415

            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                try:
                    main_export(
                        str(self.folder),
                        output=scratch,
                        task="feature-extraction",
                        library_name="transformers",
                        do_validation=False,  # `_check_parity` asks more
                        local_files_only=True,
                    )
                except Exception as err:  # noqa: BLE001 -- of any kind, from four libraries
                    msg = f"{self.name}: cannot be exported: {_first_line(err)}"
                    raise SourceError(msg) from None
                raw = onnx.load(Path(scratch) / "model.onnx")
            model = tidy_encoder(raw, file=self.name)
            positions = _check_parity(self.name, self.folder, model)
        write_encoder(
            folder,
            model,
            self.tokenizer,
            weights_sha256=self.weights_sha256(),
            max_positions=positions,
        )


def open_source(name: str, *, tokenizer: Path | None) -> HuggingFace | None:
    """See `exporters.sources.base.SourceFactory`."""
    folder = Path(name)
    if not name or folder.suffix.lower() == ".onnx":
        return None
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            msg = f"{name}: holds no config.json; give a Hugging Face model folder"
            raise SourceError(msg)
        return HuggingFace(folder.resolve().name, folder, tokenizer or folder)
    if folder.exists() or not _HUB_ID.fullmatch(name):
        return None
    found = _from_hub(name)
    return HuggingFace(name, found, tokenizer or found)


def _from_hub(name: str) -> Path:
    """Return the folder of hub model `name`, from the local cache if it is there.

    Raises:
        SourceError: neither there nor on the hub, or not for us.
        HubUnavailableError: not there, and the hub does not answer.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 -- a second; folders need none
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as err:
        # Where nothing is cached either, what the hub said is the cause.
        cause = err.__cause__ if isinstance(err, LocalEntryNotFoundError) else err
        refused = getattr(getattr(cause, "response", None), "status_code", None) in _REFUSALS
        if refused or (isinstance(cause, ValueError) and not isinstance(cause, OSError)):
            msg = f"{name}: no such folder, and the hub does not give it: {_first_line(err)}"
            raise SourceError(msg) from None
        msg = (
            f"{name}: no such folder, not in the local cache, and the hub cannot be reached: "
            f"{_first_line(err)}"
        )
        raise HubUnavailableError(msg) from None


def _weights_of(name: str, folder: Path) -> list[Path]:
    for file in _WEIGHTS:
        if (folder / file).is_file():
            return [folder / file]
    if shards := sorted(folder.glob("model-*.safetensors")):
        return shards
    msg = f"{name}: holds no weights ({' or '.join(_WEIGHTS)})"
    raise SourceError(msg)


def _check_parity(name: str, folder: Path, model: onnx.ModelProto) -> int | None:
    """Hold the graph against PyTorch at unseen shapes; return the longest sequence it takes.

    Raises:
        ParityError: they differ.
    """
    import onnxruntime  # noqa: PLC0415 -- with the next two, seconds that a cached export saves
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    original = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = {spec.name for spec in session.get_inputs()}
    random = np.random.default_rng(0)
    for batch, length in _UNSEEN_SHAPES:
        ids = random.integers(0, original.config.vocab_size, (batch, length))
        mask = np.ones_like(ids)
        mask[0, length // 2 :] = 0
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feeds = {key: value for key, value in feeds.items() if key in inputs}
        (got,) = session.run(None, feeds)
        with torch.no_grad():
            tensors = {key: torch.from_numpy(value) for key, value in feeds.items()}
            expected = original(**tensors).last_hidden_state.numpy()
        real = mask.astype(bool)  # what stands at padded places is never read
        worst = float(np.abs(got[real] - expected[real]).max())
        if not worst <= _MAX_DIFFERENCE:
            msg = (
                f"{name}: exported to ONNX it differs from PyTorch by {worst:.3g} at shape "
                f"[{batch}, {length}]; {_MAX_DIFFERENCE:g} is allowed. Report this model."
            )
            raise ParityError(msg)
    positions: Any = getattr(original.config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings off the terminal: what matters is checked here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
