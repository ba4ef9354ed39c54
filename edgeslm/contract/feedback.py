"""What people say of a device's answers, and what it says to that: `feedback` and its reply."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator, with_config

from edgeslm.contract.base import Name, Typed, spelled
from edgeslm.contract.learning import TokenId
from edgeslm.contract.messages import ErrorInfo, SchemaVersion, Timed, UnixTime

MAX_FEEDBACK_BYTES: Final = 64 * 1024
MAX_FEEDBACK_CHARS: Final = 16_384
"""Of a text that is taught."""
MAX_TOKEN_CHARS: Final = 4096
TOKEN: Final = "edgeslm-operator"  # noqa: S105 -- how one begins
SIGNED: Final = b"edgeslm operator token 1\n"
"""Stands before a token's claims where they are signed: the key's signature of anything else is
none of a token."""

Printable = Annotated[
    str,
    spelled(
        r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$",
        "empty, or with a control character",
        max_length=128,
    ),
]
Device = Annotated[str, Field(min_length=1, max_length=64)]
Tag = Annotated[str, Field(max_length=64)]
Said = Annotated[str, Field(min_length=1, max_length=MAX_FEEDBACK_CHARS)]
FeedbackKind = Literal["normal", "anomaly", "intent", "undo"]
Flag = Literal["contradicts", "known_fault", "overruled"]


class Feedback(BaseModel):
    """What somebody says of one answer, or of all like it.

    A field that a device does not know, or a name that is misspelt, may have been a limit: such a
    message is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_: SchemaVersion = Field(1, alias="schema")
    kind: FeedbackKind = Field(
        description="`normal`, `anomaly` (of an intent: none of them), `intent` with the right "
        "`label`, or `undo` with the number of a `lesson`."
    )
    result: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="Id of the result that is judged."
    )
    text: Said | None = Field(None, description="Or a text, as it is or as it would be published.")
    template: Said | None = Field(
        None, description="Or all lines of a template, in which ¤ stands for what varies."
    )
    lesson: Annotated[int, Field(ge=1, le=2**53)] | None = Field(
        None, description="Of `undo`: which."
    )
    model: Name | None = Field(None, description="Whose; needed where it does not follow.")
    source: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="With `text` or `template`: of this source alone."
    )
    label: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="Of `intent`: which."
    )
    time: Annotated[float, Field(ge=0, le=32_503_680_000)] | None = Field(
        None, description="When it was found, since 1970; now, if absent, and at most now."
    )
    id: Printable | None = Field(
        None, description="The sender's own, which the reply repeats; a new one for each message."
    )
    token: Annotated[str, Field(max_length=MAX_TOKEN_CHARS)] | None = Field(
        None, description="An operator's, of `edgeslm fleet token`: for what silences."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        named = [n for n in ("result", "text", "template", "lesson") if getattr(self, n)]
        if self.kind == "undo":
            if named != ["lesson"]:
                msg = "undo names a lesson, and nothing else"
                raise ValueError(msg)
        elif len(named) != 1 or named == ["lesson"]:
            msg = "name one of result, text and template"
            raise ValueError(msg)
        if (self.kind == "intent") != (self.label is not None):
            msg = "a label belongs to an intent, and an intent has one"
            raise ValueError(msg)
        if self.model is None and (self.text or self.template):
            msg = "name the model, too"
            raise ValueError(msg)
        return self


class Sender(BaseModel):
    """What of a message can be answered to, whatever else is wrong with it."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: Printable | None = None


class Claims(Typed):
    """What a token says. A field that is not known may be a limit: such a token is refused."""

    id: TokenId
    operator: Printable
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$", description="Which key has signed.")]
    issued: Annotated[int, Field(ge=0, le=2**40, description="Seconds since 1970.")]
    expires: Annotated[int, Field(ge=0, le=2**40)]
    models: Annotated[tuple[Name, ...], Field(max_length=64)] = Field(
        (), description="For these alone; empty: for all."
    )
    devices: Annotated[tuple[Device, ...], Field(max_length=64)] = ()
    tags: Annotated[dict[Name, Tag], Field(max_length=16)] = Field(
        default={}, description="On devices that have all of them."
    )


_WIRE = ConfigDict(extra="ignore", allow_inf_nan=False)


@with_config(_WIRE)
class FeedbackReply(Timed):
    """What came of a message on `feedback`."""

    schema: SchemaVersion
    device: str
    time: UnixTime
    id: NotRequired[Annotated[str, Field(description="As the message had it.")]]
    status: Annotated[
        Literal["learnt", "known", "undone", "refused"],
        Field(description="`known`: there is such a lesson already."),
    ]
    lesson: NotRequired[Annotated[int, Field(description="Its number: `undo` takes it back.")]]
    model: NotRequired[str]
    covers: NotRequired[
        Annotated[
            Literal["template", "numbers"],
            Field(
                description="Of an anomaly among lines, which ones are anomalies by it: all of its "
                "template; or, of its source, the very line and those beyond its numbers."
            ),
        ]
    ]
    flags: NotRequired[
        Annotated[
            list[Flag],
            Field(
                description="`contradicts`: an earlier lesson said otherwise, and this one counts; "
                "`known_fault`: what an earlier lesson, or a label of the bundle's examples, calls "
                "an anomaly is normal from now on; `overruled`: one that was signed, or is of a "
                "later time, says otherwise, and counts instead."
            ),
        ]
    ]
    contradicts: NotRequired[Annotated[int, Field(description="The number of that lesson.")]]
    error: NotRequired[ErrorInfo]


FEEDBACK_REPLY: Final[TypeAdapter[Any]] = TypeAdapter(FeedbackReply)
