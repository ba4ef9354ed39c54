"""Whoever is told what a device is chooses for it as it does itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeslm.contract.manifest import CPU_FEATURES
from edgeslm.contract.messages import ADAPTERS, MAX_FEATURES
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import EdgeSLMError
from edgeslm.runtime.choose import choose
from edgeslm.runtime.device import Device, device_of, platform_of
from edgeslm.runtime.profiles import load_profile, profile_names
from tests.updater.offers import MODEL, offer, variant

features = st.sets(st.sampled_from([*sorted(CPU_FEATURES), "sse2", "fpu", "amx_int8"]))
devices = st.builds(
    Device,
    st.sampled_from(["x86_64", "aarch64"]),
    st.just("a CPU"),
    features.map(frozenset),
    st.sets(st.sampled_from(["qcs6490", "imx8mp"])).map(frozenset),
)
profiles = st.one_of(st.none(), st.sampled_from(profile_names()).map(load_profile))
needs = st.fixed_dictionaries(
    {},
    optional={
        "arch": st.sampled_from(["x86_64", "aarch64"]),
        "soc": st.sampled_from(["qcs6490", "imx8mp"]),
        "cpu_features": st.lists(st.sampled_from(sorted(CPU_FEATURES)), max_size=2).map(tuple),
        "cpu_features_any": st.lists(st.sampled_from(sorted(CPU_FEATURES)), max_size=2).map(tuple),
    },
)
offered = st.lists(
    st.tuples(st.sampled_from(["cpu", "qnn", "openvino"]), needs), min_size=1, max_size=4
)


def outcome(offers: list[Any], profile: Any, device: Device) -> object:
    try:
        found = choose(offers, model=MODEL, version=1, profile=profile, device=device)
    except EdgeSLMError as err:
        return err.code
    return found.bundle


@given(devices, profiles, offered)
def test_the_same_is_chosen_by_what_is_told(
    device: Device, profile: DeviceProfile | None, variants: list[tuple[str, Any]]
) -> None:
    offers = [
        offer(variants=[variant(provider, **requires)], salt=str(number))
        for number, (provider, requires) in enumerate(variants)
    ]
    told = platform_of(device, profile)
    update = {"schema": 1, "device": "d", "time": 1.0, "updater_version": "1", "phase": "idle",
              "seq": 0, "config_seq": 0, "models": [], "platform": told}  # fmt: skip
    heard = ADAPTERS["update"].validate_python(update)["platform"]
    there, likes = device_of(heard)
    assert outcome(offers, likes, there) == outcome(offers, profile, device)


def test_every_feature_that_a_shipped_profile_asks_for_is_told() -> None:
    asked = {
        feature
        for profile in map(load_profile, profile_names())
        for feature in (*profile.requires.cpu_features, *profile.requires.cpu_features_any)
    }
    assert asked == CPU_FEATURES


def test_what_its_own_profile_asks_for_is_told_too_and_no_more_than_travels() -> None:
    profile = load_profile("generic-x86_64")
    own = profile.requires.model_copy(update={"cpu_features": ("amx_int8",)})
    mine = profile.model_copy(update={"requires": own, "name": "mine"})
    socs = frozenset({"x" * 100, *(f"soc-{n}" for n in range(100))})
    told = platform_of(Device("x86_64", "", frozenset({"amx_int8", "fpu", "avx2"}), socs), mine)
    assert told["cpu_features"] == ["amx_int8", "avx2"]
    assert (told["profile"], len(told["socs"])) == ("mine", MAX_FEATURES)


@pytest.mark.parametrize(
    "hostile",
    [
        {"arch": "x" * 65, "cpu_features": [], "socs": []},
        {"arch": "x", "cpu_features": ["f"] * 33, "socs": []},
        {"arch": "x", "cpu_features": [], "socs": ["s" * 65]},
        {"arch": "x", "cpu_features": [], "socs": [], "providers": ["p"] * 33},
        {"arch": "x", "cpu_features": "avx2", "socs": []},
    ],
)
def test_what_no_updater_says_is_refused(hostile: dict[str, Any]) -> None:
    update = {"schema": 1, "device": "d", "time": 1.0, "updater_version": "1", "phase": "idle",
              "seq": 0, "config_seq": 0, "models": [], "platform": hostile}  # fmt: skip
    with pytest.raises(ValidationError):
        ADAPTERS["update"].validate_python(update)
