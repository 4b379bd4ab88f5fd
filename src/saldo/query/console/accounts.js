// The list of accounts: those that the token is for, page by page, and any other by its id.

import { get } from "./api.js";
import { el, put } from "./dom.js";
import { money } from "./money.js";
import { locale, t } from "./text.js";

const PAGE = 50;
const ACCOUNT_ID = /^[A-Za-z0-9][A-Za-z0-9._~:@-]{0,127}$/;

export function pathOf(accountId) {
  return `#/accounts/${encodeURIComponent(accountId)}`;
}

/** `app.failed(error)` is told of what could not be loaded. */
export function accountsPanel(app) {
  let accounts = [];
  let next = null;
  let selected = null;
  let loaded = false;

  const title = el("h2", { id: "accounts-title", role: "heading" }, t("accounts"));
  const fault = el("p", { class: "fault", id: "find-fault", role: "alert" });
  const find = el("input", {
    type: "search", id: "find", autocomplete: "off", spellcheck: "false", autocapitalize: "none",
    placeholder: t("find-short"), "aria-label": t("find-account"), "aria-describedby": "find-fault",
    maxlength: 128, oninput: show,
  });
  const form = el("form", { class: "find", role: "search", onsubmit: open }, find,
    el("button", { type: "submit", class: "quiet" }, t("open")));
  const list = el("ul", { class: "accounts-list" });
  const more = el("button", { type: "button", class: "more", onclick: () => load(next) }, t("more-accounts"));
  const note = el("div", { class: "note" }, t("loading"));
  const element = el("section", { class: "accounts", "aria-labelledby": "accounts-title" },
    title, form, fault, list, note, more);

  function open(event) {
    event.preventDefault();
    const typed = find.value.trim();
    const match = accounts.find((each) => each.accountId === typed) ?? shown()[0];
    const accountId = match && typed !== "" && shown().length === 1 ? match.accountId : typed;
    if (!ACCOUNT_ID.test(accountId)) {
      fault.textContent = t("account-id-bad");
      find.focus();
      return;
    }
    fault.textContent = "";
    location.hash = pathOf(accountId);
  }

  function shown() {
    const wanted = find.value.trim().toLowerCase();
    return accounts.filter((each) => each.accountId.toLowerCase().includes(wanted));
  }

  function show() {
    const matching = shown();
    fault.textContent = "";
    put(list, matching.map((account) =>
      el("li", {}, el("a", {
        href: pathOf(account.accountId),
        "aria-current": account.accountId === selected ? "page" : null,
      },
      el("span", { class: "name" }, account.accountId),
      el("span", { class: "amount" }, money(account.value, account.currency, locale()))))));
    more.hidden = next === null;
    if (!loaded) return;
    if (accounts.length === 0) {
      put(note, el("p", { class: "lead" }, t("no-accounts")), el("p", {}, t("no-accounts-hint")));
    } else {
      note.textContent = matching.length === 0 ? t("none-match", { text: find.value.trim() }) : "";
    }
  }

  /** Load the first page, or the one at `cursor`; whether it went well. */
  async function load(cursor = null) {
    try {
      const { body } = await get("accounts", { limit: PAGE, cursor });
      accounts = cursor === null ? body.accounts : [...accounts, ...body.accounts];
      next = body.next;
      loaded = true;
      show();
      return true;
    } catch (error) {
      if (!loaded) put(note, el("p", {}, t("cannot-load")));
      app.failed(error, "accounts");
      return false;
    }
  }

  /** Show the balance that is known now. */
  function seen(balance) {
    const known = accounts.find((each) => each.accountId === balance.accountId);
    if (known) Object.assign(known, { value: balance.value, currency: balance.currency });
    else if (loaded && next === null) {
      accounts = [...accounts, balance].sort((a, b) => (a.accountId < b.accountId ? -1 : 1));
    }
    show();
  }

  function select(accountId) {
    selected = accountId;
    // The page's own heading, until an account's is.
    title.setAttribute("aria-level", accountId === null ? 1 : 2);
    show();
  }

  more.hidden = true;
  return { element, load, seen, select };
}
