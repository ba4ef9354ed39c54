"""One authority takes over from another: no device is locked out, no stolen key lets one in."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edgeslm.contract.settings import load_settings
from edgeslm.core.provisioning import SIGNED, CertificateUnknownError
from edgeslm.fleet.authority import CERTIFICATE, KEY, NEXT, Authority, name_of
from edgeslm.fleet.errors import AuthorityStepError
from edgeslm.fleet.keys import KEYS
from edgeslm.fleet.shown import issuer_of
from tests.provision.kit import DAY_S, Csr, Device, Fleet, Site, edgeslm, eventually, request
from tests.provision.live import Running, connects

MakeDevice = Callable[..., Device]


def provisioned(fleet: Fleet, device: MakeDevice) -> Device:
    made = device("press-1")
    made.token(fleet.enrol("press-1")["press-1"])
    assert made.run().renewed
    return made


def issuer(device: Device) -> str:
    return issuer_of((device.state / "current" / "cert.pem").read_text())


def test_a_device_changes_at_its_next_run_and_not_before_the_next_one_signs(
    fleet: Fleet, device: MakeDevice
) -> None:
    made = provisioned(fleet, device)
    before = issuer(made)
    prepared = fleet.authority.prepare()
    assert fleet.authority.prepare() == prepared
    assert not made.run().renewed
    fleet.authority.rotate()
    assert made.run().renewed
    assert issuer(made) == name_of(prepared) != before
    assert not made.run().renewed


def test_who_was_away_for_all_of_it_comes_back_by_its_old_certificate(
    fleet: Fleet, device: MakeDevice
) -> None:
    made = provisioned(fleet, device)
    for _ in range(2):
        fleet.authority.prepare()
        fleet.authority.rotate()
        fleet.authority.retire()
    made.clock.now += 5 * DAY_S
    assert made.run().renewed
    assert issuer(made) == name_of(fleet.authority.certificate())
    assert fleet.seen("press-1").clones == 0


def test_where_nobody_says_who_signs_nothing_is_due(fleet: Fleet, device: MakeDevice) -> None:
    made = provisioned(fleet, device)
    fleet.hear = lambda _broker, _root: None  # type: ignore[method-assign]
    fleet.authority.prepare()
    fleet.authority.rotate()
    assert not made.run().renewed
    fleet.hear = lambda _broker, _root: "somebody else"  # type: ignore[method-assign]
    assert not made.run().renewed


def test_a_certificate_that_is_forged_by_a_stolen_authority_renews_nothing(
    fleet: Fleet, device: MakeDevice
) -> None:
    made = provisioned(fleet, device)
    genuine = x509.load_pem_x509_certificate((made.state / "current" / "cert.pem").read_bytes())
    thief = ec.generate_private_key(ec.SECP256R1())
    _, stolen = fleet.authority._pair()  # noqa: SLF001 -- as a thief has it
    forged = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(genuine.issuer)
        .public_key(thief.public_key())
        .serial_number(genuine.serial_number)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
        .sign(stolen, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    csr = Csr("press-1")
    signed = thief.sign(SIGNED + csr.der, ec.ECDSA(hashes.SHA256()))
    asked = request(csr, current=forged, signature=base64.b64encode(signed).decode())
    with pytest.raises(CertificateUnknownError):
        fleet.answer(asked)


def test_each_step_needs_the_one_before(fleet: Fleet) -> None:
    authority = fleet.authority
    with pytest.raises(AuthorityStepError, match="prepare` first"):
        authority.rotate()
    with pytest.raises(AuthorityStepError, match="rotate` first"):
        authority.retire()
    first = authority.certificate()
    prepared = authority.prepare()
    assert authority.known() == [first, prepared]
    authority.rotate()
    assert authority.known() == [prepared, first]
    with pytest.raises(AuthorityStepError):
        authority.rotate()
    assert authority.retire() == [first]
    assert authority.known() == [prepared]


def test_killed_between_its_writes_a_step_is_done_or_can_be_given_again(fleet: Fleet) -> None:
    authority, folder = fleet.authority, fleet.repository.folder
    prepared = authority.prepare()
    shutil.copy(folder / NEXT, folder / "kept")
    authority.rotate()
    shutil.copy(folder / "kept", folder / NEXT)  # it was killed before it removed it
    assert authority.waiting() is None
    second = authority.prepare()
    assert second != prepared
    authority.rotate()
    assert authority.certificate() == second


def test_a_service_that_runs_signs_by_whoever_is_to_now(fleet: Fleet) -> None:
    serving = Authority(fleet.repository)
    serving.open()
    fleet.authority.prepare()
    fleet.authority.rotate()
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    made = serving.issue("press-1", public, fleet.clock.now)
    assert issuer_of(made.pem) == name_of(fleet.authority.certificate())
    fleet.authority.retire()
    keys = [path.name for path in (fleet.repository.folder / KEYS).glob(f"{KEY}*.pem")]
    assert len(keys) == 1, keys
    serving.revoked_list([(made.serial, fleet.clock.now)])


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_broker_takes_both_for_an_overlap_and_then_the_new_one_alone(
    site: Site, service: Running, tmp_path: Path
) -> None:
    at = ("--repository", str(site.repository.folder))
    files = [
        site.configure(tmp_path / name, token=service.token(name)) for name in ("here", "away")
    ]
    here, away = files

    def authority(*words: str) -> str:
        done = edgeslm("fleet", "authority", *words, *at)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def renewed(file: Path) -> bool:
        done = edgeslm("provision", "--config", str(file))
        assert done.returncode == 0, done.stderr
        return "new certificate" in done.stdout

    def told() -> None:
        """Give the broker what it is to know, and restart it."""
        site.authorities = tmp_path / "ca.pem"
        for kind, file in (("ca", site.authorities), ("crl", site.crl)):
            file.write_text(edgeslm("fleet", "broker-config", "--kind", kind, *at).stdout)
        site.restart()

    assert [renewed(file) for file in files] == [True, True]
    authority("prepare")
    told()
    assert all(connects(load_settings(file)) for file in files)
    assert not renewed(here)
    authority("rotate")
    eventually(lambda: renewed(here), "it is told that another signs by now")
    assert all(connects(load_settings(file)) for file in files)
    rows = json.loads(authority("show", "--json"))["authorities"]
    assert [(row["state"], row["devices"]) for row in rows] == [("signs", 1), ("accepted", 1)]
    refused = edgeslm("fleet", "authority", "retire", *at)
    assert (refused.returncode, "[authority.step]" in refused.stderr) == (65, True)
    assert "1 devices" in refused.stderr
    authority("retire", "--force")
    told()
    assert connects(load_settings(here))
    assert not connects(load_settings(away))
    assert renewed(away), "by the listener for who has no certificate that counts"
    assert connects(load_settings(away))
    assert not renewed(here)
    assert (site.repository.folder / CERTIFICATE).read_text().count("BEGIN") == 1
