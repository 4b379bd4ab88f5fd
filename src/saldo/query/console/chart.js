// A balance over time, drawn as SVG at the size it has. Amounts become floating-point numbers here
// alone, where they are pixels; what is written beside them comes from the texts.

import { el, put, svg } from "./dom.js";
import { money, toMinor, digitsOf } from "./money.js";
import { day, locale, month, t } from "./text.js";

const DAY_MS = 86_400_000;
const HEIGHT = 240;
const TOP = 12;
const BOTTOM = 28;
const TICKS = 4;
const RANGES = ["30", "90", "365", "all"];
const MONTHS_MAX = 36;

export function chartPanel() {
  let days = [];
  let currency = "BRL";
  let range = "365";
  let at = -1;

  const readout = el("p", { class: "readout" });
  const plot = el("div", {
    class: "plot", tabindex: 0, role: "slider", "aria-orientation": "horizontal",
    onkeydown: walk, onpointermove: point, onpointerdown: point,
    onpointerleave: () => choose(visible().length - 1), onfocus: () => choose(at < 0 ? visible().length - 1 : at),
  });
  const ranges = el("fieldset", { class: "segments" }, el("legend", { class: "unseen" }, t("range")),
    RANGES.map((each) => el("label", {},
      el("input", { type: "radio", name: "range", value: each, checked: each === range,
        onchange: () => { range = each; at = -1; draw(); } }),
      el("span", {}, t(`range-${each}`)))));
  const table = el("details", { class: "months" });
  const empty = el("p", { class: "note" }, t("history-empty"));
  const body = el("div", {}, readout, plot, table);
  const element = el("section", { class: "card history", "aria-labelledby": "history-title" },
    el("div", { class: "head" }, el("h2", { id: "history-title" }, t("history")), ranges), empty, body);
  body.hidden = true;
  new ResizeObserver(draw).observe(plot);

  /** The days in the range, the balance before it among them as its first point. */
  function visible() {
    if (range === "all" || days.length === 0) return days;
    const today = Date.now();
    const from = today - Number(range) * DAY_MS;
    const inside = days.filter((each) => timeOf(each) >= from);
    const before = days[days.length - inside.length - 1];
    if (before === undefined) return inside;
    const first = new Date(from).toISOString().slice(0, 10);
    return [{ day: first, income: "0", expense: "0", transactions: "0", balance: before.balance }, ...inside];
  }

  function timeOf(each) {
    return Date.parse(`${each.day}T00:00:00Z`);
  }

  /** From geometry to amounts: pixels for each of the visible days. */
  function scale(points, width) {
    const digits = digitsOf(currency);
    const amounts = points.map((each) => Number(toMinor(each.balance, currency)) / 10 ** digits);
    const low = Math.min(0, ...amounts);
    const high = Math.max(0, ...amounts);
    const step = niceStep((high - low || 1) / TICKS);
    const bottom = Math.floor(low / step) * step;
    const top = Math.max(Math.ceil(high / step) * step, bottom + step);
    const start = timeOf(points[0]);
    const end = Math.max(timeOf(points.at(-1)) + DAY_MS, start + DAY_MS);
    const compact = new Intl.NumberFormat(locale(), { notation: "compact", maximumFractionDigits: 1 });
    const labels = [];
    for (let tick = bottom; tick <= top + step / 2; tick += step) labels.push([tick, compact.format(tick)]);
    const left = 12 + 7 * Math.max(...labels.map(([, text]) => text.length));
    const y = (amount) => TOP + ((top - amount) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
    const x = (time) => left + ((time - start) / (end - start)) * (width - left - 6);
    return { amounts, labels, left, x, y, start, end };
  }

  function draw() {
    const points = visible();
    empty.hidden = days.length > 0;
    body.hidden = days.length === 0;
    const width = Math.floor(plot.clientWidth);
    if (points.length === 0 || width < 50) return;
    const { amounts, labels, left, x, y, start, end } = scale(points, width);
    let line = `M${x(timeOf(points[0]))},${y(amounts[0])}`;
    points.forEach((each, i) => {
      if (i > 0) line += `H${x(timeOf(each)).toFixed(1)}V${y(amounts[i]).toFixed(1)}`;
    });
    line += `H${x(end).toFixed(1)}`;
    const area = `${line}V${y(0)}H${x(timeOf(points[0]))}Z`;
    put(plot, svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true", focusable: "false" },
      labels.map(([tick, text]) => [
        svg("line", { class: tick === 0 ? "zero" : "grid", x1: left, x2: width - 6, y1: y(tick), y2: y(tick) }),
        svg("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, text),
      ]).flat(),
      dates(start, end, width - left).map(([time, text]) =>
        svg("text", { class: "tick", x: x(time), y: HEIGHT - 8, "text-anchor": "middle" }, text)),
      svg("path", { class: "area", d: area }),
      svg("path", { class: "line", d: line }),
      svg("g", { class: "marker" }, svg("line", { y1: TOP, y2: HEIGHT - BOTTOM }), svg("circle", { r: 5 }))));
    plot.setAttribute("aria-label", t("chart-label", { from: day(points[0].day), to: day(points.at(-1).day) }));
    plot.setAttribute("aria-valuemin", 1);
    plot.setAttribute("aria-valuemax", points.length);
    choose(at < 0 || at >= points.length ? points.length - 1 : at);
  }

  function choose(index) {
    const points = visible();
    if (points.length === 0) return;
    at = Math.min(Math.max(index, 0), points.length - 1);
    const chosen = points[at];
    const shown = (text) => money(text, currency, locale());
    put(readout, el("span", { class: "when" }, day(chosen.day)), el("strong", {}, shown(chosen.balance)),
      el("span", { class: "in" }, `${t("income")} ${shown(chosen.income)}`),
      el("span", { class: "out" }, `${t("expense")} ${shown(chosen.expense)}`));
    plot.setAttribute("aria-valuenow", at + 1);
    plot.setAttribute("aria-valuetext", `${day(chosen.day)}: ${shown(chosen.balance)}`);
    const drawn = plot.querySelector("svg");
    if (drawn === null) return;
    const { amounts, x, y } = scale(points, Number(drawn.getAttribute("width")));
    const px = x(timeOf(chosen));
    const [rule, dot] = drawn.querySelector(".marker").children;
    rule.setAttribute("x1", px);
    rule.setAttribute("x2", px);
    dot.setAttribute("cx", px);
    dot.setAttribute("cy", y(amounts[at]));
  }

  function walk(event) {
    const moves = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1,
      PageUp: at - 30, PageDown: at + 30, Home: 0, End: visible().length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(moves[event.key]);
  }

  function point(event) {
    const drawn = plot.querySelector("svg");
    const points = visible();
    if (drawn === null || points.length === 0) return;
    const { x } = scale(points, Number(drawn.getAttribute("width")));
    const px = event.clientX - plot.getBoundingClientRect().left;
    let nearest = 0;
    points.forEach((each, i) => {
      if (x(timeOf(each)) <= px) nearest = i;
    });
    choose(nearest);
  }

  function monthTable() {
    const months = new Map();
    for (const each of days) {
      const name = each.day.slice(0, 7);
      const known = months.get(name) ?? { income: 0n, expense: 0n };
      months.set(name, {
        income: known.income + toMinor(each.income, currency),
        expense: known.expense + toMinor(each.expense, currency),
        balance: each.balance,
      });
    }
    const digits = digitsOf(currency);
    const shown = (minor) => {
      const text = String(minor).padStart(digits + 1, "0");
      const plain = digits === 0 ? text : `${text.slice(0, -digits)}.${text.slice(-digits)}`;
      return money(plain, currency, locale());
    };
    const rows = [...months].slice(-MONTHS_MAX).reverse();
    put(table, el("summary", {}, t("months")),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("months") }, el("table", {},
        el("thead", {}, el("tr", {}, ["month", "income", "expense", "closing"].map((name) =>
          el("th", { scope: "col" }, t(name))))),
        el("tbody", {}, rows.map(([name, sums]) => el("tr", {},
          el("th", { scope: "row" }, month(name)), el("td", {}, shown(sums.income)),
          el("td", {}, shown(sums.expense)), el("td", {}, money(sums.balance, currency, locale()))))))));
  }

  /** Show these days, as GET /balances/daily has them. */
  function show(told) {
    currency = told.currency;
    days = told.days;
    at = -1;
    draw();
    monthTable();
  }

  return { element, show };
}

/** 1, 2 or 5 times a power of ten. */
function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((each) => each * power >= rough);
  return factor * power;
}

/** The dates to write below: beginnings of months, or days where there are few. */
function dates(start, end, width) {
  const room = Math.max(2, Math.floor(width / 80));
  const span = (end - start) / DAY_MS;
  const marks = [];
  if (span > 70) {
    const format = new Intl.DateTimeFormat(locale(), { month: "short", timeZone: "UTC" });
    const yearly = new Intl.DateTimeFormat(locale(), { month: "short", year: "2-digit", timeZone: "UTC" });
    const first = new Date(start);
    const months = Math.ceil(span / 30.4);
    const every = Math.max(1, Math.ceil(months / room));
    for (let n = 1; n <= months; n += every) {
      const time = Date.UTC(first.getUTCFullYear(), first.getUTCMonth() + n, 1);
      if (time < end - (end - start) * 0.03) {
        marks.push([time, (new Date(time).getUTCMonth() < every ? yearly : format).format(time)]);
      }
    }
  } else {
    const format = new Intl.DateTimeFormat(locale(), { day: "numeric", month: "short", timeZone: "UTC" });
    const every = Math.max(1, Math.ceil(span / room));
    for (let n = Math.floor(every / 2); n < span; n += every) {
      const time = start + n * DAY_MS;
      marks.push([time, format.format(time)]);
    }
  }
  return marks;
}
