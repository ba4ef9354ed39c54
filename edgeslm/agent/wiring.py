"""The real parts of the agent, put together from its settings."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import edgeslm
from edgeslm.adapters.clock import DeviceClock
from edgeslm.adapters.fs import remove_unfinished, write_durably
from edgeslm.adapters.gauges import Gauge
from edgeslm.adapters.lessons import NAME as LESSONS
from edgeslm.adapters.lessons import LessonLog
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.adapters.ring import Ring
from edgeslm.adapters.systemd import Notifier
from edgeslm.agent.crashes import Crashes
from edgeslm.agent.desired import Source
from edgeslm.agent.folders import hold, make_folder
from edgeslm.agent.homeassistant import Discovery
from edgeslm.agent.retained import Retained
from edgeslm.contract.feedback import MAX_FEEDBACK_BYTES
from edgeslm.contract.learning import FeedbackSettings
from edgeslm.contract.profile import DeviceProfile, FlashBudget, PressureLimits
from edgeslm.contract.routes import ModelSettings
from edgeslm.contract.settings import AgentSettings, load_settings
from edgeslm.core.delivery import Parcel
from edgeslm.core.pressure import Reading
from edgeslm.logs import Log
from edgeslm.ports import Sink, Transport
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import ProfileError, load_profile

if TYPE_CHECKING:  # loaded only where there is an updater
    from edgeslm.adapters.unix_socket import LineServer, LineSink
    from edgeslm.agent.shelf import Shelf

log = Log(__name__)
WINDOW: Final = 256  # results sent to the broker and not confirmed, where it takes so many
FEEDBACKS: Final = 16  # messages of people that were taken and are not answered
OUTBOX: Final = "outbox.sqlite"
RETAINED: Final = "retained-{device}-{model}.json"
FILTERS: Final = "filters.json"
DISCOVERY: Final = "homeassistant.json"
VERDICTS: Final = "verdicts"
CONTROL: Final = "control.sock"
_RELEASED: Final = datetime.fromisoformat(edgeslm.RELEASED).replace(tzinfo=UTC).timestamp()


class RealParts:
    """Implements `edgeslm.agent.parts.Parts` on this machine.

    Args:
        path: the settings file, read again at `reload`.
        settings: what it says now.

    Raises:
        FolderUnavailableError: a directory, or a file in it, cannot be made or written.
        AlreadyRunningError: see there.
    """

    def __init__(self, path: Path, settings: AgentSettings) -> None:
        self._path = path
        self._device = settings.device_id
        self._state_dir = settings.state_dir
        self._lessons = settings.state_dir / LESSONS
        self._runtime_dir = settings.runtime_dir
        for folder in (self._state_dir, self._runtime_dir):
            make_folder(folder)
        self._held = hold((self._state_dir, self._runtime_dir))
        remove_unfinished(self._state_dir / VERDICTS)
        self.clock = DeviceClock(earliest=_RELEASED)
        self.outbox = SqliteOutbox(
            self._state_dir / OUTBOX,
            max_rows=settings.outbox.max_results,
            max_bytes=settings.outbox.max_mb * 2**20,
        )
        self.set_aside = self.outbox.set_aside
        self.notifier = Notifier.from_environment()
        self._profile = settings.profile
        profile = _profile(settings.profile)
        self.profile = None if profile is None else profile.name
        self.limits = PressureLimits() if profile is None else profile.pressure
        self.flash = FlashBudget() if profile is None else profile.flash
        self.crashes = Crashes(self._state_dir, self._runtime_dir)
        self._update = settings.update
        broker = settings.input_broker
        session = f"{settings.device_id}@{broker.host}:{broker.effective_port}"
        self._all_filters = self._read_filters()
        self._filters = self._all_filters.setdefault(session, {})

    def load(  # noqa: PLR0913 -- by name
        self,
        name: str,
        source: Source,
        *,
        cache_entries: int,
        known: str | None,
        anew: bool,
        make_room: Callable[[str], None],
    ) -> Model | None:
        """Return the model in a bundle, verified and tried; None if its hash is `known`.

        Raises:
            EdgeSLMError: see `edgeslm.runtime.model.load_model`.
        """
        if known is not None:
            opened = open_bundle(source.path, verify=False, expected=source.hash)
            if opened.hash == known:
                return None
        profile = load_profile(self._profile) if self._profile else None
        side_by_side = profile is None or profile.trial.side_by_side
        model = load_model(
            source.path,
            profile=profile,
            cache_entries=cache_entries,
            verdict_dir=self._state_dir / VERDICTS,
            anew=anew,
            expected=source.hash,
            make_room=None if side_by_side else make_room,
        )
        log.info("bundle_loaded", model=name, hash=model.ref["hash"], provider=model.provider)
        return model

    def uplink(self, settings: AgentSettings, sink: Sink, will: Parcel) -> Transport[Parcel]:
        """Return the link that results leave by.

        Its session is clean: it subscribes to nothing, and what it has in flight is sent again
        by us.
        """
        config = LinkConfig(
            client_id=settings.device_id,
            broker=settings.uplink,
            window=WINDOW,
            will=(will.topic, will.payload),
        )
        return MqttLink(config, sink)

    def feedback(self, settings: AgentSettings, sink: Sink) -> Transport[Parcel]:
        """Return the link that feedback comes by, whose session the broker keeps."""
        config = LinkConfig(
            client_id=f"{settings.device_id}-feedback",
            broker=settings.uplink,
            session_expiry_s=settings.uplink.session_expiry_s,
            receive_maximum=FEEDBACKS,
            max_packet_bytes=2 * MAX_FEEDBACK_BYTES,
        )
        return MqttLink(config, sink)

    def lessons(self, settings: FeedbackSettings, *, make: bool) -> LessonLog | None:
        """Return what was taught; None: nothing was yet, and none is to be made.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        if not make and not self._lessons.exists():
            return None
        max_bytes = settings.max_mb * 2**20
        return LessonLog(self._lessons, max_lessons=settings.max_lessons, max_bytes=max_bytes)

    def input(self, settings: AgentSettings, model: str, sink: Sink) -> Transport[Parcel]:
        """Return the link of a model's input session, which the broker keeps."""
        broker = settings.input_broker
        if model in settings.models:
            maximum = settings.models[model].receive_maximum
        else:  # it left a session behind, which is to end
            maximum = ModelSettings().receive_maximum
        config = LinkConfig(
            client_id=f"{settings.device_id}-in-{model}",
            broker=broker,
            session_expiry_s=broker.session_expiry_s,
            receive_maximum=maximum,
            held=frozenset(self._filters.get(model, [])),
        )
        return MqttLink(config, sink)

    def ring(self, model: str, *, unacknowledged: int) -> Ring:
        """Return the ring of a model's input session."""
        path = self._runtime_dir / f"ids-{model}.ring"
        return Ring(path, unacknowledged=unacknowledged)

    def held(self, model: str, filters: frozenset[str]) -> None:
        """Remember which filters the broker holds for a model's input session."""
        if self._filters.get(model) == sorted(filters):
            return
        self._filters[model] = sorted(filters)
        self._save_filters()

    def remembered(self) -> list[str]:
        """Models with a session that this broker may keep."""
        return list(self._filters)

    def retained(self, model: str) -> Retained:
        """Return what is known of the retained inputs that a model has answered."""
        return Retained(self._retained_file(model))

    def forget(self, model: str) -> None:
        """Forget what is remembered of a model: it is gone."""
        if self._filters.pop(model, None) is not None:
            self._save_filters()
        with contextlib.suppress(OSError):
            self._retained_file(model).unlink(missing_ok=True)

    def _retained_file(self, model: str) -> Path:
        """Named for the device too: under another id it has answered nothing yet."""
        return self._state_dir / RETAINED.format(device=self._device, model=model)

    def _save_filters(self) -> None:
        try:
            write_durably(self._state_dir / FILTERS, json.dumps(self._all_filters).encode())
        except OSError as err:
            log.warning("filters_not_saved", reason=str(err))

    def shelf(self) -> Shelf | None:
        """Return the updater's slots; None where there is no updater."""
        if self._update is None:
            return None
        from edgeslm.agent.shelf import Shelf  # noqa: PLC0415 -- others do without it

        return Shelf(self._update.dir)

    def control(
        self, settings: AgentSettings, sink: LineSink, room: Callable[[], bool]
    ) -> LineServer:
        """Return the socket that the updater orders by.

        Raises:
            SocketUnavailableError: it cannot be made.
        """
        from edgeslm.adapters.unix_socket import LineServer  # noqa: PLC0415 -- as above
        from edgeslm.agent.intake import BUSY  # noqa: PLC0415 -- as above
        from edgeslm.contract.control import MAX_LINE_BYTES  # noqa: PLC0415 -- as above

        user = None if settings.update is None else settings.update.user
        return LineServer(
            self._runtime_dir / CONTROL,
            uids=_heard(user),
            max_bytes=MAX_LINE_BYTES,
            busy=BUSY,
            sink=sink,
            room=room,
        )

    def gauge(self, sink: Callable[[Reading], None]) -> Callable[[], None]:
        """Begin to read how hard the device is pressed; return what ends it."""
        return Gauge(sink).stop

    def discovery(self) -> Discovery:
        """Return what the broker retains for Home Assistant."""
        return Discovery(self._state_dir / DISCOVERY)

    def reload(self) -> AgentSettings:
        """Return the settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """
        return load_settings(self._path)

    def _read_filters(self) -> dict[str, dict[str, list[str]]]:
        """What `held` wrote, by device and broker, then model; nothing where it is unreadable.

        It serves to give filters up, never to leave one out: the broker is asked for all.
        """
        try:
            found = json.loads((self._state_dir / FILTERS).read_bytes())
            return {
                str(session): {str(m): [str(f) for f in filters] for m, filters in held.items()}
                for session, held in found.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as err:
            log.warning("filters_not_read", reason=str(err))
            return {}


def _profile(profile: str | None) -> DeviceProfile | None:
    """Return a profile; where it cannot be read, each model says why."""
    try:
        return load_profile(profile) if profile else None
    except ProfileError:
        return None


def _heard(user: str | None) -> frozenset[int]:
    """Users whose processes may order this agent about: root, our own, and the updater's."""
    uids = {0, os.geteuid()}
    if user is not None:
        try:
            uids.add(pwd.getpwnam(user).pw_uid)
        except KeyError:
            log.warning("updater_unknown", user=user)
    return frozenset(uids)
