"""Suspects: each alone in its model, one at a time, and no model waits for another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from edgeslm.agent.dispatch import Dispatcher


def job(model: str, kills: int = 0) -> Any:
    return SimpleNamespace(session=SimpleNamespace(model=model), kills=kills)


def test_inputs_of_a_model_wait_for_its_suspect_and_those_of_others_do_not() -> None:
    begun: list[Any] = []
    dispatcher = Dispatcher(begun.append)
    suspect, beside, other = job("a", 1), job("a"), job("b")
    for one in (suspect, beside, other):
        dispatcher.take(one)
    assert begun == [suspect, other]
    dispatcher.finished(suspect)
    assert begun == [suspect, other, beside]


def test_suspects_run_one_at_a_time_so_that_the_innocent_is_not_convicted_beside_the_guilty() -> (
    None
):
    begun: list[Any] = []
    dispatcher = Dispatcher(begun.append)
    running, first, second = job("a"), job("a", 1), job("b", 2)
    for one in (running, first, second):
        dispatcher.take(one)
    assert begun == [running, second]  # the first waits for its model to be idle
    dispatcher.finished(running)
    assert begun == [running, second]
    dispatcher.finished(second)
    assert begun == [running, second, first]
    dispatcher.finished(first)
    assert dispatcher.running == 0


def test_a_suspect_that_was_taken_back_is_one_again_and_others_are_tried_meanwhile() -> None:
    begun: list[Any] = []
    dispatcher = Dispatcher(begun.append)
    first, beside, other = job("a", 1), job("a"), job("b", 1)
    for one in (first, beside, other):
        dispatcher.take(one)
    assert begun == [first]
    dispatcher.unbegun([first])
    assert begun == [first, other]
    dispatcher.finished(other)
    dispatcher.take(first)
    assert begun == [first, other, first]
    dispatcher.finished(first)
    assert begun == [first, other, first, beside]
    dispatcher.finished(beside)
    assert dispatcher.running == 0
