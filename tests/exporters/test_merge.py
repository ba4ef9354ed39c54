"""Templates stay few, whatever names a log is full of; and states stay apart."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.novelty import Vocabulary
from edgeslm.core.template import MARK, WILD, split
from edgeslm.ports import Request
from edgeslm.tasks.anomaly import load
from exporters.data import Row
from exporters.heads import anomaly, merge
from tests.exporters.test_anomaly_head import embed

NAMES = [
    "".join(pair)
    for pair in itertools.product(("an", "bo", "cy", "do", "ed"), ("na", "ris", "ton", "vin"))
]


def test_names_become_one_template_and_states_do_not() -> None:
    users = [f"session opened for user {name} by ¤" for name in NAMES]
    states = [f"valve ¤ {state}" for state in ("opened", "closed", "stuck", "unknown")]
    found = merge.merge([*users, *states])
    assert found.templates == [f"session opened for user {WILD} by ¤", *states]
    assert found.places == [0] * len(users) + [1, 2, 3, 4]
    assert found.merged == len(users)


def test_a_new_name_is_known_and_another_sentence_is_not() -> None:
    words = Vocabulary([f"session opened for user {WILD} by ¤", "disk full"])
    assert words.look("Session opened for user mallory by ¤").place == 0
    assert words.look("session closed for user mallory by ¤").place is None
    assert words.look("session opened for user by ¤").place is None


@given(st.lists(st.text("ab ¤:x.", min_size=1, max_size=12), max_size=60, unique=True))
def test_merging_keeps_slots_and_finds_each_template_again(templates: list[str]) -> None:
    found = merge.merge(templates)
    assert len(found.templates) <= len(templates)
    for template, place in zip(templates, found.places, strict=True):
        assert template.count(MARK) == found.templates[place].count(MARK)


def test_a_log_full_of_names_is_read_as_one_template() -> None:
    rows = [
        Row(f"login of {NAMES[i % len(NAMES)]} from host {i % 7}", source="auth")
        for i in range(400)
    ]
    head = anomaly.fit(rows, embed, alarm_budget=0.02, seed=0, advance=lambda _: None)
    assert "became 1" in head.notes[0]
    task = load(head.parameters)
    asked = [Request(f"login of {name} from host 3", "auth") for name in ("mallory", "trent")]
    read = {task.prepare(one).model_text for one in asked}
    assert len(read) == 1, "the model reads all of them as one"
    outputs = {"distance": np.array(0.5, np.float32)}
    answers = [task.finish(task.prepare(one), outputs, truncated=False) for one in asked]
    assert [one.label for one in answers] == ["normal", "normal"]


def test_templates_beyond_the_bound_are_those_seen_least() -> None:
    assert merge.rarest([0, 0, 1, 2, 2, 3], most=2) == {1, 3}


def test_what_an_identifier_stands_for_is_masked_before() -> None:
    lines = [
        "token 3f2b8c1a-77de-4f0a-9b1e-0c2d4e6f8a1b for /var/log/app/x1.log at 10.0.0.7",
        "token 9a2b8c1a-77de-4f0a-9b1e-0c2d4e6f8a1c for /srv/data/y.csv at 10.0.1.9:443",
    ]
    assert len({split(line).template for line in lines}) == 1
