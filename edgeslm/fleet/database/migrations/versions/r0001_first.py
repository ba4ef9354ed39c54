"""The first schema."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_APPEND_ONLY: Final = {
    "sqlite": (
        """
        CREATE TRIGGER audit_stays_on_update BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'rows of audit stay as they are'); END
        """,
        """
        CREATE TRIGGER audit_stays_on_delete BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'rows of audit stay as they are'); END
        """,
        # REPLACE deletes without a trigger.
        """
        CREATE TRIGGER audit_stays_on_insert BEFORE INSERT ON audit
        WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'rows of audit stay as they are'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'rows of audit stay as they are' USING ERRCODE = '23001'; END $$
        """,
        """
        CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit
        FOR EACH ROW EXECUTE FUNCTION audit_stays()
        """,
        """
        CREATE TRIGGER audit_stays_whole BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_stays()
        """,
    ),
}


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "accounts",
        sa.Column(
            "name",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_accounts")),
    )
    op.create_table(
        "attempts",
        sa.Column("who", sa.String(length=100), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("who", name=op.f("pk_attempts")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column(
            "who",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("by", sa.String(length=16), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_table(
        "devices",
        sa.Column(
            "id",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "profile",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column(
            "arch",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column(
            "agent_version",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column(
            "updater_version",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=16), server_default="", nullable=False),
        sa.Column("health", sa.String(length=16), server_default="unknown", nullable=False),
        sa.Column("registered_at", sa.Float(), nullable=False),
        sa.Column("heard_at", sa.Float(), nullable=False),
        sa.Column("state_at", sa.Float(), nullable=True),
        sa.Column("update_at", sa.Float(), nullable=True),
        sa.Column("state_time", sa.Float(), nullable=True),
        sa.Column("update_time", sa.Float(), nullable=True),
        sa.Column("began", sa.Float(), nullable=True),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("phase", sa.String(length=16), server_default="idle", nullable=False),
        sa.Column("failure", sa.String(length=64), server_default="", nullable=False),
        sa.Column(
            "failure_model",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=True,
        ),
        sa.Column("retries", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
    )
    op.create_index(op.f("ix_devices_health"), "devices", ["health"], unique=False)
    op.create_index(op.f("ix_devices_heard_at"), "devices", ["heard_at"], unique=False)
    op.create_index(op.f("ix_devices_online"), "devices", ["online"], unique=False)
    op.create_index(op.f("ix_devices_profile"), "devices", ["profile"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column(
            "model",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column("code", sa.String(length=64), server_default="", nullable=False),
        sa.Column("message", sa.String(length=500), server_default="", nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint(
            "device", "time", "event", "model", "code", name=op.f("uq_events_device")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_at"), "events", ["at"], unique=False)
    op.create_index("ix_events_device_id", "events", ["device", "id"], unique=False)
    op.create_table(
        "evidence",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "model",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column(
            "task",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("source", sa.String(length=500), nullable=True),
        sa.Column("key", sa.String(length=500), nullable=True),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("p_value", sa.Float(), nullable=True),
        sa.Column("confidence", sa.Float(), nullable=True),
        sa.Column("accepted", sa.Boolean(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("judged", sa.String(length=200), nullable=True),
        sa.Column(
            "judged_by",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=True,
        ),
        sa.Column("judged_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
    )
    op.create_index(op.f("ix_evidence_at"), "evidence", ["at"], unique=False)
    op.create_index("ix_evidence_device_at", "evidence", ["device", "at"], unique=False)
    op.create_index("ix_evidence_model_at", "evidence", ["model", "at"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("term", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(length=500), server_default="", nullable=False),
        sa.Column("accepted_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("soaked_s", sa.Float(), server_default="0", nullable=False),
        sa.Column("soaked_at", sa.Float(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column(
            "created_by",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("asked", sa.String(length=16), nullable=True),
        sa.Column(
            "asked_by",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_rollouts_state"), "rollouts", ["state"], unique=False)
    op.create_table(
        "assignments",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("issued", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("changed", sa.Float(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=op.f("fk_assignments_rollout_rollouts")
        ),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_assignments")),
    )
    op.create_index(op.f("ix_assignments_changed"), "assignments", ["changed"], unique=False)
    op.create_index(op.f("ix_assignments_seq"), "assignments", ["seq"], unique=False)
    op.create_table(
        "device_models",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "model",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("committed", sa.BigInteger(), nullable=True),
        sa.Column("bad", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("state", sa.String(length=16), server_default="", nullable=False),
        sa.Column("trial", sa.Boolean(), nullable=False),
        sa.Column(
            "provider",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column(
            "variant",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            server_default="",
            nullable=False,
        ),
        sa.Column("node_share", sa.Float(), nullable=True),
        sa.Column("error", sa.String(length=64), server_default="", nullable=False),
        sa.Column("p50_ms", sa.Float(), nullable=True),
        sa.Column("p99_ms", sa.Float(), nullable=True),
        sa.Column("counted", sa.BigInteger(), nullable=True),
        sa.Column("answers", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("alarms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_version", sa.BigInteger(), nullable=True),
        sa.Column("before_answers", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_alarms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_p99_ms", sa.Float(), nullable=True),
        sa.Column("seen_answers", sa.BigInteger(), nullable=True),
        sa.Column("seen_errors", sa.BigInteger(), nullable=True),
        sa.Column("seen_alarms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device"],
            ["devices.id"],
            name=op.f("fk_device_models_device_devices"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_device_models")),
    )
    op.create_index(
        "ix_device_models_model_version", "device_models", ["model", "version"], unique=False
    )
    op.create_table(
        "hours",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "model",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("alarms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.id"], name=op.f("fk_hours_device_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "model", "hour", "version", name=op.f("pk_hours")),
    )
    op.create_table(
        "reports",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("state", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("update", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.id"], name=op.f("fk_reports_device_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_reports")),
    )
    op.create_table(
        "rollout_log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("what", sa.String(length=500), nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=op.f("fk_rollout_log_rollout_rollouts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_log")),
    )
    op.create_index(op.f("ix_rollout_log_rollout"), "rollout_log", ["rollout"], unique=False)
    op.create_table(
        "rollout_targets",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "type",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("previous", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=500), server_default="", nullable=False),
        sa.Column("before_answers", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_errors", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_alarms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("before_p99_ms", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout"], ["rollouts.id"], name=op.f("fk_rollout_targets_rollout_rollouts")
        ),
        sa.PrimaryKeyConstraint("rollout", "device", name=op.f("pk_rollout_targets")),
    )
    op.create_index(op.f("ix_rollout_targets_device"), "rollout_targets", ["device"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column(
            "account",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("csrf", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account"],
            ["accounts.name"],
            name=op.f("fk_sessions_account_accounts"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.create_table(
        "tags",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "key",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("given", sa.Boolean(), nullable=False),
        sa.Column(
            "value",
            sa.String(length=200).with_variant(sa.String(length=200, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.id"], name=op.f("fk_tags_device_devices"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "key", "given", name=op.f("pk_tags")),
    )
    op.create_index("ix_tags_key_value", "tags", ["key", "value"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column(
            "account",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account"],
            ["accounts.name"],
            name=op.f("fk_tokens_account_accounts"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("ended", sa.String(length=16), nullable=True),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
        sa.UniqueConstraint("key", name=op.f("uq_certificates_key")),
        sa.UniqueConstraint("request", name=op.f("uq_certificates_request")),
    )
    op.create_index(op.f("ix_certificates_device"), "certificates", ["device"], unique=False)
    op.create_table(
        "identities",
        sa.Column(
            "device",
            sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("proof", sa.String(length=64), nullable=False),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("machine", sa.Text(), nullable=True),
        sa.Column("clones", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cloned_at", sa.Float(), nullable=True),
        sa.Column("cloned_why", sa.String(length=500), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_identities")),
        sa.UniqueConstraint("proof", name=op.f("uq_identities_proof")),
    )
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
