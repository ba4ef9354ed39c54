"""Text -> token ids, within bounds that do not depend on the text's length."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from typing import Final, Protocol
from weakref import WeakValueDictionary

import numpy as np
import tokenizers

from edgeslm.errors import RejectedError
from edgeslm.ports import Tensor

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
# A text is read piece by piece until its first `max_tokens` tokens are certain, and never further
# than this: 1 MB of spaces, or of one endless word, costs milliseconds.
MAX_CHARS: Final = 65_536
_CHARS_PER_TOKEN: Final = 8  # of the first piece: twice what prose takes
_GROWTH: Final = 4

Read = tuple[dict[str, Tensor], bool]  # what `encode` returns

# The native code would start a thread a core for a handful of texts; the callers are the threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_made: Final[WeakValueDictionary[tuple[bytes, int], Tokenizer]] = WeakValueDictionary()


class TokenizerError(RejectedError):
    """The bundle's tokenizer cannot be used."""

    code = "bundle.tokenizer"


class Encoder(Protocol):
    """What reads texts into tokens; any thread may ask."""

    def encode(self, text: str) -> Read: ...
    def encode_all(self, texts: Sequence[str]) -> list[Read]: ...


class Tokenizer:
    """A Hugging Face `tokenizer.json`, unpadded, cut at `max_tokens`. Thread-safe."""

    def __init__(self, data: bytes, *, max_tokens: int) -> None:
        """Read `data`, the file's bytes; its own padding and truncation are switched off.

        Raises:
            TokenizerError: not a tokenizer.
        """
        try:
            self._native = tokenizers.Tokenizer.from_buffer(data)
            self._native.no_padding()
            self._native.enable_truncation(max_tokens)
            self._native.encode("probe")
        except BaseException as err:
            # A panic of the native code is a BaseException, of a class it does not export.
            if isinstance(err, KeyboardInterrupt | SystemExit):
                raise
            msg = f"tokenizer: {str(err)[:300] or type(err).__name__}. Export the bundle again."
            raise TokenizerError(msg) from None
        # Views of them cost less than an array for each text.
        self._ones = np.ones((1, max_tokens), np.int64)
        self._zeros = np.zeros_like(self._ones)
        for row in (self._ones, self._zeros):
            row.setflags(write=False)
        self._first_chars = min(MAX_CHARS, max_tokens * _CHARS_PER_TOKEN)

    @classmethod
    def shared(cls, data: bytes, *, max_tokens: int) -> Tokenizer:
        """Return the tokenizer that is made of this, one for all models that have the same.

        Making one takes tens of milliseconds in which no other thread runs, and megabytes.

        Raises:
            TokenizerError: not a tokenizer.
        """
        key = (hashlib.sha256(data).digest(), max_tokens)
        if (known := _made.get(key)) is None:
            known = _made.setdefault(key, cls(data, max_tokens=max_tokens))
        return known

    def encode(self, text: str) -> Read:
        """Return the tokens of `text`, and whether some were cut off.

        The same as encoding the whole text and cutting, as far as `MAX_CHARS` characters reach:
        what lies behind them is never read, and counts as cut off.

        Returns:
            int64 [1, sequence] for each name in `INPUTS`, sequence in [1, max_tokens]; truncated.
        """
        chars = self._first_chars
        while True:
            whole = len(text) <= chars
            encoding = self._encode(text if whole else text[:chars])
            if whole or chars >= MAX_CHARS or _is_certain(encoding):
                break
            chars = min(MAX_CHARS, chars * _GROWTH)
        return self._read(encoding, whole=whole)

    def encode_all(self, texts: Sequence[str]) -> list[Read]:
        """Return what `encode` does for each, in one call for all that are short.

        Other threads run meanwhile, as they do not while one text is read.
        """
        short = [text for text in texts if len(text) <= self._first_chars]
        try:
            encodings = iter(self._native.encode_batch_fast(short))
        except (TypeError, UnicodeError):  # a lone surrogate in one of them
            return [self.encode(text) for text in texts]
        return [
            self._read(next(encodings), whole=True)
            if len(text) <= self._first_chars
            else self.encode(text)
            for text in texts
        ]

    def _read(self, encoding: tokenizers.Encoding, *, whole: bool) -> Read:
        ids = encoding.ids or [0]  # a graph needs one token, and an empty text may give none
        input_ids = np.array([ids], dtype=np.int64)
        input_ids.setflags(write=False)  # whoever asks for the same text may be given the same
        tensors: dict[str, Tensor] = {
            "input_ids": input_ids,
            "attention_mask": self._ones[:, : len(ids)],
            "token_type_ids": self._zeros[:, : len(ids)],
        }
        return tensors, bool(encoding.overflowing) or not whole

    def _encode(self, text: str) -> tokenizers.Encoding:
        try:
            return self._native.encode(text)
        except (TypeError, UnicodeError):  # a lone surrogate, from a JSON escape
            return self._native.encode(text.encode("utf-8", "replace").decode("utf-8"))


class Recent:
    """An `Encoder` that knows again what a thread has just read: for stages that read the same.

    Args:
        encoder: reads what is new.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._of = _Last()

    def encode(self, text: str) -> Read:
        """See `Tokenizer.encode`."""
        if (known := self._of.read.get(text)) is None:
            known = self._encoder.encode(text)
            self._of.read = {text: known}
        return known

    def encode_all(self, texts: Sequence[str]) -> list[Read]:
        """See `Tokenizer.encode_all`."""
        known = self._of.read
        new = [text for text in texts if text not in known]
        known = {**known, **dict(zip(new, self._encoder.encode_all(new), strict=True))}
        self._of.read = {text: known[text] for text in texts}
        return list(map(known.__getitem__, texts))


class _Last(threading.local):
    """What this thread has read last."""

    def __init__(self) -> None:
        self.read: dict[str, Read] = {}


def _is_certain(encoding: tokenizers.Encoding) -> bool:
    """Whether the tokens kept are those of the whole text, of which only the start was encoded.

    The cut may have changed the last word it left, and nothing before it. So they are if the last
    token kept is of an earlier word than the last token there is.
    """
    if not encoding.overflowing:
        return False
    return _last_word(encoding) != _last_word(encoding.overflowing[-1])


def _last_word(encoding: tokenizers.Encoding) -> int | None:
    return next((word for word in reversed(encoding.word_ids) if word is not None), None)
