"""The page in a real browser: what people see, and what they can do without a mouse or a desk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from securesystemslib.signer import CryptoSigner

from edgeslm.contract.fleet import Assignment
from edgeslm.core.rollout import DeviceState
from edgeslm.fleet import director
from edgeslm.fleet.database import assignments, registry, rollouts
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.web.render import segment
from tests.fleet.web import fleet
from tests.fleet.web.chromium import MARKS, SLOW_MS, expect, signing_in
from tests.fleet.web.conftest import World
from tests.fleet.web.test_hostile import SHORT, infest

PHONE: Final[dict[str, Any]] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}

pytestmark = MARKS

# What axe would find first, by hand: names, labels, order of headings, doubled ids, contrast.
FAULTS: Final = """() => {
  const faults = [];
  const named = (e) => (e.getAttribute("aria-label") || e.textContent || "").trim()
    || (e.labels && e.labels.length) || document.getElementById(e.getAttribute("aria-labelledby"));
  const fields = "input:not([type=hidden]), select, textarea";
  for (const e of document.querySelectorAll("a, button, [role=img], " + fields))
    if (!named(e)) faults.push("without a name: " + e.outerHTML.slice(0, 80));
  for (const e of document.querySelectorAll(fields))
    if (!e.labels.length && !e.getAttribute("aria-label")) faults.push("no label: " + e.name);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push("id twice: " + id);
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const a of ["aria-labelledby", "aria-describedby"])
      for (const id of (e.getAttribute(a) || "").split(" ").filter(Boolean))
        if (!document.getElementById(id)) faults.push(a + " leads nowhere: " + id);
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  let level = 1;
  for (const e of document.querySelectorAll("h1, h2, h3")) {
    const now = Number(e.nodeName[1]);
    if (now > level + 1) faults.push("heading skips a level: " + e.textContent);
    level = now;
  }
  for (const e of document.querySelectorAll("table"))
    if (!e.querySelector("th[scope]")) faults.push("table without headings");
  if (!document.documentElement.lang) faults.push("no language");
  const light = (c) => {
    const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map((v) => {
      const s = Number(v) / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(c)) return c;
    }
    return "rgb(255, 255, 255)";
  };
  for (const e of document.querySelectorAll("main *, header *")) {
    if (e.closest("svg, .hidden, option, .skip")) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.nodeValue.trim())) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faults.push("contrast " + ratio.toFixed(2) + ": " + e.outerHTML.slice(0, 100));
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) faults.push(`${scrollWidth} wide in ${clientWidth}`);
  return faults;
}"""


# What is cut off: by the screen, or by the card that it is in; but what scrolls on purpose.
CUT: Final = """() => {
  const scrolls = (e) => {
    for (let up = e.parentElement; up; up = up.parentElement)
      if (/auto|scroll/.test(getComputedStyle(up).overflowX)) return up;
  };
  const faults = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".hidden, .skip, .stack thead") || (e.closest("svg") && e.nodeName !== "svg"))
      continue;
    const box = e.getBoundingClientRect(), within = scrolls(e);
    if (!box.width || (within && !within.querySelector(":scope > .stack"))) continue;
    const card = e.parentElement.closest(".card");
    const right = Math.min(innerWidth, card ? card.getBoundingClientRect().right : innerWidth);
    if (box.right > right + 0.5 || box.left < -0.5)
      faults.push(`${Math.round(box.right)} in ${Math.round(right)}: ` + e.outerHTML.slice(0, 100));
  }
  return faults;
}"""


@pytest.fixture
def opened(browser: Any, world: World) -> Iterator[Callable[..., Any]]:
    """Return what opens a page, signed in; whatever the browser complains of fails the test."""
    with signing_in(browser, world.served.url) as open_:
        yield open_


def pages(world: World) -> list[str]:
    """Return the addresses of all kinds of pages."""
    return [
        *(
            "/",
            "/?q=online+%3D%3D+true",
            f"/devices/{world.names[0]}",
            "/rollouts",
            "/rollouts/new",
        ),
        *(f"/rollouts/{world.rollout}", f"/rollouts/{world.rollout}/abort", "/models"),
        *("/models/press", "/evidence", "/audit", "/account", "/nowhere"),
    ]


def test_a_roll_out_is_watched_as_it_passes(world: World, opened: Callable[..., Any]) -> None:
    page = opened("vic")
    page.goto(f"/rollouts/{world.rollout}")
    expect(page.locator("#live")).to_have_text("live", timeout=SLOW_MS)
    expect(page.locator("#w-1")).to_contain_text("0 of 1 decided")
    done = [DeviceState.SUCCEEDED]
    for wave, total in ((0, 1), (1, 1), (2, 18)):
        with world.engine.begin() as conn:
            fleet.move(conn, world.rollout, time.time(), wave=wave, states={wave: done},
                       log=[f"wave {wave + 1} decided: all succeeded"])  # fmt: skip
        expect(page.locator(f"#w-{wave + 1}")).to_contain_text(
            f"{total} of {total} decided", timeout=SLOW_MS
        )
    with world.engine.begin() as conn:
        fleet.move(conn, world.rollout, time.time(), wave=2, states={}, state="completed")
    expect(page.get_by_role("status")).to_contain_text("completed", timeout=SLOW_MS)
    expect(page.locator("#log")).to_contain_text("wave 3 decided: all succeeded")
    expect(page.locator("#waves svg.bar").last).to_have_attribute(
        "aria-label", "Wave 3: 18 succeeded"
    )


def test_a_roll_out_is_aborted_and_only_after_it_was_meant(
    world: World, opened: Callable[..., Any]
) -> None:
    page = opened("ada")
    page.goto(f"/rollouts/{world.rollout}")
    page.get_by_role("link", name="Abort").click()
    expect(page.get_by_role("heading", name="Abort roll-out")).to_be_visible()
    page.get_by_role("link", name="Leave it as it is").click()
    with reading(world.engine) as conn:
        assert rollouts.rollout(conn, world.rollout).asked is None
    page.get_by_role("link", name="Abort").click()
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_text("ada asks to abort")).to_be_visible()
    with world.engine.begin() as conn:
        assert rollouts.rollout(conn, world.rollout).asked == "abort"
        fleet.move(conn, world.rollout, time.time(), wave=1, states={}, state="taking_back")
    expect(page.get_by_role("status").last).to_contain_text("taking back", timeout=SLOW_MS)
    expect(page.get_by_role("link", name="Abort")).to_have_count(0, timeout=SLOW_MS)


def test_an_alarm_arrives_and_is_judged(world: World, opened: Callable[..., Any]) -> None:
    page, device = opened("ada"), world.names[5]
    page.goto(f"/devices/{device}")
    expect(page.locator("#live")).to_have_text("live", timeout=SLOW_MS)
    expect(page.locator("#evidence")).to_contain_text("None yet")
    with world.engine.begin() as conn:
        fleet.alarm(conn, device, time.time(), text="pressure 9.99 bar")
    expect(page.locator("#evidence")).to_contain_text("pressure 9.99 bar", timeout=SLOW_MS)
    page.get_by_role("button", name="False alarm").click()
    expect(page.locator("#evidence")).to_contain_text("by ada", timeout=SLOW_MS)


def test_what_arrives_slides_nothing_from_under_a_hand(
    world: World, opened: Callable[..., Any]
) -> None:
    page = opened("ada")
    page.goto(f"/devices/{world.names[0]}")
    expect(page.locator("#live")).to_have_text("live", timeout=SLOW_MS)
    button = page.get_by_role("button", name="Real alarm").nth(3)
    button.focus()
    mine = page.evaluate("document.activeElement.closest('tr').id")
    page.get_by_label("Key").fill("being-typed")
    button.focus()
    with world.engine.begin() as conn:
        fleet.alarm(conn, world.names[0], time.time() + 1, text="the newest")
    expect(page.locator("#evidence")).to_contain_text("the newest", timeout=SLOW_MS)
    assert page.evaluate("document.activeElement.closest('tr').id") == mine
    assert page.get_by_label("Key").input_value() == "being-typed"


def test_all_of_it_is_done_by_the_keyboard(world: World, opened: Callable[..., Any]) -> None:
    page = opened("ada")
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"

    def tab_to(words: str) -> None:
        for _ in range(120):
            page.keyboard.press("Tab")
            name = page.evaluate(
                "(e => e.getAttribute('aria-label') || e.textContent)(document.activeElement)"
            )
            if words in str(name):
                shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert shown != "none", f"{words}: its focus is not seen"
                return
        pytest.fail(f"the keyboard does not reach {words}")

    tab_to("Heard")
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=heard_at**")
    page.locator("#q").focus()
    page.keyboard.type(f"id = {world.names[40]}")
    page.keyboard.press("Enter")
    expect(page.locator("#devices tbody tr")).to_have_count(1)
    page.goto(f"/rollouts/new?where=id = {world.names[40]}")
    tab_to("Preview")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="press 5 to 1 device")).to_be_visible()
    tab_to("Start roll-out")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Roll-out 2: press 5")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desk", "phone"])
def test_every_page_is_for_everybody(
    world: World, opened: Callable[..., Any], scheme: str, size: dict[str, Any]
) -> None:
    page = opened("ada", color_scheme=scheme, **size)
    for path in pages(world):
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        assert page.evaluate(FAULTS) == [], path
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 26)"
    assert dark == (scheme == "dark")


def test_on_a_phone_nothing_is_cut_off(world: World, opened: Callable[..., Any]) -> None:
    now, device = time.time(), world.names[0]
    with world.engine.begin() as conn:
        update: dict[str, Any] = {
            "updater_version": "0.6.0",
            "phase": "fetching",
            "waiting": "its hours",
        }
        update |= {
            "model": "press",
            "version": 5,
            "done_bytes": 12_300_000,
            "total_bytes": 4 * 10**7,
        }
        registry.heard(conn, fleet.said(device, now, update=update))
        asked = Assignment(
            schema=1, device=device, seq=123, issued=now, expires=now + 9e6, models={}
        )
        signed = director.sign([CryptoSigner.generate_ed25519()], asked)
        kept = assignments.Stored(device, 123, now, now + 9e6, signed, now)
        assignments.put(conn, [kept])
    hostile, _ = infest(world)
    page = opened("ada", **PHONE)
    for path in [*pages(world), f"/devices/{segment(hostile)}", f"/models/{segment(SHORT)}"]:
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        assert page.evaluate(CUT) == [], path
    page.goto(f"/rollouts/{world.rollout}")
    widths = "[...document.querySelectorAll('#waves .bar')].map((e) => e.clientWidth)"
    assert len(set(page.evaluate(widths))) == 1
    # All of the navigation is seen, without scrolling.
    expect(page.get_by_role("link", name="Audit log")).to_be_in_viewport(ratio=1)


def test_without_javascript_all_but_liveness_is_there(
    world: World, opened: Callable[..., Any]
) -> None:
    page = opened("ada", java_script_enabled=False)
    page.goto(f"/devices/{world.names[0]}")
    page.get_by_role("button", name="False alarm").first.click()
    expect(page.locator("#evidence")).to_contain_text("by ada")
    page.goto(f"/rollouts/{world.rollout}/pause")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("ada asks to pause")).to_be_visible()


def test_a_hostile_device_runs_nothing_in_the_browser(
    world: World, opened: Callable[..., Any]
) -> None:
    device, number = infest(world)
    page = opened("ada")
    for path in (f"/devices/{segment(device)}", f"/rollouts/{number}", "/", "/evidence", "/audit"):
        page.goto(path)
        page.wait_for_timeout(1000)  # parts come live, too
        assert page.evaluate("window.pwned") is None, path
        assert page.evaluate("document.querySelectorAll('img, svg[onload]').length") == 0, path


def test_a_page_says_when_it_is_live_no_more(world: World, opened: Callable[..., Any]) -> None:
    page = opened("vic")
    page.goto("/")
    expect(page.locator("#live")).to_have_text("live", timeout=SLOW_MS)
    world.clock.ahead_s = 9 * 3600.0
    expect(page.locator("#live")).to_contain_text("signed out", timeout=SLOW_MS)
