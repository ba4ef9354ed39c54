// What makes pages live. Without it they are whole, and as they were when they were asked for.
"use strict";

(() => {
  // Make `old` like `fresh` in as few steps as it takes: focus, open details and what is being
  // typed stay. Children that have an id keep their node, so that nothing slides from under a hand.
  // `form.id` may be a field of that name.
  const idOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("id") : null);
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
    const typing = old === document.activeElement && "value" in old;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    if (typing) return;
    const named = new Map([...old.children].filter(idOf).map((e) => [idOf(e), e]));
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const id = idOf(wanted);
      const kept = id ? named.get(id) : undefined;
      if (kept !== undefined) {
        if (kept !== at) old.insertBefore(kept, at);
        at = kept.nextSibling;
        morph(kept, wanted);
      } else if (id || at === null || idOf(at)) {
        old.insertBefore(wanted, at);
      } else {
        const next = at.nextSibling;
        morph(at, wanted);
        at = next;
      }
    }
    while (at !== null) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  // "3 min ago", where the server says only when.
  const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const ago = (element, now) => {
    const past = Math.round((now - Date.parse(element.dateTime)) / 1000);
    if (!element.title) element.title = element.textContent;
    const [size, unit] = UNITS.find(([s]) => Math.abs(past) >= s) || [1, "s"];
    const text = past < 1 && past > -60 ? "now" : `${Math.floor(Math.abs(past) / size)} ${unit}`;
    const words = text === "now" ? text : past < 0 ? `in ${text}` : `${text} ago`;
    if (element.textContent !== words) element.textContent = words;
  };
  const tick = () => {
    const now = Date.now();
    for (const element of document.querySelectorAll("time[data-ago]")) ago(element, now);
  };
  tick();
  setInterval(tick, 1000);

  const sign = document.getElementById("live");
  const url = document.querySelector("main").dataset.live;
  if (!url || !sign) return;
  const say = (on, words) => {
    sign.classList.toggle("on", on);
    sign.textContent = words;
  };
  let source = null;
  let wait_ms = 1000;
  let again = 0;
  const connect = () => {
    if (document.hidden) return;
    source = new EventSource(url);
    source.addEventListener("open", () => {
      wait_ms = 1000;
      say(true, "live");
    });
    source.addEventListener("part", (event) => {
      const { id, html } = JSON.parse(event.data);
      const old = document.getElementById(id);
      const fresh = document.createElement("template");
      fresh.innerHTML = html; // rendered and escaped by the server; scripts in it do not run
      if (old && fresh.content.firstElementChild) morph(old, fresh.content.firstElementChild);
      tick();
    });
    source.addEventListener("bye", () => {
      source.close();
      say(false, "signed out; load the page again");
    });
    source.addEventListener("error", () => {
      source.close();
      say(false, "not live; trying again");
      clearTimeout(again);
      again = setTimeout(connect, wait_ms * (0.5 + Math.random()));
      wait_ms = Math.min(30000, wait_ms * 2);
    });
  };
  connect();
  // A browser allows few connections to one host: pages that nobody sees give theirs back.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(again);
    if (document.hidden) {
      if (source) source.close();
      say(false, "paused");
    } else if (!source || source.readyState === EventSource.CLOSED) {
      connect();
    }
  });
})();
