"""Keys are files that only a passphrase opens, or stay in hardware; no passphrase is ever shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgeslm.adapters.tuf import Trust
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet import director
from edgeslm.fleet.config import CONFIG
from edgeslm.fleet.errors import (
    HardwareKeyError,
    KeyInvalidError,
    KeyMissingError,
    KeyUnusedError,
    PassphraseError,
)
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.rotation import list_keys
from tests.fleet import kit
from tests.fleet.kit import replace_key

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
PIN = "123456"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return kit.make(tmp_path / "fleet")


def opened(repository: Repository, passphrases: Passphrases | None = None) -> Repository:
    """The same folder, as another command opens it: nothing is unlocked."""
    return Repository(repository.folder, passphrases or kit.passphrases(), kit.Clock())


# Passphrases.


def never(prompt: str) -> str:
    pytest.fail(f"asked: {prompt}")


def typing(*texts: str) -> Callable[[str], str]:
    left = list(texts)
    return lambda _: left.pop(0)


def test_a_keys_own_file_comes_first_then_the_options_then_the_variable(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own\n")
    (tmp_path / "option").write_text("from the option\r\n")
    given = Passphrases(tmp_path / "option", variable="from the variable", ask=never)
    assert list(given.of("k", tmp_path / "own")) == [b"own"]
    assert list(given.of("k")) == [b"from the option"]
    given = Passphrases(variable="from the variable", ask=never)
    assert list(given.of("k")) == [b"from the variable"]


def test_whoever_sits_there_types_it_once_where_it_is_the_same() -> None:
    given = Passphrases(variable="", ask=typing("first one", "second one"))
    tries = given.of("root-1")
    assert next(tries) == b"first one"
    tries = given.of("root-2")
    assert next(tries) == b"first one"  # it may be that of this key as well
    assert next(tries) == b"second one"


def test_a_new_one_is_typed_twice_and_long_enough(tmp_path: Path) -> None:
    given = Passphrases(variable="", ask=typing("a long one", "a long one"))
    assert given.new("root-1") == given.new("root-2") == b"a long one"
    with pytest.raises(PassphraseError, match="not the same"):
        Passphrases(variable="", ask=typing("a long one", "another one")).new("root-1")
    with pytest.raises(PassphraseError, match="shorter than 8"):
        Passphrases(variable="short").new("root-1")
    for left in (b"", b"\n", b"x" * 5000):
        (tmp_path / "file").write_bytes(left)
        with pytest.raises(PassphraseError, match="should hold a passphrase"):
            Passphrases(tmp_path / "file").new("root-1")
    with pytest.raises(PassphraseError, match="should hold a passphrase"):
        Passphrases(tmp_path / "absent").new("root-1")


def test_without_any_it_says_how_to_give_one(repository: Repository) -> None:
    argv = [sys.executable, "-m", "edgeslm", "fleet", "keys", "renew", "targets"]
    env = {k: v for k, v in os.environ.items() if k != "EDGESLM_FLEET_PASSPHRASE"}
    done = subprocess.run(
        [*argv, "--repository", str(repository.folder)],
        env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 65
    assert "Use --passphrase-file or EDGESLM_FLEET_PASSPHRASE" in done.stderr
    assert "[key.passphrase]" in done.stderr


def test_no_passphrase_is_shown(repository: Repository, tmp_path: Path) -> None:
    secret = "the wrong horse staple"  # noqa: S105
    (tmp_path / "pass").write_text(secret)
    argv = [sys.executable, "-m", "edgeslm", "fleet", "keys", "--repository"]
    for words, env in (
        (["--passphrase-file", str(tmp_path / "pass")], {}),
        ([], {"EDGESLM_FLEET_PASSPHRASE": secret}),
    ):
        done = subprocess.run(
            [*argv, str(repository.folder), "renew", "targets", *words],
            env={**os.environ, **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 65
        assert "the passphrase is wrong" in done.stderr
        assert secret not in done.stdout + done.stderr
    given = Passphrases(variable=secret)
    assert secret not in repr(given) + str(vars(type(given)))
    with pytest.raises(PassphraseError) as caught:
        opened(repository, given).refresh(force=True)
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in f"{error!r}{error.args}"
        error = error.__cause__


# Files.


def test_a_key_elsewhere_is_found_by_fleet_toml(repository: Repository, tmp_path: Path) -> None:
    for name in ("root-1", "targets"):
        shutil.move(repository.folder / "keys" / f"{name}.pem", tmp_path / f"{name}.pem")
    with pytest.raises(KeyMissingError, match=r"targets\.pem: No such file.*\[keys\]"):
        opened(repository).renew(["targets"])
    with (repository.folder / CONFIG).open("a") as file:
        file.write(f'targets = "{tmp_path}/targets.pem"\n')
    opened(repository).renew(["targets"])
    # Two of three are enough, whichever they are.
    opened(repository).renew(["root"])
    (repository.folder / "keys" / "root-2.pem").unlink()
    with pytest.raises(KeyMissingError, match="root must be signed by 2 of its keys"):
        opened(repository).renew(["root"])


def plain_pem() -> bytes:
    private = Ed25519PrivateKey.generate()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("raw", "error", "says"),
    [
        (plain_pem(), KeyInvalidError, "not a private key encrypted"),
        (b"", KeyInvalidError, "not a private key encrypted"),
        (b"\xff" * 100, KeyInvalidError, "not a private key encrypted"),
        (
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n",
            PassphraseError,
            "or the file is damaged",
        ),
        (None, KeyInvalidError, "another key than"),
    ],
)
def test_a_file_that_is_not_the_key_is_refused(
    raw: bytes | None, error: type[EdgeSLMError], says: str, repository: Repository
) -> None:
    keys = repository.folder / "keys"
    (keys / "timestamp.pem").write_bytes((keys / "time.pem").read_bytes() if raw is None else raw)
    with pytest.raises(error, match=says) as caught:
        opened(repository).refresh(force=True)
    assert "timestamp.pem" in str(caught.value)


# Replacing.


def signs(repository: Repository) -> dict[str, tuple[str, ...]]:
    return {use.name: use.roles for use in list_keys(repository) if use.roles}


def test_a_rotation_keeps_the_role_and_changes_the_key(repository: Repository) -> None:
    assert signs(repository) == {
        **{f"root-{n}": ("root",) for n in (1, 2, 3)},
        **{role: (role,) for role in ("director", "snapshot", "targets", "time", "timestamp")},
    }
    assert replace_key(repository, "root-2") == "root-4"
    assert replace_key(repository, "time") == "time-2"
    assert signs(repository) == {
        **{f"root-{n}": ("root",) for n in (1, 3, 4)},
        **{role: (role,) for role in ("director", "snapshot", "targets", "timestamp")},
        "time-2": ("time",),
    }


@pytest.mark.parametrize("name", ["time", "ghost", "../root-1"])
def test_a_key_that_is_not_in_use_cannot_be_replaced(name: str, repository: Repository) -> None:
    if name == "time":
        replace_key(repository, "time")
    with pytest.raises(KeyUnusedError, match="There are director, root-1"):
        replace_key(repository, name)


def test_a_lost_key_is_revoked_not_rotated(repository: Repository) -> None:
    """And where what must sign is not there, no key is made."""
    (repository.folder / "keys" / "targets.pem").unlink()
    was = set((repository.folder / "keys").iterdir())
    with pytest.raises(KeyMissingError):
        replace_key(opened(repository), "targets")
    assert set((repository.folder / "keys").iterdir()) == was
    assert replace_key(opened(repository), "targets", how="revoke") == "targets-2"
    for name in ("root-1", "root-2"):
        (repository.folder / "keys" / f"{name}.pem").unlink()
    with pytest.raises(KeyMissingError, match="root must be signed by 2"):
        replace_key(opened(repository), "root-1", how="revoke")


def test_a_revoked_root_key_does_not_sign_its_own_end(repository: Repository) -> None:
    revoked = repository.keys.records()["root-1"].keyid
    replace_key(repository, "root-1", how="revoke")
    assert revoked not in repository.store.published().root.signatures
    assert len(repository.store.published().root.signatures) == 2


# Hardware.


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PKCS#11 token of SoftHSM with a key, P-256; the URI of the key with id 1."""
    pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 (extra `fleet`) is not installed")
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    del pkcs11
    # In a process of its own: a PKCS#11 library reads its configuration once for each process.
    make = (
        "import pkcs11, pkcs11.util.ec as ec, sys\n"
        "token = pkcs11.lib(sys.argv[1]).get_token(token_label='fleet')\n"
        "with token.open(rw=True, user_pin=sys.argv[2]) as session:\n"
        "    curve = ec.encode_named_curve_parameters('secp256r1')\n"
        "    parameters = session.create_domain_parameters(\n"
        "        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True)\n"
        "    for number in (1, 2):\n"
        "        parameters.generate_keypair(id=bytes([number]), store=True, label='key')\n"
    )
    init = ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--pin", PIN]
    for argv in ([*init, "--so-pin", PIN], [sys.executable, "-c", make, module, PIN]):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (tmp_path / "pin").write_text(f"{PIN}\n")
    return f"pkcs11:token=fleet;id=%01?module-path={module}&pin-source=file:{tmp_path}/pin"


SIGN = """
import sys
from pathlib import Path
from edgeslm.adapters.tuf import Trust
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.models import Stated, add
from tests.fleet import kit
from tests.fleet.kit import replace_key
folder, uri = Path(sys.argv[1]), sys.argv[2]
fleet = kit.make(folder / "fleet", hardware={"targets": uri})
add(fleet, [kit.bundle(folder / "b")], Stated())
flashed = fleet.export_root()
def found():
    trust = Trust(folder / "device", flashed, kit.Shelf(kit.published(fleet)))
    trust.walk_roots()
    trust.refresh(fleet.now())
    return [offer.bundle.version for offer in trust.offers("press")]
assert found() == [1]
print(replace_key(fleet, "targets", hardware=uri.replace("id=%01", "id=%02")))
print(replace_key(fleet, "root-1", hardware=uri))
assert found() == [1]
for wrong in ("id=%09", "token=other;id=%01", "id=x"):
    try:
        replace_key(fleet, "root-2", hardware=uri.replace("id=%01", wrong))
    except EdgeSLMError as err:
        print(err.code)
(folder / "pin").write_text("000000")
fleet = type(fleet)(fleet.folder, kit.passphrases(), kit.Clock())
try:
    fleet.renew(["targets"])
except EdgeSLMError as err:
    print(err.code)
    assert "000000" not in str(err)
"""


def test_keys_in_hardware_sign_and_are_replaced(token: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", SIGN, str(tmp_path), token]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["targets-2", "root-4", *["key.hardware"] * 4]
    records = list((tmp_path / "fleet" / "keys").glob("*.pem"))
    assert not [path for path in records if path.stem in {"targets", "targets-2", "root-4"}]


@pytest.mark.parametrize("uri", ["pkcs11:", "pkcs11:token=a", "pkcs11:id=%01", "pkcs11:=;;?x"])
def test_an_address_of_hardware_that_is_none_is_refused(uri: str, repository: Repository) -> None:
    with pytest.raises(HardwareKeyError, match="token and id are needed"):
        replace_key(repository, "targets", hardware=uri)


def test_a_device_follows_what_was_replaced_while_it_was_off(
    repository: Repository, tmp_path: Path
) -> None:
    flashed = repository.export_root()
    add(repository, [kit.bundle(tmp_path / "b")], Stated())
    kit.assign(repository, "d", director.Wish(models={"press": 1}))
    for name in ("root-1", "root-2", "root-3", "timestamp", "snapshot", "targets", "director"):
        replace_key(repository, name)
    trust = Trust(tmp_path / "d", flashed, kit.Shelf(kit.published(repository)))
    trust.walk_roots()
    trust.refresh(repository.now())
    raw = kit.envelope(repository, "d")
    assert raw is not None
    assert trust.assignment(raw, device="d", now=repository.now()).models["press"].version == 1
