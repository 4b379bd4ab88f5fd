// The button that computes an account's chain anew, and what it found.

import { events, RECORD } from "./api.js";
import { canVerify, verifyChain } from "./chain.js";
import { el, put } from "./dom.js";
import { number, t } from "./text.js";

/** `held` maps positions to the hashes that this page was told. */
export function verifyPanel(accountId, held, app) {
  let running = null;
  const button = el("button", { type: "button", class: "quiet", onclick: start }, t("verify"));
  const result = el("div", { class: "verified", role: "status" });
  const element = el("div", { class: "verify" }, button, el("p", { class: "faint" }, t("verify-why")), result);

  async function start() {
    if (running !== null) {
      running.abort();
      return;
    }
    if (!canVerify()) return put(result, el("p", { class: "warn" }, t("verify-cannot")));
    if (RECORD === null) return put(result, el("p", { class: "warn" }, t("verify-no-recorder")));
    running = new AbortController();
    const { signal } = running;
    button.textContent = t("verify-stop");
    const progress = (n) => put(result, el("p", { class: "faint" }, t("verifying", { n: number(n) })));
    progress(0);
    try {
      // What is told meanwhile may lie beyond the chain's end as it is read now.
      const told = new Map(held);
      const page = (after, limit) => events(accountId, after, limit, signal);
      show(await verifyChain(accountId, page, told, progress, signal));
    } catch (error) {
      if (signal.aborted) put(result, el("p", { class: "faint" }, t("verify-stopped")));
      else {
        put(result, el("p", { class: "warn" }, t("cannot-load")));
        app.failed(error, "accounts");
      }
    } finally {
      running = null;
      button.textContent = t("verify");
    }
  }

  function show(found) {
    if (found.holds === null) {
      put(result, el("p", { class: "warn" }, t("verify-max", { n: number(found.events) })));
    } else if (found.holds) {
      put(result, el("p", { class: "good" }, el("span", { class: "sign", "aria-hidden": "true" }, "✓ "), t("chain-holds")),
        el("p", { class: "faint" }, t("chain-holds-detail", { n: number(found.events), m: number(found.matched) }), " ",
          el("code", {}, found.hash)));
    } else {
      put(result, el("p", { class: "bad" }, el("span", { class: "sign", "aria-hidden": "true" }, "✗ "), t("chain-broken", { n: number(found.position) })),
        el("p", { class: "faint" }, t(`broken-${found.why}`)));
    }
  }

  return { element, stop: () => running?.abort() };
}
