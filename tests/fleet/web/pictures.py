"""`python -m tests.fleet.web.pictures`: the pictures of docs/fleet-page.md, taken anew."""

from __future__ import annotations

import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import Engine

from edgeslm.core.rollout import DeviceState
from tests.fleet.web import fleet

IMAGES: Final = Path(__file__).parents[3] / "docs" / "images"
DEVICES: Final = 2000
COLOURS: Final = 96
MAX_BYTES: Final = 100_000
DESK: Final[dict[str, Any]] = {"viewport": {"width": 1200, "height": 800}}
PHONE: Final[dict[str, Any]] = {"viewport": {"width": 390, "height": 760}}
S, F, M, Q = (getattr(DeviceState, n) for n in ("SUCCEEDED", "FAILED", "MOVED", "SILENT"))


def main() -> None:
    """Take all of them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        engine = fleet.opened(Path(folder))
        device, rollout = _world(engine, Path(folder))
        shots = {
            "fleet": ("/", DESK, "light"),
            "device": (f"/devices/{device}", DESK, "light"),
            "rollout": (f"/rollouts/{rollout}", DESK, "dark"),
            "preview": ("", DESK, "light"),
            "model": ("/models/press", DESK, "light"),
            "phone": (f"/rollouts/{rollout}", PHONE, "light"),
        }
        with fleet.served(engine, folder=Path(folder)) as served, sync_playwright() as play:
            args = ["--no-sandbox", "--disable-gpu"]
            browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=args)
            for name, (path, size, scheme) in shots.items():
                _take(browser, served.url, name, path, color_scheme=scheme, **size)
            browser.close()
        engine.dispose()


def _world(engine: Engine, folder: Path) -> tuple[str, int]:
    now = time.time()
    names = fleet.fill(engine, DEVICES, now)
    fleet.add_account(engine, "ada", "operator")
    fleet.live_a_week(engine, names[3], now, drifts=True)
    of = names[:1500]
    states = {0: [S], 1: [S, S, S, S, S, S, M, S, S, F, S, S, S, S, M, S, S, S, Q, S, S, S, M]}
    number = fleet.roll_out(engine, of, now, wave=1, states=states)
    log = ["15 devices moved", "wave 1 decided", "wave 1 has soaked", "135 devices moved"]
    with engine.begin() as conn:
        fleet.move(conn, number, now, wave=1, states={}, log=log)
    for version, accuracy in ((5, 98.4), (4, 97.9)):
        kept = folder / "reports" / fleet.digest(version)
        kept.mkdir(parents=True)
        metrics = {"auroc": accuracy / 100, "f1": accuracy / 101, "false_alarm_share": 0.9}
        quality = {"bundle": fleet.digest(version), "fp32": metrics}
        quality["variants"] = {
            name: {"artifact": {key: value * lost for key, value in metrics.items()}}
            for name, lost in (("cpu-int8-dynamic", 0.998), ("qnn-a16w8", 0.997))
        }
        (kept / "quality.json").write_text(json.dumps(quality))
        (kept / "report.html").write_text("")
    return names[3], number


def _take(browser: Browser, url: str, name: str, path: str, **more: Any) -> None:
    context = browser.new_context(base_url=url, **more)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(fleet.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#devices")
    if path:
        page.goto(path)
        page.wait_for_selector("#live.on") if path != "/models/press" else None
    else:
        page.goto("/rollouts/new?where=tag.site = wels and id ~ *-19*&waves=3, 20%, 100%")
        page.get_by_role("button", name="Preview").click()
    page.wait_for_timeout(1500)
    whole = Image.open(io.BytesIO(page.screenshot()))
    small = whole.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    file = IMAGES / f"fleet-{name}.png"
    small.save(file, optimize=True)
    assert file.stat().st_size < MAX_BYTES, file
    context.close()


if __name__ == "__main__":
    main()
