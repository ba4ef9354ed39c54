"""Tables of a fleet's database. What is here is what the newest migration makes; a test holds that.

Times are seconds since 1970, UTC, by the service's clock unless said otherwise. JSON is text.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Names of constraints, so that migrations can name them on every database.
METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# PostgreSQL then sorts as SQLite does, byte by byte, whatever language its cluster was made for.
_NAME: Final = String(64).with_variant(String(64, collation="C"), "postgresql")
_DEVICE: Final = _NAME
_VALUE: Final = String(200).with_variant(String(200, collation="C"), "postgresql")
_JSON: Final = JSON(none_as_null=True)

# What is known of each device.
devices: Final = Table(
    "devices",
    METADATA,
    Column("id", _DEVICE, primary_key=True),
    Column("profile", _NAME, nullable=False, server_default="", index=True),
    Column("arch", _NAME, nullable=False, server_default=""),
    Column("agent_version", _NAME, nullable=False, server_default=""),
    Column("updater_version", _NAME, nullable=False, server_default=""),
    Column("online", Boolean, nullable=False, default=False, index=True),
    Column("reason", String(16), nullable=False, server_default=""),  # of `status`
    Column("health", String(16), nullable=False, server_default="unknown", index=True),
    Column("registered_at", Float, nullable=False),
    Column("heard_at", Float, nullable=False, index=True),  # by any message that was news
    Column("state_at", Float),
    Column("update_at", Float),
    # By the device's clock, to know a message that comes again; never used to order.
    Column("state_time", Float),
    Column("update_time", Float),
    Column("began", Float),  # its agent: the state's time less its uptime
    Column("seq", BigInteger, nullable=False, server_default="0"),  # accepted by its updater
    Column("phase", String(16), nullable=False, server_default="idle"),
    Column("failure", String(64), nullable=False, server_default=""),  # code: of the last change
    Column("failure_model", _NAME),  # whose change that was; NULL: a configuration's, or not said
    Column("retries", Boolean),  # whether its updater tries that again; NULL: not said
)

# What each device has said last, whole. Apart, since it is long: looking for devices reads none.
reports: Final = Table(
    "reports",
    METADATA,
    Column("device", _DEVICE, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("state", _JSON),  # contract.messages.State
    Column("update", _JSON),  # contract.messages.UpdateState
)

# Of a device: `given` by the manager, else by the device's own settings. The manager's wins.
tags: Final = Table(
    "tags",
    METADATA,
    Column("device", _DEVICE, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("given", Boolean, primary_key=True),
    Column("value", _VALUE, nullable=False),
    Index("ix_tags_key_value", "key", "value"),
)

# What each device runs of each model, and how that has answered since it runs.
device_models: Final = Table(
    "device_models",
    METADATA,
    Column("device", _DEVICE, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("model", _NAME, primary_key=True),
    Column("version", BigInteger),  # that the agent answers with
    Column("committed", BigInteger),  # by the updater
    Column("bad", _JSON),  # hashes of bundles that failed here
    Column("state", String(16), nullable=False, server_default=""),
    Column("trial", Boolean, nullable=False, default=False),
    Column("provider", _NAME, nullable=False, server_default=""),
    Column("variant", _NAME, nullable=False, server_default=""),
    Column("node_share", Float),
    Column("error", String(64), nullable=False, server_default=""),  # code
    Column("p50_ms", Float),
    Column("p99_ms", Float),
    # Of this version, since it runs here. It stays where the agent answers with none for a while.
    Column("counted", BigInteger),
    Column("answers", BigInteger, nullable=False, server_default="0"),
    Column("errors", BigInteger, nullable=False, server_default="0"),
    Column("alarms", BigInteger, nullable=False, server_default="0"),
    # Of the version before it.
    Column("before_version", BigInteger),
    Column("before_answers", BigInteger, nullable=False, server_default="0"),
    Column("before_errors", BigInteger, nullable=False, server_default="0"),
    Column("before_alarms", BigInteger, nullable=False, server_default="0"),
    Column("before_p99_ms", Float),
    # The agent's own counters, as last seen: they begin anew with each start of it. None: it has
    # not counted this model yet. core/counters.py says what they mean.
    Column("seen_answers", BigInteger),
    Column("seen_errors", BigInteger),
    Column("seen_alarms", BigInteger),
    Index("ix_device_models_model_version", "model", "version"),
)

# What a model has answered on a device in each hour: alarms over time.
hours: Final = Table(
    "hours",
    METADATA,
    Column("device", _DEVICE, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("model", _NAME, primary_key=True),
    Column("hour", Integer, primary_key=True),  # since 1970
    Column("version", BigInteger, primary_key=True),
    Column("answers", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("alarms", BigInteger, nullable=False),
)

events: Final = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("device", _DEVICE, nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("time", Float, nullable=False),  # by the device's clock
    Column("event", String(64), nullable=False),
    Column("model", _NAME, nullable=False, server_default=""),
    Column("code", String(64), nullable=False, server_default=""),
    Column("message", String(500), nullable=False, server_default=""),
    Column("detail", _JSON),
    Index("ix_events_device_id", "device", "id"),
    # Of one that is delivered again there is one.
    UniqueConstraint("device", "time", "event", "model", "code"),
    sqlite_autoincrement=True,
)

# Results that were kept, for people to judge and for the next export.
evidence: Final = Table(
    "evidence",
    METADATA,
    Column("id", String(200), primary_key=True),  # the result's own: redelivered ones are one
    Column("device", _DEVICE, nullable=False),
    Column("model", _NAME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("task", _NAME, nullable=False),
    Column("at", Float, nullable=False, index=True),
    Column("time", Float, nullable=False),  # the input's own, else when the device took it
    Column("source", String(500)),
    Column("key", String(500)),
    Column("label", String(200), nullable=False),
    Column("score", Float),
    Column("p_value", Float),
    Column("confidence", Float),
    Column("accepted", Boolean),
    Column("text", Text),  # where the route shares it
    Column("judged", String(200)),  # the label that a person gave it
    Column("judged_by", _NAME),
    Column("judged_at", Float),
    Index("ix_evidence_model_at", "model", "at"),
    Index("ix_evidence_device_at", "device", "at"),
)

# The newest assignment of each device, signed.
assignments: Final = Table(
    "assignments",
    METADATA,
    Column("device", _DEVICE, primary_key=True),  # it may not have registered yet
    Column("seq", BigInteger, nullable=False, index=True),
    Column("issued", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("changed", Float, nullable=False, index=True),
    Column("rollout", Integer, ForeignKey("rollouts.id")),  # that gave it; else a person
)

rollouts: Final = Table(
    "rollouts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("plan", _JSON, nullable=False),  # contract.rollout.Plan
    Column("state", String(16), nullable=False, index=True),  # core.rollout.State
    Column("wave", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("reason", String(500), nullable=False, server_default=""),
    Column("accepted_at", Float, nullable=False, server_default="0"),  # core.rollout.Progress
    Column("soaked_s", Float, nullable=False, server_default="0"),
    Column("soaked_at", Float, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    Column("created_by", _NAME, nullable=False),
    Column("asked", String(16)),  # pause, resume, abort: the conductor carries it out
    Column("asked_by", _NAME),
    sqlite_autoincrement=True,
)

rollout_targets: Final = Table(
    "rollout_targets",
    METADATA,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("device", _DEVICE, primary_key=True, index=True),
    Column("type", _NAME, nullable=False),
    Column("wave", Integer, nullable=False),
    Column("state", String(16), nullable=False),  # core.rollout.DeviceState
    Column("since", Float, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("previous", BigInteger),
    Column("reason", String(500), nullable=False, server_default=""),
    Column("before_answers", BigInteger, nullable=False, server_default="0"),
    Column("before_errors", BigInteger, nullable=False, server_default="0"),
    Column("before_alarms", BigInteger, nullable=False, server_default="0"),
    Column("before_p99_ms", Float),
)

# What a roll-out did, for people.
rollout_log: Final = Table(
    "rollout_log",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("rollout", Integer, ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("what", String(500), nullable=False),
)

accounts: Final = Table(
    "accounts",
    METADATA,
    Column("name", _NAME, primary_key=True),
    Column("role", String(16), nullable=False),  # viewer, operator
    Column("password", String(200), nullable=False),  # argon2id
    Column("created_at", Float, nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
)

tokens: Final = Table(
    "tokens",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("account", _NAME, ForeignKey("accounts.name", ondelete="CASCADE"), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),  # sha256 of the secret
    Column("label", String(100), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("used_at", Float),
)

sessions: Final = Table(
    "sessions",
    METADATA,
    Column("hash", String(64), primary_key=True),  # sha256 of the cookie
    Column("account", _NAME, ForeignKey("accounts.name", ondelete="CASCADE"), nullable=False),
    Column("csrf", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)

# Wrong passwords, by account and by address.
attempts: Final = Table(
    "attempts",
    METADATA,
    Column("who", String(100), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", Float, nullable=False),
)

# Who did what; triggers refuse to change or remove a row.
audit: Final = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("who", _NAME, nullable=False),
    Column("by", String(16), nullable=False),  # cli, page, api, service
    Column("what", String(64), nullable=False),  # such as rollout.started
    Column("detail", _JSON, nullable=False),
    sqlite_autoincrement=True,
)

# Who does what only one may do at a time. `term` grows with each new holder.
leases: Final = Table(
    "leases",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", Float, nullable=False),  # by the database's clock
    Column("term", Integer, nullable=False),
)

# Who may have a certificate: a row for each device that was enrolled. `proof` lets it in.
identities: Final = Table(
    "identities",
    METADATA,
    Column("device", _DEVICE, primary_key=True),
    Column("kind", String(16), nullable=False),  # token, factory_key
    Column("proof", String(64), nullable=False, unique=True),  # sha256 of the token or public key
    Column("enrolled_at", Float, nullable=False),
    Column("expires_at", Float),  # of the token
    Column("used_at", Float),
    Column("revoked_at", Float),
    # By what its hardware is called, hashes apart by blanks; NULL: no request has said it yet.
    Column("machine", Text),
    Column("clones", Integer, nullable=False, server_default="0"),  # times a second one was seen
    Column("cloned_at", Float),
    Column("cloned_why", String(500), nullable=False, server_default=""),
)

# Every certificate that was issued to a device.
certificates: Final = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    Column("device", _DEVICE, nullable=False, index=True),
    Column("key", String(64), nullable=False, unique=True),  # sha256 of the public key
    Column("request", String(64), nullable=False, unique=True),  # sha256 of what asked for it
    Column("not_before", Float, nullable=False),
    Column("not_after", Float, nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("ended", String(16)),  # replaced, revoked; NULL: it is the one in force
    Column("pem", Text, nullable=False),
)
