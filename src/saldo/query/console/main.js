// The page: its places, its language, its token, and whether Saldo can be reached.

import { accountView } from "./account.js";
import { accountsPanel } from "./accounts.js";
import { hasToken, poll, setToken, Unreachable, whileSeen } from "./api.js";
import { el, put } from "./dom.js";
import { systemView } from "./system.js";
import { choose, has, languageNow, LANGUAGES, t } from "./text.js";

const AGAIN_MS = 1000;

const content = document.getElementById("content");
const banner = document.getElementById("banner");
const dialog = document.getElementById("token-dialog");
let panel = null;
let view = null;
let stopTrying = null;

const app = { failed, health, seen: (balance) => panel?.seen(balance) };

function placeOf(hash) {
  const account = /^#\/accounts\/([^/]+)$/.exec(hash);
  if (account) {
    try {
      return { name: "account", accountId: decodeURIComponent(account[1]) };
    } catch {
      return { name: "accounts" };
    }
  }
  return { name: hash === "#/system" ? "system" : "accounts" };
}

/** Build the whole page anew: at the start, for another language, with another token. */
function build() {
  document.documentElement.lang = languageNow() === "pt" ? "pt-BR" : "en";
  document.getElementById("skip").textContent = t("skip");
  document.getElementById("places").setAttribute("aria-label", t("places"));
  put(document.getElementById("tools"),
    el("label", { class: "language" }, el("span", { class: "unseen" }, t("language")),
      el("select", { id: "language", onchange: (event) => { choose(event.target.value); build(); document.getElementById("language").focus(); } },
        Object.entries(LANGUAGES).map(([name, { name: shown }]) =>
          el("option", { value: name, selected: name === languageNow(), lang: name }, shown)))),
    el("button", { type: "button", class: "quiet", id: "token", onclick: () => askToken(null) }, t("token")));
  panel = accountsPanel(app);
  go();
  keepTrying(() => panel.load());
}

/** Show the place that the address names. */
function go() {
  const place = placeOf(location.hash);
  view?.stop();
  view = null;
  health(null);
  const link = (hash, name, here) => el("a", { href: hash, "aria-current": here ? "page" : null }, t(name));
  put(document.getElementById("places"),
    link("#/", "accounts", place.name !== "system"), link("#/system", "system", place.name === "system"));
  content.dataset.place = place.name;
  document.title = { account: place.accountId, system: t("system") }[place.name] ?? t("accounts");
  document.title += " · Saldo";
  panel.select(place.accountId ?? null);
  if (place.name === "system") {
    view = systemView(app);
    put(content, view.element);
    view.load();
    return;
  }
  if (place.name === "account") {
    const opened = accountView(place.accountId, app);
    view = opened;
    put(content, panel.element, opened.element);
    tryView(opened);
    return;
  }
  put(content, panel.element, el("div", { class: "choose" },
    el("p", { class: "lead" }, t("choose")), el("p", { class: "faint" }, t("choose-hint"))));
}

function tryView(opened) {
  const stop = whileSeen((signal) => poll(async () => {
    const done = opened !== view || (await opened.load());
    if (done) stop();
    return done;
  }, AGAIN_MS, signal));
}

/** Load until it went well. */
function keepTrying(load) {
  stopTrying?.();
  const stop = whileSeen((signal) => poll(async () => {
    const went = await load();
    if (went) stop();
    return went;
  }, AGAIN_MS, signal));
  stopTrying = stop;
}

/** What cannot be reached is said above all; null takes it back. */
function health(error) {
  if (error === null) {
    if (banner.dataset.kind === "health") tell(null);
    return;
  }
  const key = error instanceof Unreachable ? "down" : has(error.type) ? error.type : null;
  tell("health", el("strong", {}, key === null ? error.message : t(key)), " ", t("retrying"));
}

function tell(kind, ...children) {
  const text = children.map((each) => each.textContent ?? each).join("");
  if (banner.dataset.kind === kind && banner.textContent === text) return; // said already
  put(banner, ...children);
  if (kind === null) delete banner.dataset.kind;
  else banner.dataset.kind = kind;
}

/** `what` is what was asked for: "accounts", "system" or "write". */
function failed(error, what) {
  if (error.status === 401) {
    stopTrying?.();
    askToken(hasToken() ? t("token-refused") : null);
  } else if (error.status === 403) {
    stopTrying?.();
    tell("forbidden", el("strong", {}, t(`forbidden-${what}`)), " ",
      el("button", { type: "button", class: "quiet", onclick: () => askToken(null) }, t("other-token")));
  } else if (error instanceof Unreachable || error.passes) {
    health(error);
  } else {
    tell("health", el("strong", {}, error.message ?? t("cannot-load")));
  }
}

function askToken(why) {
  if (dialog.open) {
    if (why !== null) dialog.querySelector(".fault").textContent = why;
    return;
  }
  const fault = el("p", { class: "fault", id: "token-fault", role: "alert" }, why ?? "");
  const field = el("input", { id: "token-field", type: "password", autocomplete: "off", spellcheck: "false",
    "aria-describedby": "token-fault token-why" });
  const use = (event) => {
    event.preventDefault();
    const text = field.value.trim().replace(/^Bearer\s+/i, "");
    const wrong = text === "" ? "token-empty" : /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text) ? null : "token-shape";
    if (wrong !== null) {
      fault.textContent = t(wrong);
      field.focus();
      return;
    }
    setToken(text);
    dialog.close();
    tell(null);
    build();
  };
  const forget = () => {
    setToken(null);
    dialog.close();
    build();
  };
  put(dialog, el("form", { onsubmit: use },
    el("h2", { id: "token-title" }, t("token-title")), el("p", { class: "faint", id: "token-why" }, t("token-why")),
    el("label", { for: "token-field" }, t("token-label")), field, fault,
    el("div", { class: "actions" },
      hasToken() ? el("button", { type: "button", class: "quiet", onclick: forget }, t("token-forget")) : null,
      el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      el("button", { type: "submit", class: "primary" }, t("token-use")))));
  dialog.showModal();
  field.focus();
}

window.addEventListener("hashchange", () => {
  if (banner.dataset.kind === "forbidden") tell(null);
  go();
  window.scrollTo(0, 0);
  content.focus({ preventScroll: true });
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names a place
  content.focus();
});
build();
