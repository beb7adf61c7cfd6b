// Keeps a page of the dashboard up to date. Without it, pages show the state of the moment when they were loaded.
//
// The server renders the sections of a page again when they change. This script replaces what is different in them, so that
// focus, selection and open parts stay. Lines of output are inserted as text.

const page = document.body.dataset.page;
const MAX_LINES = 2000;
const RETRY = 3000;

const byId = (id) => document.getElementById(id);

// === Sections ===

/** Makes an element like another one, and keeps the parts that are equal. */
function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  // What a person has opened, typed or chosen stays.
  const kept = { DETAILS: ["open"], INPUT: ["value"], OPTION: ["selected"] }[from.nodeName] ?? [];
  if (from.classList.contains("actions")) return;
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value && !kept.includes(name)) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
  }
  morphChildren(from, to);
}

const keyOf = (node) => node.dataset?.key;

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children) if (keyOf(child) !== undefined) keyed.set(keyOf(child), child);
  let next = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const key = keyOf(wanted);
    let current = key === undefined ? next : keyed.get(key);
    // An element with another key is not made like this one: it may be needed further on.
    if (key === undefined && current && keyOf(current) !== undefined) current = null;
    if (!current) {
      from.insertBefore(wanted, next);
    } else if (current === next) {
      next = next.nextSibling;
      morph(current, wanted);
    } else {
      from.insertBefore(current, next);
      morph(current, wanted);
    }
    keyed.delete(key);
  }
  while (next) {
    const rest = next.nextSibling;
    next.remove();
    next = rest;
  }
}

function replaceSection({ id, html }) {
  const section = byId(id);
  const parsed = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
  if (section && parsed) morph(section, parsed);
}

// === The stream ===

let source;
let last = document.body.dataset.last;
let retry;
let seen = new Date();

function connect() {
  clearTimeout(retry);
  const query = new URLSearchParams({ page });
  if (last) query.set("last", last);
  source = new EventSource(`/ui/events?${query}`);
  const on = (name, act) =>
    source.addEventListener(name, (event) => {
      seen = new Date();
      if (event.lastEventId) last = event.lastEventId;
      act(JSON.parse(event.data));
    });
  on("section", replaceSection);
  on("missing", () => show("This does not exist any more. The page shows its last state."));
  on("log", (line) => log?.add(line));
  on("gap", ({ lines }) => log?.gap(lines));
  source.addEventListener("open", () => show(null));
  source.addEventListener("error", () => {
    show(`The connection to the daemon is lost. This page shows the state of ${seen.toISOString().slice(11, 19)}. Trying again…`);
    if (source.readyState === EventSource.CLOSED) retry = setTimeout(connect, RETRY);
  });
}

function disconnect() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

function show(text) {
  const banner = byId("lost");
  banner.hidden = text === null;
  if (banner.textContent !== (text ?? "")) banner.textContent = text ?? "";
}

const live = byId("live");
const isLive = () => live.getAttribute("aria-pressed") === "true";

// A hidden tab needs no stream, and a browser has six connections to a server.
function follow() {
  if (isLive() && !document.hidden) {
    if (!source) connect();
  } else {
    disconnect();
  }
}

live.addEventListener("click", () => {
  live.setAttribute("aria-pressed", String(!isLive()));
  follow();
});
document.addEventListener("visibilitychange", follow);
addEventListener("pagehide", disconnect);
addEventListener("pageshow", follow);

// === Colours ===

byId("theme").addEventListener("change", ({ target: { value } }) => {
  const root = document.documentElement;
  if (value === "system") delete root.dataset.theme;
  else root.dataset.theme = value;
  document.cookie = `unifaas-theme=${value}; Path=/ui; Max-Age=31536000; SameSite=Strict`;
});

// === Output ===

function logView() {
  const list = byId("lines");
  if (!list) return null;
  const [followBox, pause, search, matches, copy] = ["follow", "pause", "search", "matches", "copy"].map(byId);
  let waiting = [];
  let isPaused = false;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };
  const matching = (item) => item.textContent.toLowerCase().includes(search.value.toLowerCase());
  const scroll = () => {
    if (followBox.checked) list.scrollTop = list.scrollHeight;
  };
  const count = () => {
    const number = [...list.children].filter((item) => !item.hidden).length;
    matches.textContent = search.value ? `${number} of ${list.children.length} lines` : "";
  };
  const append = (item) => {
    if (isPaused) {
      waiting.push(item);
      if (waiting.length > MAX_LINES) waiting.shift();
      pause.textContent = `Go on (${waiting.length} new)`;
      return;
    }
    item.hidden = !matching(item);
    list.append(item);
    while (list.children.length > MAX_LINES) list.firstElementChild.remove();
  };

  // Many lines are laid out once.
  let isScheduled = false;
  const schedule = () => {
    if (isScheduled) return;
    isScheduled = true;
    requestAnimationFrame(() => {
      isScheduled = false;
      if (search.value) count();
      scroll();
    });
  };

  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Go on" : "Pause";
    if (!isPaused) waiting.splice(0).forEach(append);
    schedule();
  });
  followBox.addEventListener("change", scroll);
  // Who scrolls up wants to read.
  list.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && (followBox.checked = false), { passive: true });
  search.addEventListener("input", () => {
    for (const item of list.children) item.hidden = !matching(item);
    count();
  });
  copy.addEventListener("click", async () => {
    const shown = [...list.children].filter((item) => !item.hidden);
    const text = shown.map((item) => item.innerText.replace(/\s+/g, " ")).join("\n");
    const isCopied = await navigator.clipboard.writeText(text).then(() => true, () => false);
    copy.textContent = isCopied ? "Copied" : "Not allowed";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  scroll();

  return {
    add({ time, stream, text }) {
      const item = element("li", stream, "");
      const at = element("time", "", time.slice(11, 19));
      at.dateTime = at.title = time;
      item.append(at, " ", element("span", "stream", stream), " ", element("span", "text", text));
      append(item);
      schedule();
    },
    gap(lines) {
      append(element("li", "gap", `${lines ?? "some"} lines are missing here`));
      schedule();
    },
  };
}

const log = logView();

// === Actions ===

async function act(button) {
  const { post, question } = button.dataset;
  if (question && !confirm(question)) return;
  const status = button.parentElement.querySelector("[role=status]");
  button.disabled = true;
  status.textContent = "…";
  try {
    const response = await fetch(post, { method: "POST", headers: { "X-UniFaaS": "1" } });
    const answer = await response.json();
    status.textContent = response.ok ? "Done." : `${answer.title ?? response.status}: ${answer.detail ?? ""}`;
  } catch {
    status.textContent = "The daemon does not answer.";
  }
  button.disabled = false;
}

document.addEventListener("click", ({ target }) => {
  if (target instanceof Element && target.matches("button[data-post]")) act(target);
});

// === Start ===

document.body.classList.add("scripted");
for (const tools of document.querySelectorAll(".tools[hidden]")) tools.hidden = false;
follow();
