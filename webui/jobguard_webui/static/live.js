// Keeps the page's marked parts up to date. Without this module every page works the same, only still.
//
// The page asks for itself again, quickly while somebody is looking and slowly while nobody moves, and not at
// all in a hidden tab. A part that holds the focus, an open disclosure or selected text is left alone, so that
// nothing is pulled from under the reader's hands.

const FAST_MS = 2000;
const SLOW_MS = 15000;
const IDLE_AFTER_MS = 120000;
const STORED = "jobguard.paused";

const control = document.querySelector("[data-live-control]");
const notice = document.querySelector("[data-live-notice]");

let paused = read(STORED) === "yes";
let activeAt = Date.now();
let timer = 0;
let failures = 0;

function read(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* private mode: the choice lasts for this page */ }
}

function schedule(delay) {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(refresh, delay);
}

function interval() {
  const calm = Date.now() - activeAt > IDLE_AFTER_MS ? SLOW_MS : FAST_MS;
  return Math.min(calm * 2 ** failures, 30000);
}

async function refresh() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", redirect: "manual" });
    if (answer.type === "opaqueredirect") return location.reload();   // signed out meanwhile
    swap(await answer.text());
    failures = 0;
    tell("");
  } catch {
    failures = Math.min(failures + 1, 4);
    tell("The server does not answer; what you see is from the time shown above.");
  }
  schedule(interval());
}

function swap(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(part.id);
    if (next && next.outerHTML !== part.outerHTML && !inUse(part)) part.replaceWith(document.adoptNode(next));
  }
}

function inUse(part) {
  const selection = getSelection();
  return part.matches(":focus-within")
    || part.querySelector("details[open], dialog[open]") !== null
    || (selection !== null && !selection.isCollapsed && selection.intersectsNode(part));
}

function tell(text) {
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

function show() {
  control.textContent = paused ? "Resume updates" : "Pause updates";
  document.documentElement.toggleAttribute("data-paused", paused);
}

if (control && document.querySelector("[data-live]")) {
  control.hidden = false;
  control.addEventListener("click", () => {
    paused = !paused;
    remember(STORED, paused ? "yes" : "no");
    show();
    schedule(0);
  });
  for (const event of ["pointerdown", "keydown", "focus"]) {
    addEventListener(event, () => { activeAt = Date.now(); }, { passive: true });
  }
  document.addEventListener("visibilitychange", () => schedule(0));
  show();
  schedule(FAST_MS);
}
