"""Tokens of a text: unpadded, cut at the limit, and in bounded time however long the text is."""

from __future__ import annotations

import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.runtime.tokenizer import MAX_CHARS, Recent, Tokenizer, TokenizerError
from tests.runtime import tiny

DATA = tiny.tokenizer_bytes()
LIMIT = tiny.MAX_TOKENS
TOKENIZER = Tokenizer(DATA, max_tokens=LIMIT)


def reference(text: str) -> list[int]:
    """The whole text's tokens, cut: what `encode` must give, without its short cuts."""
    native = tokenizers.Tokenizer.from_buffer(DATA)
    native.no_padding()
    native.enable_truncation(LIMIT)
    ids: list[int] = native.encode(text).ids
    return ids


def ids_of(text: str) -> list[int]:
    tensors, _ = TOKENIZER.encode(text)
    found: list[int] = tensors["input_ids"][0].tolist()
    return found


def test_a_short_text_is_neither_padded_nor_cut() -> None:
    tensors, truncated = TOKENIZER.encode("pump hot")
    assert {name: t.shape for name, t in tensors.items()} == {
        "input_ids": (1, 4),
        "attention_mask": (1, 4),
        "token_type_ids": (1, 4),
    }
    assert all(t.dtype == np.int64 for t in tensors.values())
    assert tensors["attention_mask"].all()
    assert not tensors["token_type_ids"].any()
    assert not truncated


@pytest.mark.parametrize(
    ("words", "cut"), [(LIMIT - 3, False), (LIMIT - 2, False), (LIMIT - 1, True)]
)
def test_says_when_it_cut(*, words: int, cut: bool) -> None:
    tensors, truncated = TOKENIZER.encode("pump " * words)
    assert truncated is cut
    assert tensors["input_ids"].shape[1] == min(words + 2, LIMIT)


chunks = st.sampled_from(
    [
        "pump ",
        "hot",
        " ",
        "\t\n",
        "x" * 90,
        "x" * 130,
        "1.1.",
        "é",
        "\U0001f600",
        "\0",
        "#",
        "\u3000",
    ]
)
texts = st.lists(st.tuples(chunks, st.integers(1, 60)), max_size=12).map(
    lambda parts: "".join(chunk * times for chunk, times in parts)
)


@given(texts | st.text())
@settings(max_examples=300)
def test_cutting_ahead_changes_no_token(text: str) -> None:
    assert ids_of(text) == reference(text)


@given(st.lists(texts | st.text() | st.text(st.characters(), max_size=40), max_size=6))
def test_many_read_together_are_read_as_each_alone(texts: list[str]) -> None:
    for read in (TOKENIZER.encode_all(texts), Recent(TOKENIZER).encode_all(texts)):
        together = [(tensors["input_ids"].tolist(), cut) for tensors, cut in read]
        alone = [TOKENIZER.encode(text) for text in texts]
        assert together == [(tensors["input_ids"].tolist(), cut) for tensors, cut in alone]


def test_what_a_thread_has_just_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent(TOKENIZER)
    texts = ["pump hot", "valve"]
    together = recent.encode_all(texts)
    assert recent.encode_all(["pump", "valve"])[1] is together[1]
    recent.encode_all(texts)
    together = recent.encode_all(texts)
    monkeypatch.setattr(Tokenizer, "encode", None)
    assert [recent.encode(text) for text in texts] == together
    with pytest.raises(TypeError):
        recent.encode("pump")


@given(st.text(st.characters(), max_size=40))
def test_any_string_gives_tokens(text: str) -> None:
    """Lone surrogates too, which a JSON escape can bring."""
    assert 1 <= len(ids_of(text)) <= LIMIT


@pytest.mark.parametrize("unit", ["a", " ", "pump ", "1.1.", "/", "\U0001f600", "\0", "e\u0301"])
def test_a_megabyte_costs_milliseconds(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    _, truncated = TOKENIZER.encode(text)
    assert time.process_time() - start < 1.0
    assert truncated


def test_what_lies_behind_the_last_character_read_changes_nothing() -> None:
    spaces = " " * MAX_CHARS
    assert ids_of(spaces + "pump") == ids_of(spaces)
    assert TOKENIZER.encode(spaces + "pump")[1]
    assert ids_of(" " * (MAX_CHARS - 4) + "pump") == ids_of("pump")


def test_models_with_the_same_file_share_one_tokenizer_as_long_as_one_needs_it() -> None:
    data = tiny.tokenizer_bytes()
    one = Tokenizer.shared(data, max_tokens=8)
    assert Tokenizer.shared(bytes(data), max_tokens=8) is one
    other = Tokenizer.shared(data, max_tokens=4)
    assert other is not one
    text = "pump " * 20
    assert one.encode(text)[0]["input_ids"].shape == (1, 8)
    assert other.encode(text)[0]["input_ids"].shape == (1, 4)
    gone = weakref.ref(one)
    del one
    assert gone() is None
    assert Tokenizer.shared(data, max_tokens=8).encode(text)[0]["input_ids"].shape == (1, 8)


def test_threads_share_it() -> None:
    texts = [f"pump {i} hot {'valve ' * (i % 30)}" for i in range(200)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ids_of, texts)) == [ids_of(text) for text in texts]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[]", b"{}", b'{"model": {}}', b"[" * 100_000]
)
def test_garbage_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(TokenizerError):
        Tokenizer(data, max_tokens=LIMIT)


@given(st.binary(max_size=200) | st.integers(0, len(DATA)).map(lambda n: DATA[:n]))
def test_any_bytes_give_a_tokenizer_or_a_typed_error(data: bytes) -> None:
    try:
        Tokenizer(data, max_tokens=LIMIT)
    except TokenizerError as err:
        assert "tokenizer" in str(err)  # noqa: PT017 -- the whole file is one too
