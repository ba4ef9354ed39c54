"""Settings of what a device learns: from operators, of sources that are new, and what it shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeslm.contract.base import Section, spelled

PublicKey = Annotated[
    str,
    spelled(
        r"^[A-Za-z0-9+/]{43}=$",
        "not a key: `edgeslm fleet token key` prints it",
        description="Ed25519, base64.",
    ),
]
TokenId = Annotated[str, spelled(r"^[0-9a-f]{16}$", "not a token's id: 16 of 0-9 and a-f")]


class FeedbackSettings(Section):
    """What operators say of answers (docs/feedback.md); absent: the topic is not heard."""

    keys: Annotated[
        tuple[PublicKey, ...],
        Field(
            max_length=8,
            description="Whose tokens count, as `edgeslm fleet token key` prints them; none: "
            "nothing silences an alarm.",
        ),
    ] = ()
    revoked: Annotated[
        tuple[TokenId, ...], Field(max_length=1000, description="Ids of tokens that do not.")
    ] = ()
    signed: Annotated[
        Literal["to-silence", "always"],
        Field(description="What takes an operator's token: what may end an alarm, or all of it."),
    ] = "to-silence"
    per_minute: Annotated[
        int,
        Field(
            ge=1,
            le=6000,
            description="Messages that are heeded of each token that was right before, of all "
            "others together, and of what has none. The rest is counted.",
        ),
    ] = 60
    max_age_hours: Annotated[
        float,
        Field(
            gt=0,
            le=87_600,
            description="Of a message with a token: what was found longer ago, by its `time`, is "
            "refused, where this device's clock is synchronised.",
        ),
    ] = 168.0
    remember: Annotated[
        int,
        Field(
            ge=16,
            le=100_000,
            description="Results of each model that feedback can name by their ids; as many "
            "alarms besides.",
        ),
    ] = 1000
    max_lessons: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="That count; at most half of them without a token. As many that were "
            "taken back stay on record.",
        ),
    ] = 5000
    max_mb: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="Of their texts, on disk, likewise; as much of what sources learn.",
        ),
    ] = 8


class LearnSettings(Section):
    """A source that the model was not trained on learns what is its own, for a while."""

    lines: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="That it learns from; 0: it does not learn. Of twice as many, 60 at least, "
            "its period ends, whatever it has learnt.",
        ),
    ] = 1000
    hours: Annotated[
        float,
        Field(
            gt=0,
            le=8760,
            description="After which its period ends; where fewer than 60 lines have come, and 30 "
            "to learn from have not, after as long again, 30 times at most.",
        ),
    ] = 24.0


class NoticeSettings(Section):
    """Events for people: `alarm_raised` and `template_shown`, one for all alarms that are alike."""

    again_s: Annotated[
        float,
        Field(ge=1, description="An alarm that was quiet for so long is told as a new one."),
    ] = 86_400.0
    per_minute: Annotated[
        int,
        Field(
            ge=1,
            le=6000,
            description="Of one source, and five times as many of all; how many more there were "
            "is told with the next, or after a minute.",
        ),
    ] = 60
