"""Payloads on the wire."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.messages import ADAPTERS, Result, encode

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RESULT = cast("Result", json.loads((EXAMPLES / "result.anomaly.json").read_bytes()))


@given(st.text(st.characters(codec="utf-8")), st.floats(0, 1))
def test_what_is_encoded_is_read_back(text: str, share: float) -> None:
    result: Result = {**RESULT, "text": text, "confidence": share, "channels": {text: share}}
    assert ADAPTERS["result"].validate_json(encode(result)) == result


def test_a_lone_surrogate_does_not_stop_a_result() -> None:
    read = json.loads(encode({**RESULT, "text": "a\ud800b"}))
    assert read["text"] == "a?b"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_never_sent(bad: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode({**RESULT, "score": bad})


@pytest.mark.parametrize(
    ("field", "value"),
    [("schema", 2), ("p_value", 1.5), ("confidence", -0.1), ("channels", {"text": 2})],
)
def test_a_reader_refuses_what_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        ADAPTERS["result"].validate_python({**RESULT, field: value})
