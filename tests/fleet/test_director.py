"""An assignment says all that a device runs, under a number that only grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from edgeslm.adapters.tuf import Trust
from edgeslm.contract.fleet import Assignment, DeviceConfig
from edgeslm.contract.routes import Route
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.database import assignments, schema
from edgeslm.fleet.database.schema import device_models, devices
from edgeslm.fleet.director import Wish, is_stranger, read_config
from edgeslm.fleet.errors import (
    AssignmentRefusedError,
    FleetConfigError,
    FleetDamagedError,
    UnknownModelError,
)
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from tests.fleet import kit
from tests.fleet.kit import assign, replace_key


def routed(model: str) -> DeviceConfig:
    """A configuration whose only route leads to this model."""
    return DeviceConfig(routes={"new": Route(topic="plant/#", models=(model,))})


CONFIG = """\
state_interval_s = 5

[routes.press]
topic = "plant/press/#"
models = ["press"]
text = "/text"

[models.press]
workers = 2
cache_entries = 100

[outbox]
max_mb = 64
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = kit.make(tmp_path / "fleet")
    for version in (1, 2):
        add(made, [kit.bundle(tmp_path / f"p{version}", version=version)], Stated())
    add(made, [kit.bundle(tmp_path / "v", name="valve")], Stated())
    return made


def runs(assignment: Assignment) -> dict[str, int]:
    return {name: each.version for name, each in assignment.models.items()}


def seen(repository: Repository, device: str, folder: Path) -> Assignment:
    """The device's newest assignment, as that device finds it."""
    shelf = kit.Shelf(kit.published(repository))
    trust = Trust(folder, repository.store.read("1.root.json"), shelf)
    trust.walk_roots()
    trust.refresh(repository.now())
    raw = kit.envelope(repository, device)
    assert raw is not None
    found = trust.assignment(raw, device=device, now=repository.now())
    trust.accept(found)
    return found


def test_what_is_not_named_stays_assigned(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(CONFIG)
    config = read_config(file)
    steps: list[tuple[Wish, dict[str, int], DeviceConfig | None]] = [
        (Wish(models={"press": None}), {"press": 2}, None),
        (Wish(models={"valve": 1}), {"press": 2, "valve": 1}, None),
        (Wish(config=config, configures=True), {"press": 2, "valve": 1}, config),
        (Wish(models={"press": 1}), {"press": 1, "valve": 1}, config),  # back, and meant so
        (Wish(without=["valve"]), {"press": 1}, config),
        (Wish(configures=True), {"press": 1}, None),
    ]
    for number, (wish, models, configured) in enumerate(steps, start=1):
        new = assign(repository, "d1", wish)
        assert (new.seq, runs(new), new.config) == (number, models, configured)
        assert seen(repository, "d1", tmp_path / "device") == new
    assert assign(repository, "d2", Wish()).seq == 1
    assert set(kit.assigned(repository)) == {"d1", "d2"}


def test_it_expires_as_the_owner_says(repository: Repository) -> None:
    new = assign(repository, "d1", Wish())
    assert (new.issued, new.expires) == (kit.START, kit.START + 90 * kit.DAY_S)
    assert assign(repository, "d1", Wish(days=2)).expires == kit.START + 2 * kit.DAY_S


@pytest.mark.parametrize(
    ("device", "wish", "error", "says"),
    [
        ("d1", Wish(models={"ghost": None}), UnknownModelError, "ghost: no such model; .*press"),
        ("d1", Wish(models={"press": 3}), UnknownModelError, "press 3: the repository has 1, 2"),
        ("_fleet", Wish(), AssignmentRefusedError, "not a device's id"),
        ("../d1", Wish(), AssignmentRefusedError, "not a device's id"),
        ("", Wish(), AssignmentRefusedError, "not a device's id"),
        ("d1", Wish(seq=1), AssignmentRefusedError, "the next number is 2"),
        ("d1", Wish(without=["ghost"]), AssignmentRefusedError, "not assigned.*assigned: press"),
        (
            "d1",
            Wish(models={"press": 1}, without=["press"]),
            AssignmentRefusedError,
            "one of them",
        ),
        (
            "d1",
            Wish(config=routed("ghost"), configures=True),
            UnknownModelError,
            "ghost: the configuration names it.*there are press, valve",
        ),
    ],
)
def test_what_cannot_be_assigned_is_refused(
    device: str, wish: Wish, error: type[EdgeSLMError], says: str, repository: Repository
) -> None:
    assign(repository, "d1", Wish(models={"press": 1}))
    was = kit.envelope(repository, "d1")
    with pytest.raises(error, match=says):
        assign(repository, device, wish)
    assert kit.envelope(repository, "d1") == was
    assert set(kit.assigned(repository)) == {"d1"}


def test_a_model_that_the_device_alone_has_may_be_routed_to(repository: Repository) -> None:
    with kit.database(repository) as engine, engine.begin() as conn:
        conn.execute(insert(devices).values(id="d1", registered_at=1.0, heard_at=1.0))
        conn.execute(insert(device_models).values(device="d1", model="factory"))
    config = routed("factory")
    assert assign(repository, "d1", Wish(config=config, configures=True)).config == config
    with pytest.raises(UnknownModelError):
        assign(repository, "d2", Wish(config=config, configures=True))


def test_a_device_that_has_not_registered_is_a_stranger_where_others_have(
    repository: Repository,
) -> None:
    with kit.database(repository) as engine:
        assert not is_stranger(engine, "d1"), "none has: they may all be without a network"
        with engine.begin() as conn:
            conn.execute(insert(devices).values(id="d1", registered_at=1.0, heard_at=1.0))
        assert not is_stranger(engine, "d1")
        assert is_stranger(engine, "d2")


def test_it_needs_the_directors_key_alone(repository: Repository) -> None:
    for path in (repository.folder / "keys").glob("*.pem"):
        if path.stem != "director":
            path.unlink()
    again = Repository(repository.folder, kit.passphrases(), kit.Clock())
    assert assign(again, "d1", Wish(models={"press": None})).seq == 1


@pytest.mark.parametrize("left", [b"", b"{}", b"\0" * 100])
def test_a_damaged_assignment_is_named_and_begun_anew(
    left: bytes, repository: Repository, tmp_path: Path
) -> None:
    for _ in range(3):
        assign(repository, "d1", Wish(models={"press": 1}))
    seen(repository, "d1", tmp_path / "device")
    with kit.database(repository) as engine:
        with engine.begin() as conn:
            damaged = update(schema.assignments).values(envelope=left)
            conn.execute(damaged)
        with pytest.raises(FleetDamagedError, match=r"assignment of d1.*assign anew"):
            assign(repository, "d1", Wish())
        with engine.begin() as conn:
            assignments.remove(conn, ["d1"])
    assert assign(repository, "d1", Wish(models={"press": 2}, seq=4)).seq == 4
    assert seen(repository, "d1", tmp_path / "device").seq == 4


@pytest.mark.parametrize("how", ["rotate", "revoke"])
def test_a_new_director_says_all_of_it_again(
    how: Any, repository: Repository, tmp_path: Path
) -> None:
    first = assign(repository, "d1", Wish(models={"press": 1}, days=5))
    assign(repository, "d2", Wish(models={"valve": 1}))
    assert seen(repository, "d1", tmp_path / "device") == first
    replace_key(repository, "director", how=how)
    again = seen(repository, "d1", tmp_path / "device")
    assert again == first.model_copy(update={"seq": 2})
    assert runs(seen(repository, "d2", tmp_path / "other")) == {"valve": 1}
    assert assign(repository, "d1", Wish()).seq == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("state_interval_s = 0", "state_interval_s"),
        ("[uplink]\nhost = 'x'", "uplink: unknown key"),
        ("[models.press]\nworkers = 'two'", "models.press.workers"),
        ("[models.press]\nbundle = '/x'", "models.press.bundle: unknown key"),
        ("[routes.r]\ntopic = 'a/#b'\nmodels = ['press']", "routes.r.*topic"),
        ("not toml", "not TOML"),
        ("\x00", "not TOML"),
        ("a = '" + "x" * 140_000 + "'", "longer than"),
    ],
)
def test_a_configuration_that_is_none_names_the_key(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(FleetConfigError, match=says) as caught:
        read_config(file)
    assert str(file) in str(caught.value)
    with pytest.raises(FleetConfigError, match="Check the path"):
        read_config(tmp_path / "absent.toml")
