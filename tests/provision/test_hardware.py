"""A key that is made in a PKCS#11 token: its request holds, and stunnel connects with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.contract.settings import load_settings
from edgeslm.fleet.authority import Authority
from edgeslm.fleet.repository import Repository
from tests.provision.kit import Site, edgeslm, eventually
from tests.provision.test_system import Running, connects, publishes

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
ENGINES = ("/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", "/usr/lib/ssl/engines-3/pkcs11.so")
PIN = "123456"

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A token of the test's own, as [provision.pkcs11] names it."""
    pytest.importorskip("pkcs11", reason="the extra `pkcs11` is not installed")
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    argv = ["softhsm2-util", "--init-token", "--free", "--label", "edge", "--pin", PIN]
    subprocess.run([*argv, "--so-pin", PIN], check=True, capture_output=True)
    (tmp_path / "pin").write_text(PIN)
    return {"module": module, "token": "edge", "pin_file": str(tmp_path / "pin")}


@pytest.fixture
def site(repository: Repository, tmp_path: Path) -> Iterator[Site]:
    Authority(repository).make()
    made = Site(tmp_path / "site", repository)
    made.start()
    yield made
    made.broker.kill()


@pytest.fixture
def service(site: Site, tmp_path: Path) -> Iterator[Running]:
    running = Running(site, f"sqlite:///{tmp_path / 'repository' / 'fleet.db'}")
    yield running
    running.stop()


def test_a_key_in_a_token_connects_by_stunnel(
    site: Site, service: Running, token: dict[str, str], tmp_path: Path
) -> None:
    file = site.configure(tmp_path / "dev", token=service.token("press-1"), pkcs11=token)
    state = tmp_path / "dev" / "state"
    done = edgeslm("provision", "--config", str(file))
    assert done.returncode == 0, done.stderr
    assert not list(state.rglob("key.pem"))
    config = state / "tunnel" / "stunnel.conf"
    assert config.stat().st_mode & 0o777 == 0o600
    assert config.parent.stat().st_mode & 0o777 == 0o700
    assert PIN not in config.read_text()
    stunnel = shutil.which("stunnel") or shutil.which("stunnel4")
    if stunnel is None:
        pytest.skip("no stunnel: install the package stunnel4")
    if not any(Path(path).exists() for path in ENGINES):
        pytest.skip("no PKCS#11 engine: install the package libengine-pkcs11-openssl")
    settings = load_settings(file)
    assert settings.uplink.host == str(state / "tunnel" / "socket")
    with (tmp_path / "stunnel.log").open("wb") as log:
        process = subprocess.Popen([stunnel, str(config)], stdout=log, stderr=log, env=os.environ)
    try:
        said = (tmp_path / "stunnel.log").read_text
        eventually(lambda: (state / "tunnel" / "socket").exists() or process.poll(), "stunnel")
        assert process.poll() is None, said()
        assert connects(settings), said()
        assert publishes(settings.uplink, "edgeslm/v1/press-1/status"), said()
        assert not publishes(settings.uplink, "edgeslm/v1/press-2/status")
        for _ in range(2):  # by way of stunnel, with the key in force; then with the new one
            done = edgeslm("provision", "--config", str(file), "--renew")
            assert done.returncode == 0, done.stderr + said()
            process.send_signal(signal.SIGHUP)
        eventually(lambda: connects(load_settings(file)), "stunnel has read it again")
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("wrong", ["pin", "token", "module"])
def test_a_token_that_cannot_be_used_is_said(
    site: Site, token: dict[str, str], tmp_path: Path, wrong: str
) -> None:
    if wrong == "pin":
        (tmp_path / "pin").write_text("000000")
    elif wrong == "token":
        token["token"] = "other"  # noqa: S105 -- a label
    else:
        token["module"] = "/nowhere.so"
    unused = "edp_" + "x" * 43
    file = site.configure(tmp_path / "dev", token=unused, pkcs11=token)
    done = edgeslm("provision", "--config", str(file))
    assert (done.returncode, "[provision.key]" in done.stderr) == (75, True), done.stderr


def test_a_newline_behind_the_pin_is_said(
    site: Site, token: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\n")
    file = site.configure(tmp_path / "dev", token="edp_" + "x" * 43, pkcs11=token)
    done = edgeslm("provision", "--config", str(file))
    assert (done.returncode, "newline" in done.stderr) == (78, True), done.stderr
