"""A key that is made in a PKCS#11 token: its request holds, and stunnel connects with it."""

from __future__ import annotations

import grp
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from edgeslm.contract.brokers import Broker, Tls
from edgeslm.contract.identity import SOCKET
from edgeslm.contract.settings import HardwareKey, load_settings
from edgeslm.provision.folder import Folder
from edgeslm.provision.hardware import stunnel
from tests.provision.kit import Site, edgeslm, eventually
from tests.provision.live import Running, connects, publishes

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
ENGINES = ("/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", "/usr/lib/ssl/engines-3/pkcs11.so")
PIN = "123456"
UNITS = Path(__file__).parents[2] / "systemd"
# As the units tell stunnel of a new key, and remove what it has left.
TOLD = re.findall(
    r"^ExecStartPost=-/bin/sh -c '(.+)'$",
    (UNITS / "edgeslm-provision.service").read_text(),
    re.MULTILINE,
)[0].replace("$$", "$")
CLEARED = re.findall(
    r"^ExecStartPre=/bin/rm -f (.+)$", (UNITS / "edgeslm-stunnel.service").read_text(), re.MULTILINE
)[0].split()

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]  # a dozen commands, on a busy machine


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
            subprocess.run(["sh", "-c", TOLD], cwd=state, check=True)
        site.list_replaced(service.engine)
        site.restart()  # keys and certificates before do not get in any more
        eventually(lambda: connects(load_settings(file)), "stunnel has read it again")
    finally:
        process.kill()  # and leaves its socket and the file of its id
        process.wait(10)
    for left in CLEARED:
        (state / "tunnel" / Path(left).name).unlink()
    with (tmp_path / "stunnel.log").open("wb") as log:
        process = subprocess.Popen([stunnel, str(config)], stdout=log, stderr=log, env=os.environ)
    try:
        eventually(lambda: (state / "tunnel" / "socket").exists() or process.poll(), "stunnel")
        assert connects(load_settings(file)), said()
    finally:
        process.terminate()
        process.wait(10)


def test_keys_of_others_in_the_token_are_left_alone(
    site: Site, service: Running, token: dict[str, str], tmp_path: Path
) -> None:
    """Ids such as 1, 2, 3 are what everybody takes; and so may be our label."""
    pkcs11 = pytest.importorskip("pkcs11")
    encode_named_curve_parameters = pytest.importorskip(
        "pkcs11.util.ec"
    ).encode_named_curve_parameters

    def held() -> Counter[tuple[bytes, str]]:
        opened = pkcs11.lib(token["module"]).get_token(token_label="edge")  # noqa: S106 -- a label
        with opened.open(user_pin=PIN) as session:
            found = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
            return Counter((bytes(each[pkcs11.Attribute.ID]), each.label) for each in found)

    opened = pkcs11.lib(token["module"]).get_token(token_label="edge")  # noqa: S106 -- as above
    with opened.open(rw=True, user_pin=PIN) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        for label in ("edgeslm", "mine"):
            for number in (1, 2, 3):
                parameters.generate_keypair(store=True, id=number.to_bytes(4, "big"), label=label)
    others = held()
    assert len(others) == 6
    file = site.configure(tmp_path / "dev", token=service.token("press-1"), pkcs11=token)
    for _ in range(4):
        done = edgeslm("provision", "--config", str(file), "--renew")
        assert done.returncode == 0, done.stderr
    now = held()
    assert others <= now
    ours = now - others
    assert [label for _, label in ours.elements()] == ["edgeslm"] * 2  # in force, and before


def test_stunnel_takes_any_name_of_a_cluster(tmp_path: Path) -> None:
    uplink = Broker(host="a.plant", others=("b.plant:8884", "192.0.2.7", "a.plant:9000"), tls=Tls())
    where = HardwareKey(module=Path("/m"), token="t", pin_file=Path("/p"))  # noqa: S106 -- a label
    lines = stunnel(tmp_path, where, uplink, b"\x01" * 16).splitlines()
    named = [line for line in lines if line.startswith("check")]
    assert named == ["checkHost = a.plant", "checkHost = b.plant", "checkIP = 192.0.2.7"]
    assert len([line for line in lines if line.startswith("connect = ")]) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")
def test_members_of_the_group_open_the_socket_and_nobody_else() -> None:
    """As stunnel makes it under the unit's umask; under another a member cannot, either."""
    umask = re.findall(
        r"^UMask=(.+)$", (UNITS / "edgeslm-stunnel.service").read_text(), re.MULTILINE
    )
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        folder = Folder(Path(made) / "state", "users")
        member, stranger = grp.getgrnam("users").gr_gid, 54321
        with folder.held():
            folder.make(folder.path / "tunnel")
        path = folder.path / SOCKET
        for mask, may in ((int(umask[0], 8), True), (0o022, False)):
            path.unlink(missing_ok=True)
            before = os.umask(mask)
            try:
                listening = socket.socket(socket.AF_UNIX)
                listening.bind(str(path))
            finally:
                os.umask(before)
            listening.listen()
            assert _opens(path, member) is may
            assert not _opens(path, stranger)
            listening.close()


def _opens(path: Path, group: int) -> bool:
    """Whether a user of this group alone can connect there."""
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    argv = ["/usr/bin/python3", "-c", code, str(path)]
    as_ = {"user": 54321, "group": group, "extra_groups": []}
    done = subprocess.run(argv, capture_output=True, check=False, cwd="/", **as_)  # type: ignore[call-overload]
    return bool(done.returncode == 0)


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
