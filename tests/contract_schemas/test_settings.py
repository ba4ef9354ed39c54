"""Settings: what is wrong is named, and every key has a variable that wins over the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from edgeslm.contract.brokers import Broker, Tls
from edgeslm.contract.settings import OTHER_VARIABLES, AgentSettings, load_settings
from edgeslm.errors import EXIT_CONFIG, ConfigError

DOCS = Path(__file__).parents[2] / "docs"
MODEL = '[models.m]\nbundle = "/b"\n'
ROUTE = f'device_id = "d"\n{MODEL}[routes.r]\ntopic = "t"\nmodels = ["m"]\n'

# What the file says -> the field that the error names.
BAD = {
    "missing device": ("", "device_id"),
    "unknown key": ('device_id = "d"\ncolour = 1', "colour: unknown key"),
    "unknown nested key": ('device_id = "d"\n[uplink]\nhots = "x"', "uplink.hots: unknown key"),
    "unknown key of a model": (
        'device_id = "d"\n[models.m]\nbundle = "b"\nx = 1',
        "models.m.x: unknown key",
    ),
    "wrong type": ('device_id = "d"\n[uplink]\nport = "many"', "uplink.port"),
    "a table for a value": ('device_id = "d"\n[log_level]\nx = 1', "log_level"),
    "a value for a table": ('device_id = "d"\nuplink = 3', "uplink"),
    "hours without length": (
        'device_id = "d"\n[update]\nhours = ["02:00-02:00"]',
        "update.hours.0: from and to are the same",
    ),
    "out of range": ('device_id = "d"\n[uplink]\nport = 65536', "uplink.port"),
    "not finite": ('device_id = "d"\nstate_interval_s = nan', "state_interval_s"),
    "device with a slash": ('device_id = "a/b"', "device_id: not an id"),
    "device with a wildcard": ('device_id = "+"', "device_id"),
    "root with a wildcard": ('device_id = "d"\ntopic_root = "a/#"', "topic_root: not a topic"),
    "root of the broker": ('device_id = "d"\ntopic_root = "$SYS"', "topic_root"),
    "two passwords": (
        'device_id = "d"\n[uplink]\nusername = "u"\npassword = "p"\npassword_file = "f"',
        "not both",
    ),
    "a password without a name": ('device_id = "d"\n[uplink]\npassword = "p"', "username"),
    "half a client certificate": ('device_id = "d"\n[uplink.tls]\ncert_file = "c"', "key_file"),
    "route to no model": (ROUTE.replace('["m"]', '["n"]'), "no [models.n]"),
    "a model that nobody brings": ('device_id = "d"\n[models.m]', "models.m.bundle: missing"),
    "route to an empty list": (ROUTE.replace('["m"]', "[]"), "routes.r.models"),
    "bad filter": (ROUTE.replace('"t"', '"a/#/b"'), "routes.r"),
    "own topics": (ROUTE.replace('"t"', '"#"'), "own results"),
    "bad pointer": (ROUTE + 'text = "text"', "routes.r.text: not a JSON pointer"),
    "pointer without text": (ROUTE + 'id = "/id"', "name the text's pointer"),
    "bad name of a model": ('device_id = "d"\n[models."M/1"]\nbundle = "b"', "models"),
    "not TOML": ("device_id = ", "not TOML"),
    "a key twice": ('device_id = "a"\ndevice_id = "b"', "not TOML"),
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AgentSettings.model_fields:
        monkeypatch.delenv(f"EDGESLM_{name.upper()}", raising=False)


def load(tmp_path: Path, text: str | bytes) -> AgentSettings:
    file = tmp_path / "agent.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings(file)


@pytest.mark.parametrize(("text", "named"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)) as err:
        load(tmp_path, text)
    assert str(tmp_path / "agent.toml") in str(err.value)
    assert "docs/settings.md" in str(err.value)
    assert "Value error" not in str(err.value)
    assert "should match" not in str(err.value)
    assert err.value.exit_status == EXIT_CONFIG


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"a = \x00",
        b"\xef\xbb\xbfx",
        b"[" * 100_000,
        b"a = " + b"[" * 100_000,
        b"a = " + b"1" * 5_000,
        b"uplink." * 5_000 + b"host = 1",
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_bytes_that_are_no_toml_are_an_error_not_a_crash(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, raw)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml")


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load_settings(tmp_path)


def test_a_secret_shows_in_no_error_and_no_print(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as err:
        load(tmp_path, 'device_id = "d"\n[uplink]\nusername = 1\npassword = "hunter2"')
    assert "hunter2" not in str(err.value)
    good = load(tmp_path, 'device_id = "d"\n[uplink]\nusername = "u"\npassword = "hunter2"')
    assert "hunter2" not in repr(good)


@pytest.mark.parametrize("value", ["{", "[1", "{}{}", "true"])
def test_a_variable_that_should_hold_json_and_does_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("EDGESLM_UPLINK", value)
    with pytest.raises(ConfigError, match="EDGESLM_UPLINK"):
        load(tmp_path, 'device_id = "d"')


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EDGESLM_UPLINK__PORT", "many"),
        ("EDGESLM_UPLINK__HOTS", "x"),
        ("EDGESLM_UPLINK__PASSWORD__X", "x"),
        ("edgeslm_log_level", "loud"),
        ("EDGESLM_MODELS", '{"m": {"workers": 0}}'),
    ],
)
def test_an_error_names_the_variable_that_caused_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"{variable.upper()} \("):
        load(tmp_path, 'device_id = "d"')


@pytest.mark.parametrize("variable", ["EDGESLM_LOGLEVEL", "EDGESLM_UPLINKS__HOST", "edgeslm_x"])
def test_an_unknown_variable_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ConfigError, match=f"environment: {variable}: unknown variable"):
        load(tmp_path, 'device_id = "d"')


def test_variables_of_other_parts_are_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in OTHER_VARIABLES:
        monkeypatch.setenv(variable, "x")
    assert load(tmp_path, 'device_id = "d"').device_id == "d"


PKCS11 = {"module": "/m", "token": "t", "pin_file": "/p"}
BROKERS = ("UPLINK", "INPUT", "PROVISION__BROKER")
# Every key: what the file says, what the variable says, in TOML and in the environment.
PAIRS: dict[str, tuple[Any, Any]] = {
    "DEVICE_ID": ("d1", "d2"),
    "TOPIC_ROOT": ("a/b", "c/d"),
    "STATE_DIR": ("/a", "/b"),
    "RUNTIME_DIR": ("/a", "/b"),
    "PROFILE": ("generic-x86_64", "mine.toml"),
    "TAGS": ({"hall": "3"}, {"hall": "B"}),
    "STATE_INTERVAL_S": (10.0, 20.5),
    "HOMEASSISTANT__DISCOVERY_PREFIX": ("ha", "house/ha"),
    "HOMEASSISTANT__ALARM_OFF_S": (5, 30),
    "METRICS__LISTEN": ("127.0.0.1:9464", "[::1]:9465"),
    "FEEDBACK__KEYS": ([43 * "A" + "="], [43 * "B" + "="]),
    "FEEDBACK__REVOKED": (["0123456789abcdef"], ["fedcba9876543210"]),
    "FEEDBACK__SIGNED": ("always", "to-silence"),
    "FEEDBACK__PER_MINUTE": (5, 6),
    "FEEDBACK__MAX_AGE_HOURS": (24.0, 48.5),
    "FEEDBACK__REMEMBER": (50, 60),
    "FEEDBACK__MAX_LESSONS": (10, 20),
    "FEEDBACK__MAX_MB": (1, 2),
    "NOTICES__AGAIN_S": (60.0, 90.5),
    "NOTICES__PER_MINUTE": (1, 2),
    "MODELS__NAME__REVIEW": (True, False),
    "MODELS__NAME__DRIFT": (True, False),
    "MODELS__NAME__DRIFT_FALSE_RATE": (1e-6, 1e-3),
    "MODELS__NAME__LEARN__LINES": (0, 50),
    "MODELS__NAME__LEARN__HOURS": (1.0, 2.5),
    "PRESSURE__TEMPERATURE_C": (80.0, 85.5),
    "PRESSURE__MEMORY_AVAILABLE_MB": (64.0, 32.5),
    "PRESSURE__LOAD_PER_CORE": (2.0, 1.5),
    "LOG_LEVEL": ("info", "debug"),
    **{
        f"{broker}__{key}": pair
        for broker in BROKERS
        for key, pair in {
            "HOST": ("a", "b"),
            "PORT": (1883, 1884),
            "OTHERS": (["a"], ["b:1884", "[::1]:1885"]),
            "PROTOCOL": ("5", "3.1.1"),
            "TRANSPORT": ("tcp", "websockets"),
            "PATH": ("/mqtt", "/a/b"),
            "PROXY__KIND": ("http", "socks5"),
            "PROXY__HOST": ("a", "b"),
            "PROXY__PORT": (3128, 1080),
            "PROXY__USERNAME": ("a", "b"),
            "PROXY__PASSWORD_FILE": ("/a", "/b"),
            "USERNAME": ("a", "b"),
            "PASSWORD": ("a", "b"),
            "PASSWORD_FILE": ("/a", "/b"),
            "KEEPALIVE_S": (30, 60),
            "SESSION_EXPIRY_S": (0, 60),
            "TLS__CA_FILE": ("/a", "/b"),
            "TLS__CERT_FILE": ("/a", "/b"),
            "TLS__KEY_FILE": ("/a", "/b"),
        }.items()
    },
    "MODELS__NAME__BUNDLE": ("/a", "/b"),
    "MODELS__NAME__WORKERS": (1, 2),
    "MODELS__NAME__CACHE_ENTRIES": (0, 10),
    "MODELS__NAME__RECEIVE_MAXIMUM": (1, 2),
    "ROUTES__NAME__TOPIC": ("a", "b/+"),
    "ROUTES__NAME__MODELS": (["name"], ["other"]),
    **{
        f"ROUTES__NAME__{key}": ("/a", "/b")
        for key in ("TEXT", "SOURCE", "TIME", "KEY", "LAST", "ID")
    },
    "ROUTES__NAME__ID_PROPERTY": ("a", "b"),
    "ROUTES__NAME__ENCODING": ("utf-8", "latin-1"),
    "ROUTES__NAME__MAX_BYTES": (1, 2),
    "ROUTES__NAME__SHARE": ("none", "text"),
    "ROUTES__NAME__LANE": ("alert", "telemetry"),
    "OUTBOX__MAX_RESULTS": (1, 2),
    "OUTBOX__MAX_MB": (1, 2),
    "OUTBOX__MAX_AGE_S": (60.0, 61.0),
    "OUTBOX__THIN_SHARE": (0.5, 1.0),
    "OUTBOX__SUMMARY_S": (60.0, 900.0),
    "OUTBOX__CATCH_UP_PER_S": (1, 2),
    "OUTBOX__ACK_TIMEOUT_S": (1.0, 2.0),
    "UPDATE__ROOT": ("/a", "/b"),
    "UPDATE__DIR": ("/a", "/b"),
    "UPDATE__USER": ("a", "b"),
    "UPDATE__WINDOW_KB": (128, 256),
    "UPDATE__RATE_KB_S": (1, 2),
    "UPDATE__HOURS": (["01:00-05:00"], ["22:30-04:00"]),
    "UPDATE__MIN_FREE_MB": (0, 1),
    "UPDATE__STALL_S": (1.0, 2.0),
    "UPDATE__LOAD_S": (1.0, 2.0),
    "UPDATE__IDLE_EXIT_S": (1.0, 2.0),
    **{f"PROVISION__{key}": ("/a", "/b") for key in ("DIR", "TOKEN_FILE", "FACTORY_KEY_FILE")},
    "PROVISION__GROUP": ("a", "b"),
    "PROVISION__RENEW_AFTER": (0.5, 0.75),
    "PROVISION__PKCS11__MODULE": ("/a", "/b"),
    "PROVISION__PKCS11__TOKEN": ("a", "b"),
    "PROVISION__PKCS11__PIN_FILE": ("/a", "/b"),
}


def documented() -> set[str]:
    page = (DOCS / "settings.md").read_text()
    return set(re.findall(r"\| `EDGESLM_(\w+)` \|", page))


def test_every_documented_key_is_in_the_table_below() -> None:
    assert documented() == set(PAIRS)


def nested(variable: str, value: object) -> dict[str, Any]:
    for part in reversed(variable.lower().split("__")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {k: merge(base[k], v) for k, v in over.items() if isinstance(v, dict) and k in base}
    return base | over | both


def toml(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    if path:
        yield f"[{'.'.join(path)}]"
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{key} = {json.dumps(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from toml(value, (*path, key))


def value_at(settings: AgentSettings, variable: str) -> Any:
    node: Any = settings
    for part in variable.lower().split("__"):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    if isinstance(node, SecretStr):
        return node.get_secret_value()
    return str(node) if isinstance(node, Path) else node


def whole(variable: str) -> dict[str, Any]:
    """Return a valid file around the key of `variable`."""
    base: dict[str, Any] = {
        "device_id": "d",
        "models": {"name": {"bundle": "/m"}, "other": {"bundle": "/o"}},
    }
    if variable.startswith("ROUTES"):
        base["routes"] = {"name": {"topic": "t", "models": ["name"], "text": "/text"}}
    broker = next((each for each in BROKERS if variable.startswith(f"{each}__")), "")
    key = variable.removeprefix(f"{broker}__") if broker else ""
    if key.startswith("PROXY__"):
        proxy = {"host": "p", "port": 8080, "username": "u", "password_file": "/f"}
        base = merge(base, nested(broker, {"proxy": proxy}))
    if key in {"PASSWORD", "PASSWORD_FILE"}:
        base = merge(base, nested(broker, {"username": "u"}))
    if key.endswith(("CERT_FILE", "KEY_FILE")):
        base = merge(base, nested(broker, {"tls": {"cert_file": "/c", "key_file": "/k"}}))
    if variable.startswith("PROVISION__PKCS11"):
        base = merge(base, nested("PROVISION__PKCS11", PKCS11))
    return merge(base, nested(variable, PAIRS[variable][0]))


@pytest.mark.parametrize("variable", PAIRS)
def test_a_keys_variable_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    in_file, in_variable = PAIRS[variable]
    text = "\n".join(toml(whole(variable)))

    def same(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    before = load(tmp_path, text)
    assert value_at(before, variable) == same(in_file)
    word = in_variable if isinstance(in_variable, str) else json.dumps(in_variable)
    monkeypatch.setenv(f"EDGESLM_{variable}", word)
    after = load(tmp_path, text)
    assert value_at(after, variable) == same(in_variable)
    # Nothing else has moved.
    assert after.models["other"] == before.models["other"]
    assert (after.device_id == before.device_id) is (variable != "DEVICE_ID")


def test_a_variable_alone_makes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESLM_MODELS__PRESS__BUNDLE", "/srv/press")
    monkeypatch.setenv("EDGESLM_ROUTES", '{"log": {"topic": "t", "models": ["press"]}}')
    settings = load(tmp_path, 'device_id = "d"')
    assert settings.models["press"].bundle == Path("/srv/press")
    assert settings.routes["log"].models == ("press",)


@pytest.mark.parametrize(
    ("others", "nodes"),
    [
        ((), ()),
        (("b",), (("b", 8883),)),
        (("b:1884", "10.0.0.1"), (("b", 1884), ("10.0.0.1", 8883))),
        (("[::1]", "[fe80::1]:99"), (("::1", 8883), ("fe80::1", 99))),
    ],
)
def test_the_nodes_of_a_cluster(
    others: tuple[str, ...], nodes: tuple[tuple[str, int], ...]
) -> None:
    broker = Broker(host="a", others=others, tls=Tls())
    assert broker.nodes == (("a", 8883), *nodes)


@pytest.mark.parametrize("node", ["b:0", "b:65536", "b:x", "::1", "a b", "mqtt://b", ""])
def test_what_is_no_node(tmp_path: Path, node: str) -> None:
    with pytest.raises(ConfigError, match="uplink"):
        load(tmp_path, f'device_id = "d"\n[uplink]\nothers = ["{node}"]')


def test_the_port_follows_tls_and_the_input_broker_the_uplink(tmp_path: Path) -> None:
    plain = load(tmp_path, 'device_id = "d"')
    assert plain.input_broker is plain.uplink
    assert plain.uplink.effective_port == 1883
    secure = load(tmp_path, 'device_id = "d"\n[uplink.tls]\n[input]\nhost = "other"')
    assert secure.uplink.effective_port == 8883
    assert secure.input_broker.host == "other"


@pytest.mark.parametrize("second", ["+/z", "$share/g/in/#"])
def test_routes_of_one_model_that_overlap_in_part_are_refused(tmp_path: Path, second: str) -> None:
    def text(models: str) -> str:
        return f"""device_id = "d"
            models = {{m = {{bundle = "m"}}, n = {{bundle = "n"}}}}
            [routes.r]
            topic = "in/+"
            models = ["m"]
            [routes.q]
            topic = "{second}"
            models = {models}"""

    with pytest.raises(ConfigError, match=r"routes\.q\.topic"):
        load(tmp_path, text('["m"]'))
    load(tmp_path, text('["n"]'))


def test_a_route_may_lie_within_another(tmp_path: Path) -> None:
    routes = '{a = {topic = "in/a", models = ["m"]}, all = {topic = "in/#", models = ["m"]}}'
    load(tmp_path, f'device_id = "d"\nmodels = {{m = {{bundle = "m"}}}}\nroutes = {routes}')


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:9464", "localhost:80"])
def test_metrics_are_served_on_loopback(tmp_path: Path, listen: str) -> None:
    metrics = load(tmp_path, f'device_id = "d"\n[metrics]\nlisten = "{listen}"\n').metrics
    assert metrics is not None
    assert f"{metrics.address[0]}:{metrics.address[1]}" == listen.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("0.0.0.0:9464", "0.0.0.0: not on loopback"),
        ("[::]:9464", "not on loopback"),
        ("10.0.0.7:9464", "not on loopback"),
        ("device.plant:9464", "device.plant: not on loopback"),
        ("127.0.0.1:0", "0: no such port"),
        ("127.0.0.1", "not HOST:PORT"),
    ],
)
def test_metrics_are_served_nowhere_else(tmp_path: Path, listen: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        load(tmp_path, f'device_id = "d"\n[metrics]\nlisten = "{listen}"\n')


@pytest.mark.parametrize(
    ("tables", "port"),
    [
        ("", 1883),
        ("[uplink.tls]", 8883),
        ('[uplink]\ntransport = "websockets"', 80),
        ('[uplink]\ntransport = "websockets"\n[uplink.tls]', 443),
        ('[uplink]\ntransport = "websockets"\nport = 8083', 8083),
    ],
)
def test_a_port_that_is_not_named_is_the_usual_one(tmp_path: Path, tables: str, port: int) -> None:
    assert load(tmp_path, f'device_id = "d"\n{tables}').uplink.effective_port == port


def test_a_proxys_user_needs_a_password(tmp_path: Path) -> None:
    proxy = '[uplink.proxy]\nhost = "p"\nport = 1\nusername = "u"'
    with pytest.raises(ConfigError, match="belong together"):
        load(tmp_path, f'device_id = "d"\n{proxy}')
