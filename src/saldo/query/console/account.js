// One account: its balance, live, its history, its statement, and what is recorded in it.

import { get, poll, stream, Unreachable, whileSeen } from "./api.js";
import { chartPanel } from "./chart.js";
import { announce, el, put } from "./dom.js";
import { money } from "./money.js";
import { recordPanel } from "./record.js";
import { statementPanel } from "./statement.js";
import { locale, moment, number, t } from "./text.js";
import { verifyPanel } from "./verify.js";

const DAYS = 1500;
const LOOK_MS = 5000; // how often it is asked whether the balance lags: the stream tells only of changes
const REFRESH_MS = 400; // of many changes in a row, the chart and the statement show the last one

/** `app`: `failed(error, what)`, `health(error | null)`, `seen(balance)`. */
export function accountView(accountId, app) {
  const held = new Map();
  let balance = null;
  let tag = ""; // of the state that is shown
  let end = 0; // the last position that is known to be recorded
  let refresh = null;
  let stopStream = null;
  let stopped = false;

  const pill = el("span", { class: "pill", "data-state": "connecting" }, t("connecting"));
  const behind = el("span", { class: "pill behind", title: t("behind-hint") });
  const amount = el("p", { class: "balance", id: "balance" }, "\u00a0");
  const facts = el("p", { class: "faint", id: "balance-facts" }, t("loading"));
  const notice = el("div", { class: "notice" });
  const verify = verifyPanel(accountId, held, app);
  const chart = chartPanel();
  const statement = statementPanel(accountId, held, app);
  const form = recordPanel(accountId, () => balance?.currency ?? null, { ...app, recorded });
  behind.hidden = verify.element.hidden = true;

  const element = el("article", { class: "account", "aria-labelledby": "account-title" },
    el("a", { class: "back", href: "#/" }, `← ${t("back")}`),
    el("section", { class: "card hero", "aria-labelledby": "account-title" },
      el("div", { class: "head" }, el("h1", { id: "account-title" }, accountId), el("span", { class: "pills" }, behind, pill)),
      el("p", { class: "unseen" }, t("balance")), amount, facts, notice, verify.element),
    el("div", { class: "columns" },
      el("div", { class: "narrow" }, form.element),
      el("div", { class: "wide" }, chart.element, statement.element)));
  chart.element.hidden = statement.element.hidden = true;

  function show(told, told_tag, told_behind = null) {
    const before = balance;
    balance = told;
    tag = told_tag;
    const position = Number(told.position);
    if (before !== null && position < Number(before.position)) end = position; // a restored store
    end = told_behind === null ? Math.max(end, position) : Math.max(end, position + told_behind);
    held.set(position, told.hash);
    const text = money(told.value, told.currency, locale());
    delete element.dataset.state;
    amount.hidden = false;
    amount.textContent = text;
    amount.dataset.position = position;
    put(facts, t("at-position", { n: number(position) }),
      told.recordedAt === null ? "" : ` · ${t("as-recorded", { when: moment(told.recordedAt) })}`);
    if (before !== null && before.value !== told.value) {
      amount.classList.remove("changed");
      void amount.offsetWidth; // the animation begins anew
      amount.classList.add("changed");
      announce(`${t("balance")} ${text}`);
    }
    put(notice, told.blocked === undefined ? null :
      el("p", { class: "bad" }, t("blocked", { when: moment(told.blocked.since) })));
    showBehind();
    form.reached(position);
    if (before === null) form.validate();
    verify.element.hidden = false;
    app.seen(told);
  }

  function showBehind() {
    const n = end - Number(balance?.position ?? 0);
    behind.hidden = n <= 0;
    behind.textContent = t("behind", { n: number(n) });
  }

  function later() {
    if (refresh === null) {
      refresh = setTimeout(async () => {
        refresh = null;
        chart.element.hidden = statement.element.hidden = false;
        await Promise.all([showDays(), statement.update()]);
      }, REFRESH_MS);
    }
  }

  /** Whether events are recorded that the balance lacks. The stream says whether all can be reached. */
  async function look(signal) {
    try {
      const told = await get("balances", { accountId }, signal);
      end = Math.max(end, Number(told.body.position) + told.behind);
      showBehind();
      return true;
    } catch {
      return false;
    }
  }

  async function showDays() {
    try {
      chart.show((await get("balances/daily", { accountId, limit: DAYS })).body);
    } catch (error) {
      app.failed(error, "accounts");
    }
  }

  function recorded(receipt) {
    held.set(Number(receipt.position), receipt.hash);
    end = Math.max(end, Number(receipt.position));
    showBehind();
    if (stopStream === null) follow();
  }

  /** Load all; whether it went well, or will not go better by trying again. */
  async function load() {
    try {
      const told = await get("balances", { accountId });
      if (stopped) return true;
      app.health(null);
      show(told.body, told.tag, told.behind);
      chart.element.hidden = statement.element.hidden = false;
      await Promise.all([showDays(), statement.load()]);
      follow();
      return true;
    } catch (error) {
      if (stopped) return true;
      if (error.type === "account-not-found") {
        pill.hidden = true;
        form.open();
        amount.hidden = true;
        element.dataset.state = "new";
        put(facts);
        put(notice, el("p", { class: "lead" }, t("new-account")), el("p", { class: "faint" }, t("new-account-hint")));
        return true;
      }
      if (error.type === "projection-behind") {
        put(facts, t("not-projected"));
        follow();
        return true;
      }
      put(facts, t("cannot-load"));
      amount.hidden = true;
      app.failed(error, "accounts");
      return !(error instanceof Unreachable || error.passes);
    }
  }

  function follow() {
    if (stopStream !== null || stopped) return;
    pill.hidden = false;
    stopStream = whileSeen((signal) => {
      poll(look, LOOK_MS, signal);
      stream(accountId, tag, {
        state(name, error) {
          pill.dataset.state = name;
          pill.textContent = t(name);
          if (name === "live") app.health(null);
          if (name === "waiting") app.health(error);
        },
        balance(told, told_tag) {
          if (told_tag === tag) return;
          show(told, told_tag);
          later();
        },
        refused(error) {
          pill.dataset.state = "stopped";
          pill.textContent = t("stopped");
          app.failed(error, "accounts");
        },
      }, signal);
    });
  }

  function stop() {
    stopped = true;
    clearTimeout(refresh);
    stopStream?.();
    verify.stop();
  }

  return { element, load, stop };
}
