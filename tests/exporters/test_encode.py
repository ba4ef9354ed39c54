"""Texts become the same embeddings whether they go through the encoder alone or together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exporters.encode import make_embed
from exporters.sources import open_source
from exporters.sources.base import read_encoder


def test_texts_together_have_the_embeddings_of_texts_alone(toy_model: Path, tmp_path: Path) -> None:
    open_source(str(toy_model), tokenizer=None).export(tmp_path)
    encoder = read_encoder(tmp_path)
    texts = ["pump", "start the pump", "oven", "start pump", "stop the oven", "pump", "now please"]
    alone, together = (
        make_embed(encoder.model, encoder, max_tokens=16, batch=batch)(texts) for batch in (1, 2)
    )
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len({row.tobytes() for row in alone}) == len(set(texts))
    again = make_embed(encoder.model, encoder, max_tokens=16, batch=2)(texts)
    np.testing.assert_array_equal(again, together)
