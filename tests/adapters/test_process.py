"""Memory is measured, and given back after loading."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from edgeslm.adapters.process import pss_mb, trim


def test_measures_this_process() -> None:
    assert 1 < pss_mb() < 10_000
    assert pss_mb(os.getpid()) == pytest.approx(pss_mb(), rel=0.2)


def test_a_process_that_is_not_there_is_an_os_error() -> None:
    highest = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
    with pytest.raises(OSError, match="No such file"):
        pss_mb(highest + 1)


def test_trim_spares_the_collector_what_was_loaded() -> None:
    try:
        trim()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
