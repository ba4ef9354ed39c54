"""`edgeslm image`: a whole set-up or nothing, and the same twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from edgeslm.adapters.slot_store import FileSlotStore
from edgeslm.cli.imaging import root as imaging
from edgeslm.cli.imaging import units
from edgeslm.cli.main import main
from edgeslm.contract.profile import DeviceProfile
from edgeslm.core.slots import candidates, slots_of
from edgeslm.errors import EXIT_CONFIG, EXIT_REJECTED, EXIT_UNAVAILABLE
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.profiles import load_profile, profile_names
from edgeslm.runtime.slot import whole_slot
from tests import kills
from tests.conftest import ROOT
from tests.fleet import kit
from tests.runtime import tiny

PROFILE: Final = "raspberry-pi-4"
SETTINGS: Final = f"""\
device_id = "press-7"
profile = "{PROFILE}"
[models.tiny]
[update]
user = "edgeslm-updater"
"""
PROVISIONED: Final = f"""\
{SETTINGS.partition(chr(10))[2]}
[uplink.tls]
[provision]
group = "edgeslm"
token_file = "/etc/edgeslm/token"
[provision.broker]
username = "edgeslm-provision"
password_file = "/etc/edgeslm/word"
"""
PKCS11: Final = """\
[provision.pkcs11]
module = "/usr/lib/softhsm/libsofthsm2.so"
token = "edgeslm"
pin_file = "/etc/edgeslm/pin"
"""
PASSWD: Final = "root:x:0:0:root:/root:/bin/sh\n"  # noqa: S105 -- of no one

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The root.json of a fleet."""
    return kit.make(tmp_path_factory.mktemp("trust") / "fleet").store.read("1.root.json")


@pytest.fixture
def given(tmp_path: Path, trust: bytes) -> dict[str, Path]:
    """What a team has: a root file system with edgeslm, settings, a bundle, a fleet's root."""
    found = {name: tmp_path / name for name in ("root", "config", "bundle", "trust")}
    device(found["root"])
    found["config"].write_text(SETTINGS)
    tiny.write_bundle(found["bundle"])
    found["trust"].write_bytes(trust)
    return found


def device(root: Path) -> Path:
    for folder in ("etc", "usr/bin", "var/lib"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/edgeslm").write_text("#!/bin/sh\n")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/shadow").write_text("root:*:::::::\n")
    (root / "etc/shadow").chmod(0o640)
    (root / "link").symlink_to("/var/lib/edgeslm-updater")
    for path in (*root.rglob("*"), root):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return root


def image(given: dict[str, Path], *more: str, profile: str = PROFILE) -> int:
    words = ["--profile", profile, "--config", given["config"], "--bundle", given["bundle"]]
    words += ["--root-of-trust", given["trust"], *more]
    return main(["image", *map(str, (given["root"], *words))])


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """All of a root: bytes, links, modes, owners and times."""
    found = {}
    for path in sorted((root, *root.rglob("*"))):
        status = path.lstat()
        what: object = None
        if path.is_symlink():
            what = os.readlink(path)  # noqa: PTH115 -- as it is written
        elif path.is_file():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        owner = (status.st_uid, status.st_gid)
        found[str(path.relative_to(root))] = (what, status.st_mode, owner, status.st_mtime_ns)
    return found


@needs_root
class TestWhole:
    def test_the_updater_takes_the_bundle_for_one_that_it_has_committed(
        self, given: dict[str, Path]
    ) -> None:
        assert image(given) == 0
        store = FileSlotStore(given["root"] / "var/lib/edgeslm-updater", whole_slot)
        try:
            slots = slots_of(store.read(), "tiny")
            assert store.damaged is None
        finally:
            store.close()
        assert candidates(slots) == ("a",)
        held = open_bundle(store.folder("tiny", "a"), expected=slots.a.bundle if slots.a else None)
        assert held.hash == open_bundle(given["bundle"]).hash

    def test_each_user_owns_what_it_writes_and_nobody_else_the_rest(
        self, given: dict[str, Path]
    ) -> None:
        assert image(given) == 0
        found = seen(given["root"])
        owners = {path: owner for path, (_, _, owner, _) in found.items()}
        modes = {path: stat.S_IMODE(mode) for path, (_, mode, _, _) in found.items()}
        assert owners["var/lib/edgeslm"] == (871, 871)
        assert modes["var/lib/edgeslm"] == 0o700
        slots = [path for path in found if path.startswith("var/lib/edgeslm-updater")]
        assert len(slots) > 5
        assert {owners[path] for path in slots} == {(872, 871)}
        assert {modes[path] for path in slots} == {0o750, 0o640}
        assert (owners["etc/edgeslm/agent.toml"], modes["etc/edgeslm/agent.toml"]) == (
            (0, 871),
            0o640,
        )
        others = set(owners) - {p for p in owners if p.startswith("var/lib/edgeslm")}
        assert {owners[path][0] for path in others} == {0}
        passwd = (given["root"] / "etc/passwd").read_text()
        assert "edgeslm:x:871:871:" in passwd
        assert "edgeslm-updater:x:872:871:" in passwd
        assert "edgeslm-provision:x:873:871:" in passwd
        assert modes["etc/shadow"] == 0o640

    def test_users_that_are_there_keep_their_ids(self, given: dict[str, Path]) -> None:
        names = {"edgeslm": 998, "edgeslm-updater": 996, "edgeslm-provision": 995}
        more = "".join(f"{name}:x:{uid}:997::/:/bin/false\n" for name, uid in names.items())
        (given["root"] / "etc/passwd").write_text(PASSWD + more)
        (given["root"] / "etc/group").write_text("root:x:0:\nedgeslm:x:997:\n")
        assert image(given) == 0
        assert (given["root"] / "etc/passwd").read_text() == PASSWD + more
        slots = (given["root"] / "var/lib/edgeslm-updater/slots.json").stat()
        assert (slots.st_uid, slots.st_gid) == (996, 997)
        sysusers = (given["root"] / "usr/lib/sysusers.d/edgeslm.conf").read_text()
        assert "g edgeslm 997 -" in sysusers
        assert "u edgeslm-updater 996:edgeslm " in sysusers

    def test_units_are_enabled_and_limited(self, given: dict[str, Path]) -> None:
        assert image(given) == 0
        for unit in ("edgeslm.service", "edgeslm-updater.service"):
            link = given["root"] / "etc/systemd/system/multi-user.target.wants" / unit
            assert link.is_symlink()
            assert imaging.resolve(given["root"], str(link.readlink())).read_text() == (
                units.shipped(unit)
            )
        drop_in = given["root"] / "etc/systemd/system/edgeslm.service.d/50-profile.conf"
        assert drop_in.read_text() == units.profile_drop_in(load_profile(PROFILE))

    @pytest.mark.parametrize("hardware", [False, True])
    def test_a_device_that_is_to_be_provisioned_has_what_does_it(
        self, given: dict[str, Path], capsys: pytest.CaptureFixture[str], *, hardware: bool
    ) -> None:
        given["config"].write_text(PROVISIONED + (PKCS11 if hardware else ""))
        assert image(given) == 0
        wanted = given["root"] / "etc/systemd/system"
        links = {str(p.relative_to(wanted)) for p in wanted.rglob("*") if p.is_symlink()}
        after = "edgeslm-provision.service.wants"
        expected = {"multi-user.target.wants/edgeslm-provision.service",
                    "timers.target.wants/edgeslm-provision.timer",
                    *(f"{where}/{unit}" for where in ("multi-user.target.wants", after)
                      for unit in ("edgeslm.service", "edgeslm-updater.service"))}  # fmt: skip
        assert links == expected | ({f"{after}/edgeslm-stunnel.service"} if hardware else set())
        assert all((given["root"] / str((wanted / p).readlink())[1:]).is_file() for p in links)
        state = given["root"] / "var/lib/edgeslm-provision"
        status = state.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (873, 871, 0o750)
        told = capsys.readouterr().out
        assert "missing   provision.token_file: /etc/edgeslm/token" in told
        assert "missing   provision.broker.password_file: /etc/edgeslm/word" in told
        assert image(given) == 0, "over itself"

    def test_one_that_is_not_has_none_of_it(self, given: dict[str, Path]) -> None:
        assert image(given) == 0
        units_laid = given["root"] / "usr/lib/systemd/system"
        assert {path.name for path in units_laid.iterdir()} == {
            "edgeslm.service",
            "edgeslm-updater.service",
        }
        assert not (given["root"] / "var/lib/edgeslm-provision").exists()

    def test_the_same_twice_is_the_same(self, given: dict[str, Path], tmp_path: Path) -> None:
        assert image(given) == 0
        once = seen(given["root"])
        assert image(given) == 0, "over itself"
        assert seen(given["root"]) == once
        given["root"] = device(tmp_path / "another")
        assert image(given) == 0
        assert seen(given["root"]) == once

    def test_times_are_as_the_build_says(
        self, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
        assert image(given) == 0
        laid = given["root"] / "var/lib/edgeslm-updater/bundles/tiny/a"
        assert {path.stat().st_mtime for path in (laid, *laid.rglob("*"))} == {1_600_000_000}

    def test_the_machine_that_builds_has_no_say(
        self, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGESLM_PROFILE", "generic-x86_64")
        monkeypatch.setenv("EDGESLM_DEVICE_ID", "no id")
        assert image(given) == 0
        assert (given["root"] / "etc/edgeslm/agent.toml").read_text() == SETTINGS

    def test_links_are_followed_as_the_device_would(
        self, given: dict[str, Path], tmp_path: Path
    ) -> None:
        (given["root"] / "var/lib").rmdir()
        (given["root"] / "var/lib").symlink_to("/data/../data/lib")
        assert image(given) == 0
        assert (given["root"] / "data/lib/edgeslm-updater/slots.json").is_file()
        assert not Path("/data/lib/edgeslm-updater").exists()
        assert not (tmp_path / "data").exists()

    def test_what_a_package_owns_stays_the_packages(self, given: dict[str, Path]) -> None:
        unit = given["root"] / "usr/lib/systemd/system/edgeslm.service"
        unit.parent.mkdir(parents=True)
        unit.write_text("[Unit]\n# of the package\n")
        lists = given["root"] / "var/lib/dpkg/info"
        lists.mkdir(parents=True)
        (lists / "edgeslm.list").write_text("/.\n/lib/systemd/system/edgeslm.service\n")
        assert image(given) == 0
        assert unit.read_text() == "[Unit]\n# of the package\n"

    def test_a_bundle_that_the_settings_name_a_folder_for_lies_there_too(
        self, given: dict[str, Path]
    ) -> None:
        said = '[models.tiny]\nbundle = "/usr/share/edgeslm/tiny"'
        given["config"].write_text(SETTINGS.replace("[models.tiny]", said))
        assert image(given) == 0
        open_bundle(given["root"] / "usr/share/edgeslm/tiny")
        assert (given["root"] / "var/lib/edgeslm-updater/bundles/tiny/a").is_dir()

    def test_an_overlay_has_no_users_and_gets_their_ids(self, given: dict[str, Path]) -> None:
        given["root"] = given["root"].parent / "overlay"
        given["root"].mkdir()
        assert image(given, "--overlay") == 0
        assert not (given["root"] / "etc/passwd").exists()
        sysusers = (given["root"] / "usr/lib/sysusers.d/edgeslm.conf").read_text()
        assert "u edgeslm 871:edgeslm " in sysusers
        assert (given["root"] / "var/lib/edgeslm-updater").stat().st_uid == 872

    def test_the_profile_alone_is_one_drop_in(self, given: dict[str, Path]) -> None:
        before = set(seen(given["root"]))
        assert main(["image", str(given["root"]), "--profile", "rb3-gen2"]) == 0
        laid = {path for path in set(seen(given["root"])) - before if "." in Path(path).name}
        assert "etc/systemd/system/edgeslm.service.d/50-profile.conf" in laid
        assert not [path for path in laid if not path.startswith("etc/systemd")]

    def test_what_the_settings_name_and_nobody_has_brought_is_told(
        self, given: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        broker = '[uplink]\nusername = "a"\npassword_file = "/etc/edgeslm/password"\n'
        given["config"].write_text(SETTINGS + broker)
        assert image(given) == 0
        told = capsys.readouterr().out
        assert "missing   uplink.password_file: /etc/edgeslm/password" in told


Spoil = Callable[[dict[str, Path]], object]


def no_id(given: dict[str, Path]) -> None:
    given["config"].write_text(SETTINGS.partition("\n")[2])


def settled(line: str) -> Spoil:
    return lambda given: given["config"].write_text(f"{line}\n{SETTINGS}")


def swapped(old: str, new: str) -> Spoil:
    return lambda given: given["config"].write_text(SETTINGS.replace(old, new))


WRONG: Final[dict[str, tuple[Spoil, int, str]]] = {
    "no-root": (lambda g: (g["root"] / "etc/passwd").unlink(), EXIT_REJECTED, "no /etc/passwd"),
    "no-edgeslm": (
        lambda g: (g["root"] / "usr/bin/edgeslm").unlink(),
        EXIT_REJECTED,
        "no /usr/bin/edgeslm",
    ),
    "no-bundle": (lambda g: (g["bundle"] / "manifest.json").unlink(), EXIT_REJECTED, "manifest"),
    "tampered": (
        lambda g: (g["bundle"] / "golden.jsonl").write_bytes(b"x"),
        EXIT_REJECTED,
        "golden.jsonl",
    ),
    "no-trust": (lambda g: g["trust"].write_text("{}"), EXIT_REJECTED, "no root of trust"),
    "no-such-trust": (lambda g: g["trust"].unlink(), EXIT_REJECTED, "No such file"),
    "run": (
        lambda g: (g["root"] / "var/lib/edgeslm/verdicts").mkdir(parents=True),
        EXIT_REJECTED,
        "a device has run from it",
    ),
    "run-updater": (
        lambda g: (g["root"] / "var/lib/edgeslm-updater/trust").mkdir(parents=True),
        EXIT_REJECTED,
        "a device has run from it",
    ),
    "no-such-model": (swapped("[models.tiny]", "[models.other]"), EXIT_REJECTED, "models.tiny"),
    "id-taken": (
        lambda g: (g["root"] / "etc/passwd").write_text(f"{PASSWD}other:x:872:5::/:/bin/sh\n"),
        EXIT_REJECTED,
        "other has id 872",
    ),
    "no-id": (no_id, EXIT_CONFIG, "device_id"),
    "not-toml": (lambda g: g["config"].write_text("= 1"), EXIT_CONFIG, "not TOML"),
    "unknown-key": (settled("more = 1"), EXIT_CONFIG, "more: unknown key"),
    "profile": (swapped(PROFILE, "raspberry-pi-5"), EXIT_CONFIG, "image is for raspberry-pi-4"),
    "state": (settled('state_dir = "/data"'), EXIT_CONFIG, "state_dir"),
    "slots": (swapped("[update]", '[update]\ndir = "/data"'), EXIT_CONFIG, "update.dir"),
    "user": (swapped('user = "edgeslm-updater"', ""), EXIT_CONFIG, "update.user"),
    "key-group": (
        lambda g: g["config"].write_text(PROVISIONED.replace('group = "edgeslm"\n', "")),
        EXIT_CONFIG,
        "provision.group",
    ),
    "key-dir": (
        lambda g: g["config"].write_text(PROVISIONED.replace("group", 'dir = "/data"\ngroup')),
        EXIT_CONFIG,
        "provision.dir",
    ),
    **{
        f"bundle-in-{folder}": (
            swapped("[models.tiny]", f'[models.tiny]\nbundle = "{folder}/tiny"'),
            EXIT_REJECTED,
            "give a folder like",
        )
        for folder in (
            *("/var/lib/edgeslm", "/var/lib/edgeslm-updater", "/var/lib/edgeslm-provision"),
            *("/run/edgeslm", "/tmp", "/usr/../run", "/link", "here"),  # noqa: S108
        )
    },
    **{
        f"trust-at-{path}": (
            swapped("[update]", f'[update]\nroot = "{path}"'),
            EXIT_CONFIG,
            "below /etc/edgeslm",
        )
        for path in ("/etc/passwd", "root.json", "/etc/edgeslm/../passwd", "/etc/edgeslm")
    },
    "trust-over-settings": (
        swapped("[update]", '[update]\nroot = "/etc/edgeslm/agent.toml"'),
        EXIT_REJECTED,
        "two things",
    ),
    "bundle-in-another": (
        swapped(
            "[models.tiny]",
            '[models.tiny]\nbundle = "/etc/edgeslm"\n',
        ),
        EXIT_REJECTED,
        "would be laid into",
    ),
    "no-update": (
        swapped('[update]\nuser = "edgeslm-updater"', '[tags]\nhall = "3"'),
        EXIT_CONFIG,
        "models.tiny.bundle",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_before_anything_is_written(
    given: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, status, said = WRONG[name]
    spoil(given)
    before = seen(given["root"])
    assert image(given) == status
    assert said in capsys.readouterr().err
    assert seen(given["root"]) == before


@pytest.mark.parametrize(
    ("requires", "why"),
    [({"provider": "qnn"}, "for qnn"), ({"requires": {"arch": "x86_64"}}, "needs x86_64")],
)
def test_a_bundle_for_another_device_is_refused(
    given: dict[str, Path],
    requires: dict[str, Any],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given["bundle"] = given["bundle"].parent / "foreign"
    tiny.write_bundle(given["bundle"], artifact=requires)
    before = seen(given["root"])
    assert image(given) == EXIT_REJECTED
    assert why in capsys.readouterr().err
    assert seen(given["root"]) == before


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the disk refuse one of the moves and links to come."""
    left = [step]

    def wrapped(real: Callable[..., None]) -> Callable[..., None]:
        def move(*words: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device", str(words[1]))
            real(*words, **options)

        return move

    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))


@needs_root
def test_where_a_move_fails_all_is_as_it_was(
    given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its moves in turn; a second run then lays all of it."""
    before = seen(given["root"])
    for failing in range(100):
        fail_at(monkeypatch, failing)
        status = image(given)
        monkeypatch.undo()
        if status == 0:
            break
        assert status == EXIT_UNAVAILABLE
        assert seen(given["root"]) == before
    assert failing > 10


@needs_root
def test_a_run_that_was_killed_is_undone_before_the_next_is_planned(
    given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its moves was the last one: all users are there, with all that they need."""
    (given["root"] / "etc/gshadow").write_text("root:*::\n")
    device(tmp_path / "clean")
    (tmp_path / "clean/etc/gshadow").write_text("root:*::\n")
    for root in (given["root"], tmp_path / "clean"):
        os.utime(root / "etc/gshadow", (1_700_000_000, 1_700_000_000))
        os.utime(root / "etc", (1_700_000_000, 1_700_000_000))
    assert image(given | {"root": tmp_path / "clean"}) == 0
    whole = contents(tmp_path / "clean")
    for failing in range(100):
        root = tmp_path / f"killed{failing}"
        subprocess.run(["cp", "-a", given["root"], root], check=True)
        fail_at(monkeypatch, failing)
        monkeypatch.setattr(imaging, "restore", lambda _: None)
        status = image(given | {"root": root})
        monkeypatch.undo()
        assert image(given | {"root": root}) == 0
        assert contents(root) == whole
        if status == 0:
            break
    assert failing > 10


LAY: Final = """\
import sys
from pathlib import Path
from edgeslm.cli.imaging.root import File, Link, Tree, lay, restore
root = Path(sys.argv[1])
lay(root, [
    File("etc/shadow", b"new", 0o640, follow=True),
    File("etc/edgeslm/agent.toml", b"new"),
    Link("etc/wants", "/usr/unit"),
    Tree("var/lib/state", {"table": b"new", "b/file": b"new"}, 0o750, 0o640),
    Tree("var/lib/more", {}, 0o750, 0o640),
], time=1_600_000_000)
"""
RESTORE: Final = LAY.partition("lay(")[0] + "restore(root)\n"


def contents(root: Path) -> dict[str, tuple[Any, ...]]:
    """As `seen`, but for the time of the root itself: it is put back last."""
    found = seen(root)
    return found | {".": found["."][:-1]}


def old(root: Path) -> Path:
    """A root in which some of it is there already."""
    for folder in ("etc", "var/lib/state/b"):
        (root / folder).mkdir(parents=True)
    for file in ("etc/real-shadow", "var/lib/state/table", "var/lib/state/b/other"):
        (root / file).write_text("old")
    (root / "etc/shadow").symlink_to("/etc/real-shadow")
    (root / "etc/wants").symlink_to("/etc/other")
    for path in (*root.rglob("*"), root):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return root


def copied(root: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", root, to], check=True)
    return to


@needs_root
@pytest.mark.parametrize("most", [6, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_at_any_step_it_is_as_it_was_or_whole(tmp_path: Path, most: int) -> None:
    """And so it is when the undoing of that is killed as well; files are there all the time."""
    kills.need_strace()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(script: str, root: Path) -> list[str]:
        return [sys.executable, "-c", script, str(root)]

    clean, at = old(tmp_path / "old"), tmp_path / "at"
    before = contents(clean)
    done = copied(clean, tmp_path / "done")
    points = kills.points(command(LAY, done), done, env=env)
    whole = contents(done)
    assert whole != before
    worst = tmp_path / "worst"
    for point in kills.some(points, most):
        assert kills.kill(command(LAY, copied(clean, at)), point, env=env) == -9
        assert (at / "etc/real-shadow").read_text() in {"old", "new"}, point
        if (at / ".edgeslm-image/journal.json").exists():
            copied(at, worst)
        imaging.restore(at)
        assert contents(at) in (before, whole), point
    undoing = kills.points(command(RESTORE, copied(worst, at)), at, env=env)
    for point in kills.some(undoing, most):
        assert kills.kill(command(RESTORE, copied(worst, at)), point, env=env) == -9
        assert (at / "etc/real-shadow").read_text() in {"old", "new"}, point
        imaging.restore(at)
        assert contents(at) == before, point
    assert len(points) > 20
    assert len(undoing) > 10


@needs_root
def test_what_a_killed_run_has_left_is_in_nobodys_way(given: dict[str, Path]) -> None:
    (given["root"] / ".edgeslm-image" / "0").mkdir(parents=True)
    assert image(given) == 0
    assert not (given["root"] / ".edgeslm-image").exists()


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "{",
        '{"there": [["../outside", false]], "made": [], "times": {}}',
        '{"there": [["etc/../../outside", false]], "made": [], "times": {}}',
        '{"there": [["/", false]], "made": [], "times": {}}',
        '{"there": [], "made": [], "times": {".": 1e30}}',
    ],
)
def test_a_root_says_of_nothing_outside_it_that_it_is_to_be_undone(
    given: dict[str, Path], tmp_path: Path, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside").touch()
    (given["root"] / ".edgeslm-image").mkdir()
    (given["root"] / ".edgeslm-image/journal.json").write_text(said)
    assert image(given) == EXIT_REJECTED
    assert "not written by this command" in capsys.readouterr().err
    assert (tmp_path / "outside").exists()
    assert (given["root"] / "etc/passwd").exists()


@needs_root
def test_a_file_of_etc_that_is_a_link_stays_one(given: dict[str, Path]) -> None:
    root = given["root"]
    (root / "data").mkdir()
    (root / "etc/edgeslm").mkdir()
    for name in ("passwd", "shadow", "edgeslm/agent.toml", "edgeslm/root.json"):
        real = root / "data" / Path(name).name
        if (root / "etc" / name).exists():
            (root / "etc" / name).rename(real)
        (root / "etc" / name).symlink_to(f"/data/{real.name}")
    (root / "data/state").mkdir()
    (root / "var/lib/edgeslm").symlink_to("/data/state")
    assert image(given) == 0
    assert all((root / "etc" / n).is_symlink() for n in ("passwd", "shadow", "edgeslm/root.json"))
    assert "edgeslm-updater:" in (root / "data/shadow").read_text()
    assert (root / "data/agent.toml").read_text() == SETTINGS
    assert (root / "data/root.json").read_bytes() == given["trust"].read_bytes()
    assert (root / "var/lib/edgeslm").is_symlink()
    assert (root / "data/state").stat().st_uid == 871


def test_the_system_that_runs_here_is_not_laid_over(
    given: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    given["root"] = Path("/")
    assert image(given) == EXIT_REJECTED
    assert "install the package" in capsys.readouterr().err


@pytest.mark.parametrize("name", profile_names())
def test_a_profiles_drop_in_allows_the_devices_of_its_providers(name: str) -> None:
    profile: DeviceProfile = load_profile(name)
    text = units.profile_drop_in(profile)
    assert ("char-nvidia" in text) == ("cuda" in profile.providers)
    assert ("fastrpc" in text) == ("qnn" in profile.providers)
    npu = profile.openvino is not None and profile.openvino.device == "NPU"
    assert ("char-accel" in text) == npu
    assert text.count("[Service]") == 1


def test_limits_of_a_profile_are_those_of_its_unit() -> None:
    profile = load_profile("generic-x86_64").model_copy(
        update={
            "limits": DeviceProfile.model_fields["limits"].default.model_copy(
                update={"memory_mb": 400, "tasks": 64, "cpu_percent": 150}
            )
        }
    )
    lines = units.profile_drop_in(profile).splitlines()
    assert lines[2:] == ["[Service]", "MemoryMax=400M", "TasksMax=64", "CPUQuota=150%"]


def test_without_the_right_to_give_files_away_it_says_so_and_nothing_is_laid(
    given: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: int, **__: bool) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "chown", refuse)
    before = seen(given["root"])
    assert image(given) == EXIT_UNAVAILABLE
    assert "fakeroot" in capsys.readouterr().err
    assert seen(given["root"]) == before
