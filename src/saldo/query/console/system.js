// How the whole system stands: asked every two seconds while the page is seen.

import { get, poll, whileSeen } from "./api.js";
import { el, put, svg } from "./dom.js";
import { moment, number, seconds, t } from "./text.js";

const EVERY_MS = 2000;
const POINTS_MAX = 150; // five minutes
const WAITING_S = 10; // an outbox row that is older was not sent right after its commit
const SPARK = { width: 240, height: 56 };

export function systemView(app) {
  const rates = [];
  let stopPolling = null;
  const verdict = el("p", { class: "verdict", role: "status" }, t("loading"));
  const when = el("p", { class: "faint" });
  const cards = el("div", { class: "figures" });
  const element = el("section", { class: "system", "aria-labelledby": "system-title" },
    el("h1", { id: "system-title" }, t("system-title")), verdict, when, cards);

  function figure(name, value, unit, detail, state = "ok", more = null) {
    return el("section", { class: "card figure", "data-state": state, "data-name": name },
      el("h2", {}, t(name)), el("p", { class: "value" }, value), el("p", {}, unit), el("p", { class: "faint" }, detail), more);
  }

  function show(told) {
    const rate = Number(told.eventsLast10s) / 10;
    rates.push(rate);
    if (rates.length > POINTS_MAX) rates.shift();
    const behind = Number(told.behind);
    const rows = Number(told.outboxRows);
    const age = Number(told.outboxAgeSeconds);
    const dead = Number(told.deadLetters);
    const blocked = Number(told.blockedAccounts);
    const stuck = rows > 0 && age > WAITING_S;
    const [state, says] = dead > 0 || blocked > 0 ? ["bad", "system-dead"]
      : stuck ? ["warn", "system-outbox"]
      : behind > 0 ? ["warn", "system-lags"] : ["ok", "system-well"];
    if (verdict.dataset.says !== says) {
      verdict.textContent = t(says);
      verdict.dataset.says = says;
      verdict.dataset.state = state;
    }
    when.textContent = t("system-when", { when: moment(told.measuredAt, true) });
    const swept = told.lagSweptAt === null ? t("no-sweep")
      : t("lag-detail", { s: seconds(Number(told.lagSeconds)), when: moment(told.lagSweptAt, true) });
    put(cards,
      figure("throughput", number(rate, { maximumFractionDigits: 1 }), t("per-second"),
        t("total-events", { n: number(told.events), m: number(told.accounts) }), "ok", spark()),
      figure("lag", number(behind), t("lag-positions"), swept, behind > 0 ? "warn" : "ok"),
      figure("outbox", number(rows), t("outbox-rows"),
        rows === 0 ? t("outbox-none") : t("outbox-age", { s: seconds(age) }), stuck ? "warn" : "ok"),
      figure("dead-letters", number(dead), t("dead-waiting"),
        dead === 0 ? t("none") : t("dead-oldest", { when: moment(told.deadLetterOldestAt) }), dead > 0 ? "bad" : "ok"),
      figure("blocked-accounts", number(blocked), t("blocked-hint"),
        blocked === 0 ? t("none") : t("blocked-oldest", { when: moment(told.blockedOldestAt) }), blocked > 0 ? "bad" : "ok"));
  }

  function spark() {
    const high = Math.max(1, ...rates);
    const x = (i) => ((POINTS_MAX - rates.length + i) / (POINTS_MAX - 1)) * SPARK.width;
    const y = (value) => SPARK.height - 2 - (value / high) * (SPARK.height - 6);
    const points = rates.map((value, i) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    return svg("svg", { class: "spark", viewBox: `0 0 ${SPARK.width} ${SPARK.height}`, role: "img", "aria-label": t("throughput-history"), preserveAspectRatio: "none" },
      svg("line", { class: "zero", x1: 0, x2: SPARK.width, y1: SPARK.height - 2, y2: SPARK.height - 2 }),
      svg("polyline", { class: "line", points }));
  }

  async function read(signal) {
    try {
      show((await get("system", {}, signal)).body);
      app.health(null);
      return true;
    } catch (error) {
      if (signal.aborted) return false;
      if (error.status === 401 || error.status === 403) {
        stop();
        put(verdict);
      }
      app.failed(error, "system");
      return false;
    }
  }

  function load() {
    stopPolling = whileSeen((signal) => poll(read, EVERY_MS, signal));
  }

  function stop() {
    stopPolling?.();
  }

  return { element, load, stop };
}
