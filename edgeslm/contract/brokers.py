"""Settings of a connection to an MQTT broker: where it is, and how one gets there."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from edgeslm.contract.base import Section, spelled

MAX_PORT: Final = 65_535
_PORTS: Final = {  # by transport, and whether there is TLS
    ("tcp", False): 1883,
    ("tcp", True): 8883,
    ("websockets", False): 80,
    ("websockets", True): 443,
}


class Tls(Section):
    """TLS to a broker; an empty table uses the system's certificate authorities."""

    ca_file: Annotated[Path | None, Field(description="CA bundle, PEM.")] = None
    cert_file: Annotated[Path | None, Field(description="Client certificate, PEM.")] = None
    key_file: Annotated[Path | None, Field(description="Client key, PEM.")] = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            msg = "cert_file and key_file belong together"
            raise ValueError(msg)
        return self


Node = Annotated[
    str,
    spelled(
        r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$",
        "not HOST or HOST:PORT; an IPv6 address is in brackets",
    ),
]


class Proxy(Section):
    """A proxy on the way to a broker; needs the extra `proxy`."""

    kind: Annotated[
        Literal["http", "socks5"], Field(description="http: by CONNECT, as for HTTPS.")
    ] = "http"
    host: Annotated[str, Field(min_length=1, description="Name or address.")]
    port: Annotated[int, Field(ge=1, le=65535)]
    username: Annotated[str | None, Field(description="With password_file.")] = None
    password_file: Annotated[
        Path | None, Field(description="Holds the password; a last newline is dropped.")
    ] = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            msg = "username and password_file belong together"
            raise ValueError(msg)
        return self


class Broker(Section):
    """One MQTT broker, or a cluster of them."""

    host: Annotated[
        str, Field(min_length=1, description="Name, address, or path of a Unix socket.")
    ] = "localhost"
    port: Annotated[
        int | None,
        Field(ge=1, le=65535, description="Absent: 1883, with TLS 8883; of a WebSocket 80, 443."),
    ] = None
    others: Annotated[
        tuple[Node, ...],
        Field(
            max_length=15,
            description="HOST or HOST:PORT of the cluster's other nodes, tried in turn.",
        ),
    ] = ()
    protocol: Annotated[Literal["5", "3.1.1"], Field(description="MQTT version.")] = "5"
    transport: Annotated[
        Literal["tcp", "websockets"],
        Field(description="MQTT as it is, or in a WebSocket, where only HTTP gets through."),
    ] = "tcp"
    path: Annotated[
        str, spelled(r"^/[!-~]*$", "not a path, such as /mqtt", description="Of the WebSocket.")
    ] = "/mqtt"
    proxy: Annotated[Proxy | None, Field(description="On the way to the broker.")] = None
    username: Annotated[str | None, Field(description="With password or password_file.")] = None
    password: Annotated[SecretStr | None, Field(description="Never logged.")] = None
    password_file: Annotated[
        Path | None, Field(description="Holds the password; a last newline is dropped.")
    ] = None
    tls: Annotated[Tls | None, Field(description="Plain TCP where absent.")] = None
    keepalive_s: Annotated[
        int,
        Field(
            ge=5,
            le=3600,
            description="MQTT keep-alive; the broker calls us lost after half as long again.",
        ),
    ] = 60
    session_expiry_s: Annotated[
        int,
        Field(
            ge=0,
            le=0xFFFFFFFF,
            description="How long the broker keeps our session while we are away (MQTT 5).",
        ),
    ] = 7 * 24 * 3600

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            msg = "give password or password_file, not both"
            raise ValueError(msg)
        if (self.password or self.password_file) and self.username is None:
            msg = "a password needs a username"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _ports(self) -> Self:
        if wrong := [f"{host}:{port}" for host, port in self.nodes if not 0 < port <= MAX_PORT]:
            msg = f"others: {wrong[0]}: no such port"
            raise ValueError(msg)
        return self

    @property
    def stays_here(self) -> bool:
        """Whether nothing that is sent leaves this machine."""
        return all(_is_here(host) for host, _ in self.nodes)

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each node, the one named first first."""
        found = [(self.host, self.effective_port)]
        for node in self.others:
            host, colon, port = node.rpartition(":")
            if not colon or port.endswith("]"):  # a name alone, or an IPv6 address alone
                host, port = node, ""
            found.append((host.strip("[]"), int(port) if port else self.effective_port))
        return tuple(found)

    @property
    def effective_port(self) -> int:
        return self.port or _PORTS[self.transport, self.tls is not None]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.effective_port}"


def _is_here(host: str) -> bool:
    if host.startswith("/") or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
