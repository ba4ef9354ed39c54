"""A device runs what it can run and its profile likes best; of the rest it is said why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.fleet import OfferedVariant
from edgeslm.contract.profile import DeviceProfile
from edgeslm.ports import Offer
from edgeslm.runtime.choose import NoOfferError, UnknownVersionError, choose
from edgeslm.runtime.device import Device
from tests.updater.offers import MODEL, PC, offer, profile, variant


def chosen(offers: Sequence[Offer], liked: DeviceProfile | None, device: Device = PC) -> Offer:
    return choose(offers, model=MODEL, version=1, profile=liked, device=device)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        ({"arch": "aarch64"}, "needs aarch64, this is x86_64"),
        ({"cpu_features": ("avx2", "amx_int8")}, "needs CPU feature amx_int8"),
        ({"cpu_features_any": ("sve", "i8mm")}, "needs CPU feature sve or i8mm"),
        ({"soc": "qcs6490"}, "needs SoC qcs6490"),
    ],
)
def test_it_is_said_what_a_device_lacks(requires: dict[str, Any], said: str) -> None:
    offers = [offer(variants=[variant("cpu", **requires)], profiles=["other"])]
    for liked, here in ((profile("cpu"), "(mine)"), (None, "(x86_64, no profile set)")):
        with pytest.raises(NoOfferError) as raised:
            chosen(offers, liked)
        assert f"made for other: cpu {said}" in str(raised.value)
        assert f"{MODEL} 1: nothing for this device {here}" in str(raised.value)


def test_a_provider_that_the_profile_does_not_name_is_refused() -> None:
    offers = [offer(variants=[OfferedVariant(name="npu", provider="qnn"), variant("openvino")])]
    with pytest.raises(NoOfferError) as raised:
        chosen(offers, profile("cpu", "cuda"))
    assert "npu is for qnn, not one of this profile's providers" in str(raised.value)
    assert "openvino is for openvino" in str(raised.value)


def test_plain_onnx_is_for_the_cpu() -> None:
    plain = offer()
    assert chosen([plain], profile("cpu")) is plain
    with pytest.raises(NoOfferError, match="cpu is for cpu"):
        chosen([plain], profile("cuda"))


def test_a_version_that_is_not_there_is_told_from_one_that_does_not_fit() -> None:
    offers = [offer(3), offer(2, [variant(arch="aarch64")]), offer(3, salt="again")]
    with pytest.raises(UnknownVersionError, match=r"press 1: the repository has 2, 3\."):
        chosen(offers, profile("cpu"))
    with pytest.raises(UnknownVersionError, match="the repository has none"):
        chosen([], profile("cpu"))


NPU = variant("qnn", soc="qcs6490")
BOARD = Device("aarch64", "", frozenset(), frozenset({"qcs6490"}))
# What is offered, best first for the device and profile beside it.
ORDERS: dict[str, tuple[DeviceProfile | None, Device, list[Offer]]] = {
    "made for this profile, whatever its provider": (
        profile("cuda", "cpu"),
        PC,
        [offer(variants=[variant("cpu")]), offer(variants=[variant("cuda")], profiles=["other"])],
    ),
    "the provider that the profile likes most": (
        profile("qnn", "cpu"),
        BOARD,
        [offer(variants=[variant("cpu"), NPU]), offer(variants=[variant("cpu")])],
    ),
    "a good one of several, though others of it do not fit": (
        profile("cuda", "cpu"),
        PC,
        [
            offer(variants=[variant("cpu", arch="aarch64"), variant("cuda")]),
            offer(variants=[variant("cpu")]),
        ],
    ),
    "without a profile, what demands most": (
        None,
        BOARD,
        [offer(variants=[NPU]), offer(variants=[variant()])],
    ),
    "the same of features": (
        None,
        PC,
        [
            offer(variants=[variant(cpu_features=("avx2", "avx512_vnni"))]),
            offer(variants=[variant(cpu_features=("avx2",))]),
            offer(variants=[variant()]),
        ],
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_of_those_that_fit_one_is_preferred(case: str) -> None:
    liked, device, best_first = ORDERS[case]
    while best_first:
        assert chosen(best_first, liked, device) is best_first[0]
        assert chosen(best_first[::-1], liked, device) is best_first[0]
        best_first = best_first[1:]


names = st.sampled_from(["cpu", "cuda", "qnn"])
variants = st.builds(
    variant,
    st.none() | names,
    arch=st.sampled_from([None, "x86_64", "aarch64"]),
    cpu_features=st.lists(st.sampled_from(["avx2", "sve"]), max_size=2, unique=True).map(tuple),
)
offers_ = st.lists(
    st.builds(
        offer,
        st.integers(1, 2),
        st.lists(variants, min_size=1, max_size=3),
        st.lists(st.sampled_from(["mine", "other"]), max_size=2, unique=True),
        salt=st.integers(0, 3).map(str),
    ),
    max_size=6,
)
profiles = st.none() | st.lists(names, min_size=1, unique=True).map(lambda n: profile(*n))


@given(offers_, profiles, st.randoms())
def test_what_is_chosen_can_run_and_no_order_of_the_offers_changes_it(
    offers: list[Offer], liked: DeviceProfile | None, random: Any
) -> None:
    def outcome(given: list[Offer]) -> object:
        try:
            return chosen(given, liked).bundle.bundle
        except (NoOfferError, UnknownVersionError) as err:
            return type(err)

    shuffled = random.sample(offers, len(offers))
    found = outcome(offers)
    assert outcome(shuffled) == found
    fits = {
        o.bundle.bundle
        for o in offers
        if o.bundle.version == 1
        and any(
            PC.lacks(v.requires) is None
            and (liked is None or (v.provider or "cpu") in liked.providers)
            for v in o.bundle.variants
        )
    }
    assert found in fits if fits else isinstance(found, type)
    made_for_us = {o.bundle.bundle for o in offers if "mine" in o.bundle.profiles} & fits
    assert liked is None or not made_for_us or found in made_for_us
