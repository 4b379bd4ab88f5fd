// An account's statement: newest first, searched and filtered by the server, page by page.

import { get } from "./api.js";
import { announce, copyButton, el, put } from "./dom.js";
import { money } from "./money.js";
import { day, locale, moment, number, t } from "./text.js";

const PAGE = 50;
const LINES_MAX = 2000;
const PARTS_MAX = 200;
const TYPING_MS = 250;

/** `held` gets the hash of every line that is shown, by position. */
export function statementPanel(accountId, held, app) {
  let lines = [];
  let next = null;
  let asking = null;
  let typing = null;
  let filters = {};

  const text = el("input", { type: "search", id: "statement-text", maxlength: 100, autocomplete: "off",
    placeholder: t("search"), "aria-label": t("search"), oninput: typed });
  const kind = el("select", { "aria-label": t("kind"), id: "statement-kind", onchange: load },
    el("option", { value: "" }, t("all-kinds")),
    el("option", { value: "INCOME" }, t("income")),
    el("option", { value: "EXPENSE" }, t("expense")));
  const from = el("input", { type: "date", id: "statement-from", onchange: load, min: "1900-01-01", max: "2199-12-31" });
  const to = el("input", { type: "date", id: "statement-to", onchange: load, min: "1900-01-01", max: "2199-12-31" });
  const clear = el("button", { type: "button", class: "quiet", onclick: clearAll }, t("clear"));
  const list = el("ol", { class: "lines" });
  const note = el("div", { class: "note" }, t("loading"));
  const count = el("p", { class: "count", role: "status" });
  const older = el("button", { type: "button", class: "more", onclick: loadOlder }, t("older"));
  const element = el("section", { class: "card statement", "aria-labelledby": "statement-title" },
    el("div", { class: "head" }, el("h2", { id: "statement-title" }, t("statement")), count),
    el("form", { class: "filters", role: "search", "aria-label": t("statement"), onsubmit: (event) => { event.preventDefault(); load(); } },
      text, kind,
      el("label", { for: "statement-from" }, el("span", {}, t("from")), from),
      el("label", { for: "statement-to" }, el("span", {}, t("to")), to), clear),
    list, note, older);
  older.hidden = true;
  clear.hidden = true;

  function typed() {
    clearTimeout(typing);
    typing = setTimeout(load, TYPING_MS);
  }

  function clearAll() {
    text.value = kind.value = from.value = to.value = "";
    load();
    text.focus();
  }

  function question() {
    const start = (field, days) => {
      if (field.value === "") return null;
      const [y, m, d] = field.value.split("-").map(Number);
      return new Date(y, m - 1, d + days).toISOString();
    };
    return { text: text.value.trim(), type: kind.value, from: start(from, 0), before: start(to, 1) };
  }

  function isFiltered() {
    return Object.values(filters).some((each) => each !== null && each !== "");
  }

  async function page(cursor, limit = PAGE) {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    element.setAttribute("aria-busy", "true");
    try {
      let body = { transactions: [], next: cursor };
      // The server looks at a part of a long statement at a time: what is sought may be further down.
      for (let part = 0; part < PARTS_MAX && body.transactions.length === 0; part += 1) {
        if (part > 0 && body.next === null) break;
        body = (await get("transactions", { accountId, limit, cursor: body.next, ...filters }, signal)).body;
      }
      return body;
    } catch (error) {
      if (!signal.aborted) app.failed(error, "accounts");
      return null;
    } finally {
      if (!signal.aborted) element.removeAttribute("aria-busy");
    }
  }

  /** The first page of what the filters ask for; whether it came. */
  async function load() {
    clearTimeout(typing);
    filters = question();
    clear.hidden = !isFiltered();
    const body = await page(null);
    if (body === null) return false;
    lines = body.transactions;
    next = body.next;
    show();
    announce(count.textContent);
    return true;
  }

  async function loadOlder() {
    const body = await page(next);
    if (body === null) return;
    const first = list.children.length;
    lines = [...lines, ...body.transactions];
    next = body.next;
    show();
    announce(count.textContent);
    list.children[first]?.querySelector("summary").focus();
  }

  /** Put what was projected since above what is shown. */
  async function update() {
    const body = await page(null);
    if (body === null) return;
    const newest = lines.length === 0 ? 0 : Number(lines[0].position);
    const added = body.transactions.filter((each) => Number(each.position) > newest);
    const known = new Map(body.transactions.map((each) => [each.id, each]));
    // More came than a page holds: what is in between is behind "older" again.
    const joins = body.next === null || added.length < body.transactions.length;
    if (joins) {
      lines = [...added, ...lines.map((each) => known.get(each.id) ?? each)];
    } else {
      lines = body.transactions;
      next = body.next;
    }
    show(new Set(added.map((each) => each.id)));
  }

  function show(fresh = new Set()) {
    const opened = new Set([...list.querySelectorAll("details[open]")].map((each) => each.dataset.id));
    const focused = document.activeElement?.closest?.("details")?.dataset.id;
    for (const line of lines) held.set(Number(line.position), line.hash);
    put(list, lines.map((line) => lineOf(line, opened.has(line.id), fresh.has(line.id))));
    if (focused) list.querySelector(`[data-id="${focused}"] summary`)?.focus({ preventScroll: true });
    const full = lines.length >= LINES_MAX;
    older.hidden = next === null || full;
    count.textContent = lines.length === 0 ? "" : t(next === null ? "all-shown" : "shown", { n: number(lines.length) });
    if (lines.length === 0) {
      put(note, el("p", { class: "lead" }, t("no-lines")), isFiltered() ? el("p", {}, t("no-lines-hint")) : null);
    } else {
      put(note, full && next !== null ? el("p", {}, t("lines-max", { n: number(LINES_MAX) })) : null);
    }
  }

  return { element, load, update };
}

function titleOf(line) {
  if (line.description === null) return el("span", { class: "what faint" }, t("erased"));
  if (line.description === "") return el("span", { class: "what faint" }, t("no-description"));
  return el("span", { class: "what" }, line.description);
}

function lineOf(line, open, fresh) {
  const income = line.type === "INCOME";
  const signed = income ? line.value : `-${line.value}`;
  const tags = [
    line.reverses === null ? null : el("span", { class: "tag" }, t("reversal")),
    line.reversedBy === null ? null : el("span", { class: "tag" }, t("reversed")),
  ];
  const row = (name, shown) => [el("dt", {}, name), el("dd", {}, shown)];
  const code = (content) => [el("code", {}, content), copyButton(t("copy"), t("copied"), content)];
  const metadata = Object.entries(line.metadata ?? {});
  return el("li", { class: fresh ? "fresh" : null }, el("details", { "data-id": line.id, open },
    el("summary", {},
      el("span", { class: "whatever" }, titleOf(line), tags),
      el("span", { class: "when" }, day(line.occurredAt)),
      el("span", { class: `sum ${income ? "in" : "out"}` }, money(signed, line.currency, locale(), true)),
      el("span", { class: "after" }, el("span", { class: "unseen" }, `${t("balance")} `), money(line.balance, line.currency, locale()))),
    el("dl", { class: "facts" },
      row(t("happened"), moment(line.occurredAt, true)), row(t("recorded"), moment(line.recordedAt, true)),
      row(t("position"), number(line.position)), row(t("transaction-id"), code(line.id)), row(t("hash"), code(line.hash)),
      metadata.map(([name, shown]) => row(name, typeof shown === "string" ? shown : JSON.stringify(shown))).flat())));
}
