"use strict";
// What a page can't do by itself: copying, following a session, telling how high frames are.
// Everything works without it but those.
(() => {
  const $ = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  // -- times, as the reader's clock has them
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const when = new Date(time.dateTime);
      if (!isNaN(when)) {
        time.textContent = when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
      }
    }
  };
  localTimes(document);

  // -- copying
  const copied = async (text) => {
    if (navigator.clipboard && window.isSecureContext) {
      try {
        await navigator.clipboard.writeText(text);
        return true;
      } catch {
        // not allowed: the older way may be
      }
    }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy, #copy-all");
    if (!button) return;
    const said = button.textContent;
    const codes = button.id === "copy-all" ? document.querySelectorAll("pre.code") : [$(button.dataset.copy)];
    const texts = Array.from(codes, (code) => (code.value ?? code.textContent).replace(/\n$/, ""));
    button.textContent = (await copied(texts.join("\n\n") + (texts.length > 1 ? "\n" : "")))
      ? "Copied"
      : "Press Ctrl+C";
    button.focus();
    setTimeout(() => (button.textContent = said), 1500);
  });

  // -- frames: whoever speaks is believed no more than a height within bounds
  const heights = new WeakMap();
  window.addEventListener("message", ({ source, data }) => {
    const asked = data && Number(data.rmiHeight);
    if (!source || !Number.isFinite(asked)) return;
    for (const frame of document.querySelectorAll(".output iframe")) {
      if (frame.contentWindow !== source) continue;
      const times = heights.get(frame) ?? 0;
      const most = frame.dataset.whole === undefined ? 3000 : 20000;
      const height = Math.min(Math.max(Math.round(asked), 24), most);
      // A page that grows with its frame would never end.
      if (times > 30 || Math.abs(frame.clientHeight - height) < 3) return;
      heights.set(frame, times + 1);
      frame.height = height;
      return;
    }
  });

  // -- boxes that scroll can be reached by the keyboard; only what is near is measured, the rest
  // is guessed from its text, since a measure would have to lay it all out
  const near = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      for (const box of target.querySelectorAll("pre")) {
        const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
        if (scrolls) box.tabIndex = 0;
        else box.removeAttribute("tabindex");
      }
    }
  }, { rootMargin: "200px" });
  for (const cell of document.querySelectorAll(".cell")) near.observe(cell);
  const guessed = Array.from(document.querySelectorAll("pre"));
  const guess = (deadline) => {
    while (guessed.length && deadline.timeRemaining() > 1) {
      const box = guessed.pop();
      const lines = box.textContent.split("\n");
      const wide = box.classList.contains("code") && lines.some((text) => text.length * 7 > innerWidth - 60);
      if (wide || (!box.classList.contains("code") && lines.length > 30)) box.tabIndex = 0;
    }
    if (guessed.length) requestIdleCallback(guess);
  };
  window.requestIdleCallback?.(guess);

  // -- the list, while somebody views it
  const list = $("list");
  const renew = async () => {
    if (!document.hidden && !list.contains(document.activeElement)) {
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("list");
        if (answer.ok && fresh && fresh.innerHTML !== list.dataset.html) {
          list.dataset.html = fresh.innerHTML;
          list.replaceChildren(...fresh.childNodes);
          localTimes(list);
        }
      } catch {
        // the server is away: the list stays as it was
      }
    }
    setTimeout(renew, 3000);
  };
  if (list) setTimeout(renew, 3000);

  // -- colours that there was no time for
  const cells = $("cells");
  const colour = async () => {
    const answer = await fetch(`${cells.dataset.base}/live?seen=`, { cache: "no-store" });
    const fresh = answer.ok ? (await answer.json()).cells : [];
    const some = (deadline) => {
      while (fresh.length && deadline.timeRemaining() > 2) {
        const holder = document.createElement("template");
        holder.innerHTML = fresh.shift();
        const code = holder.content.querySelector("pre.code");
        const plain = code && $(code.id);
        if (plain?.dataset.plain === undefined || plain.textContent !== code.textContent) continue;
        plain.replaceChildren(...code.childNodes);
        delete plain.dataset.plain;
      }
      if (fresh.length) requestIdleCallback(some);
    };
    requestIdleCallback(some);
  };
  if (cells?.querySelector("[data-plain]") && window.requestIdleCallback) colour().catch(() => {});

  // -- following
  if (!cells || cells.dataset.follow === undefined) return;
  const { base } = cells.dataset;
  let seen = cells.dataset.follow;
  let failures = 0;
  let lastTold = 0;
  const announce = (text) => {
    if (Date.now() - lastTold < 4000 && !/ended|finished/.test(text)) return;
    lastTold = Date.now();
    $("announcement").textContent = text;
  };

  const put = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const fresh = holder.content.firstElementChild;
    const old = $(fresh.id);
    if (!old) {
      cells.append(fresh);
      near.observe(fresh);
      return fresh;
    }
    if (old.dataset.version === fresh.dataset.version) return old;
    // What has not changed stays: a frame that is moved loads again.
    const before = old.querySelector(":scope > .outputs");
    const after = fresh.querySelector(":scope > .outputs");
    if (before && after) {
      const kept = new Map();
      for (const output of before.children) kept.set(output.dataset.version, output);
      let place = before.firstElementChild;
      for (const output of Array.from(after.children)) {
        const same = output.dataset.version && kept.get(output.dataset.version);
        if (same && same === place) place = place.nextElementSibling;
        else before.insertBefore(same ?? output, place);
      }
      while (place) {
        const next = place.nextElementSibling;
        place.remove();
        place = next;
      }
    } else if (after) old.append(after);
    else if (before) before.remove();
    old.className = fresh.className;
    old.dataset.version = fresh.dataset.version;
    old.querySelector(":scope > header").replaceWith(fresh.querySelector(":scope > header"));
    near.unobserve(old);
    near.observe(old);
    return old;
  };

  const line = (cell) => {
    const texts = cell.querySelectorAll(".output.text pre");
    const lines = texts.length ? texts[texts.length - 1].textContent.trimEnd().split("\n") : [];
    return (lines.pop() ?? "").slice(0, 120);
  };

  const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
  const toEnd = () => scrollTo({ top: document.documentElement.scrollHeight });
  const button = $("to-end");
  button.addEventListener("click", () => {
    toEnd();
    button.hidden = true;
    cells.lastElementChild?.querySelector("h2 a")?.focus({ preventScroll: true });
  });
  addEventListener("scroll", () => { if (atEnd()) button.hidden = true; }, { passive: true });

  const take = (update) => {
    const follows = atEnd();
    let last = null;
    for (const html of update.cells) last = put(html);
    for (const cell of Array.from(cells.children)) {
      if (Number(cell.id.slice(5)) > update.total) cell.remove();
    }
    if ($("summary").dataset.html !== update.summary) {
      $("summary").innerHTML = $("summary").dataset.html = update.summary;
      localTimes($("summary"));
    }
    seen = update.seen;
    if (last) {
      const name = last.querySelector("h2").textContent;
      const status = last.querySelector(".badge")?.lastChild.textContent.trim() ?? "";
      const running = last.classList.contains("running");
      announce(running ? `${name}: ${line(last) || "running"}` : `${name} finished: ${status}. ${line(last)}`);
      if (follows) toEnd();
      else button.hidden = false;
    }
    if (!update.live) announce("The session has ended.");
    return update.live;
  };

  const look = async () => {
    if (document.hidden) return;
    let live = true;
    try {
      const answer = await fetch(`${base}/live?seen=${encodeURIComponent(seen)}`, { cache: "no-store" });
      if (answer.status === 401 || answer.status === 404) {
        $("connection").textContent = "This page can't be updated any more. Reload it to see why.";
        return;
      }
      if (!answer.ok && answer.status !== 204) throw new Error(answer.statusText);
      if (answer.status === 200) live = take(await answer.json());
      failures = 0;
      $("connection").textContent = "";
    } catch {
      failures += 1;
      if (failures > 1) $("connection").textContent = "Connection lost, trying again …";
    }
    if (live) timer = setTimeout(look, Math.min(1000 * 2 ** failures, 15000));
  };
  let timer = setTimeout(look, 1000);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
})();
