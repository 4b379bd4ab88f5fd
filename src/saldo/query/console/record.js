// The form that records income and expense, and the receipt of what was recorded.

import { newKey, record, RECORD, Unreachable } from "./api.js";
import { announce, copyButton, el, put } from "./dom.js";
import { money, readAmount } from "./money.js";
import { has, locale, number, t } from "./text.js";

const DESCRIPTION_MAX = 500;
const WIDE = "(min-width: 75rem)";

/** `app.recorded(receipt)`, `app.failed(error, what)`; `currency()` is null while it is not known. */
export function recordPanel(accountId, currency, app) {
  // The key belongs to what was asked for: asked again, unchanged, after a failure, it is the same.
  let pending = null;
  let touched = false;
  let busy = false;

  const fault = (id) => el("p", { class: "fault", id, "aria-live": "polite" });
  const amountFault = fault("amount-fault");
  const dateFault = fault("date-fault");
  const descriptionFault = fault("description-fault");
  const preview = el("p", { class: "preview", id: "amount-preview", "aria-live": "polite" });
  const kinds = el("fieldset", { class: "segments kinds" }, el("legend", { class: "unseen" }, t("kind")),
    ["EXPENSE", "INCOME"].map((each, i) => el("label", {},
      el("input", { type: "radio", name: "type", value: each, checked: i === 0, onchange: validate }),
      el("span", {}, t(each.toLowerCase())))));
  const amount = el("input", { id: "amount", name: "amount", inputmode: "decimal", autocomplete: "off", required: true,
    "aria-describedby": "amount-fault amount-preview", oninput: validate, onblur: leave });
  const description = el("input", { id: "description", name: "description", autocomplete: "off",
    "aria-describedby": "description-fault", oninput: validate });
  const date = el("input", { id: "date", name: "date", type: "date", min: "1900-01-01", max: "2199-12-31",
    "aria-describedby": "date-fault", oninput: validate });
  const submit = el("button", { type: "submit", class: "primary" });
  const outcome = el("div", { class: "outcome", role: "status" });
  const receipt = el("div", { class: "receipt" });
  const form = el("form", { novalidate: true, onsubmit: send },
    kinds,
    el("label", { for: "amount" }, t("amount")), amount, amountFault, preview,
    el("label", { for: "description" }, t("description"), el("span", { class: "faint" }, ` (${t("optional")})`)), description, descriptionFault,
    el("label", { for: "date" }, t("date"), el("span", { class: "faint" }, ` (${t("optional")}: ${t("date-today")})`)), date, dateFault,
    submit, outcome);
  // On a small screen the balance and its history come first, and the form when it is asked for.
  const element = el("section", { class: "card record", "aria-labelledby": "record-title" },
    el("details", { open: matchMedia(WIDE).matches },
      el("summary", {}, el("h2", { id: "record-title" }, t("record"))),
      RECORD === null ? el("p", { class: "note" }, t("record-none")) : form, receipt));
  validate();

  function leave() {
    touched = touched || amount.value !== "";
    validate();
  }

  /** Show what is wrong; the request's members when nothing is. */
  function validate() {
    const kind = kinds.querySelector("input:checked").value;
    if (!busy) submit.textContent = t(kind === "INCOME" ? "record-income" : "record-expense");
    const read = readAmount(amount.value, currency() ?? "BRL", locale());
    const example = number(1234.5, { minimumFractionDigits: 2 });
    // A fault that typing on may mend is told once the field was left, or sent.
    const early = read.fault === "amount-missing" || read.fault === "amount-zero";
    const amountTold = read.fault && (touched || !early);
    say(amount, amountFault, amountTold ? t(read.fault, { example, digits: read.digits }) : "");
    preview.textContent = read.text === undefined ? "" : money(read.text, currency() ?? "BRL", locale());
    if (currency() === null && read.text !== undefined) preview.textContent = number(read.text, { minimumFractionDigits: 2 });
    const left = DESCRIPTION_MAX - [...description.value].length;
    say(description, descriptionFault, left < 0 ? t("description-long", { n: number(DESCRIPTION_MAX) }) : "");
    const dateOk = date.validity.valid;
    say(date, dateFault, dateOk ? "" : t("date-bad"));
    if (read.fault || left < 0 || !dateOk) return null;
    const members = { accountId, type: kind, value: read.text };
    if (description.value.trim() !== "") members.description = description.value.trim();
    if (date.value !== "" && date.value !== today()) {
      const [y, m, d] = date.value.split("-").map(Number);
      members.occurredAt = new Date(y, m - 1, d, 12).toISOString();
    }
    return members;
  }

  function say(field, place, text) {
    if (place.textContent !== text) place.textContent = text;
    if (text === "") field.removeAttribute("aria-invalid");
    else field.setAttribute("aria-invalid", "true");
  }

  async function send(event) {
    event.preventDefault();
    if (busy) return;
    touched = true;
    const members = validate();
    if (members === null) {
      form.querySelector('[aria-invalid="true"]').focus();
      return;
    }
    const body = JSON.stringify(members);
    if (pending?.body !== body) pending = { body, key: newKey() };
    work(true);
    outcome.textContent = "";
    try {
      const answer = await record(body, pending.key, (attempt) => {
        outcome.textContent = t("recording-again", { n: attempt });
      });
      pending = null;
      outcome.textContent = "";
      amount.value = description.value = date.value = "";
      touched = false;
      showReceipt(answer);
      app.recorded(answer);
    } catch (error) {
      failed(error);
    } finally {
      work(false);
      validate();
    }
  }

  function work(on) {
    busy = on;
    submit.disabled = on;
    if (on) submit.textContent = t("recording");
  }

  function failed(error) {
    if (error instanceof Unreachable || error.type === "outcome-unknown" || error.passes) {
      put(outcome, el("p", { class: "warn" }, t("outcome-unknown")),
        el("button", { type: "submit", class: "quiet" }, t("record-again")));
      return;
    }
    pending = null;
    if (error.status === 401) {
      app.failed(error, "write");
      return;
    }
    put(outcome, el("p", { class: "bad" }, whyRefused(error)));
  }

  function whyRefused(error) {
    if (error.status === 403) return t("forbidden-write");
    if (error.type === "insufficient-funds") {
      return t("insufficient-funds", { balance: money(error.body.balance, error.body.currency, locale()) });
    }
    return has(error.type) ? t(error.type) : t("refused", { why: error.message });
  }

  function showReceipt(answer) {
    const shown = money(answer.type === "INCOME" ? answer.value : `-${answer.value}`, answer.currency, locale(), true);
    const done = t("receipt-done", { amount: shown });
    put(receipt, el("h3", {}, t("receipt")), el("p", { class: "good" }, done),
      answer.replayed ? el("p", { class: "faint" }, t("receipt-replayed")) : null,
      el("p", { class: "faint counted" }, t("receipt-waiting")),
      el("dl", { class: "facts" },
        el("dt", {}, t("position")), el("dd", {}, number(answer.position)),
        el("dt", {}, t("hash")), el("dd", {}, el("code", {}, answer.hash), copyButton(t("copy"), t("copied"), answer.hash)),
        el("dt", {}, t("transaction-id")), el("dd", {}, el("code", {}, answer.id), copyButton(t("copy"), t("copied"), answer.id))));
    receipt.dataset.position = answer.position;
    announce(done);
  }

  /** The balance has come to `position`: a receipt up to there is counted. */
  function reached(position) {
    const counted = receipt.querySelector(".counted");
    if (counted && position >= Number(receipt.dataset.position)) counted.textContent = t("receipt-counted");
  }

  /** An account without a transaction has nothing to see before the form. */
  function open() {
    element.firstElementChild.open = true;
    kinds.querySelector('[value="INCOME"]').checked = true;
    validate();
  }

  return { element, open, reached, validate };
}

function today() {
  const now = new Date();
  const two = (n) => String(n).padStart(2, "0");
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}
