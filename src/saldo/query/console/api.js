// Talking to get_balance (this page's own origin) and to record_transaction.

import { parseExact } from "./money.js";

const BALANCE = new URL(".", location.href.split("#")[0].split("?")[0]);
const told = document.querySelector('meta[name="saldo-record-url"]').content;
/** Where record_transaction is, with a slash at its end; null: this console only reads. */
export const RECORD = told === "" ? null : new URL(told.endsWith("/") ? told : `${told}/`);

export const ATTEMPTS_MAX = 4;
const REQUEST_MS = 15_000;
const STALLED_MS = 25_000; // the stream says something every 10 s
const PAUSE_MS = [500, 1000, 2000, 4000, 8000];

// In memory only: gone when the page is.
let token = null;

export function setToken(text) {
  token = text;
}

export function hasToken() {
  return token !== null;
}

/** An answer that is a problem (RFC 9457). */
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail ?? body.title ?? `HTTP ${status}`);
    this.status = status;
    this.type = (body.type ?? "").replace("urn:saldo:problem:", "");
    this.body = body;
    this.retryAfterMs = retryAfter === null ? null : Math.min(Number(retryAfter) * 1000, 10_000);
  }

  /** Whether the same request may do better in a moment. */
  get passes() {
    return this.status >= 500 || this.status === 429;
  }
}

/** No answer came: the function or the network is down. */
export class Unreachable extends Error {}

function headersOf(more) {
  return token === null ? more : { Authorization: `Bearer ${token}`, ...more };
}

async function send(url, init, signal) {
  let response;
  const limit = AbortSignal.timeout(REQUEST_MS);
  try {
    response = await fetch(url, {
      credentials: "omit",
      ...init,
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    const text = await response.text();
    return { response, body: text === "" ? {} : read(response, text) };
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new Unreachable(error.message);
  }
}

function read(response, text) {
  return /json/.test(response.headers.get("content-type") ?? "") ? parseExact(text) : {};
}

async function ask(base, path, query, signal) {
  const url = new URL(path, base);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const { response, body } = await send(url, { headers: headersOf({}) }, signal);
  if (!response.ok) throw new Refused(response.status, body, response.headers.get("retry-after"));
  return {
    body,
    behind: Number(response.headers.get("saldo-behind") ?? 0),
    tag: response.headers.get("etag")?.replaceAll('"', "") ?? "",
  };
}

/** GET from get_balance: `{ body, behind, tag }`; numbers of the body are texts. */
export function get(path, query = {}, signal = undefined) {
  return ask(BALANCE, path, query, signal);
}

/** A page of an account's chain, from record_transaction. */
export async function events(accountId, after, limit, signal) {
  const path = `accounts/${encodeURIComponent(accountId)}/events`;
  return (await ask(RECORD, path, { after, limit }, signal)).body;
}

/**
 * Record a transaction. Repeated by itself with the same key while no answer comes, or one that says
 * "not now": the key makes that safe. Throws the last failure.
 */
export async function record(body, key, onRetry) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const { response, body: answer } = await send(new URL("transactions", RECORD), {
        method: "POST",
        headers: headersOf({ "Content-Type": "application/json", "Idempotency-Key": key }),
        body,
      });
      if (response.ok) {
        return { ...answer, replayed: response.headers.get("idempotency-replayed") === "true" };
      }
      throw new Refused(response.status, answer, response.headers.get("retry-after"));
    } catch (error) {
      const passes = error instanceof Unreachable || error.passes;
      if (!passes || attempt === ATTEMPTS_MAX) throw error;
      onRetry(attempt);
      await pause(error.retryAfterMs ?? PAUSE_MS[attempt - 1]);
    }
  }
}

/** A key of 128 random bits: `randomUUID` would need https. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `console-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}

/** Repeat `task` while the page is seen, from when it is shown; returns what stops it for good. */
export function whileSeen(task) {
  let running = null;
  const look = () => {
    if (document.hidden) {
      running?.abort();
      running = null;
    } else if (running === null) {
      running = new AbortController();
      task(running.signal);
    }
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    running?.abort();
  };
}

/** Call `read(signal)` every `everyMs` until the signal; a failure is waited out longer each time. */
export async function poll(read, everyMs, signal) {
  let failures = 0;
  while (!signal.aborted) {
    const went = await read(signal);
    failures = went ? 0 : failures + 1;
    await pause(went ? everyMs : PAUSE_MS[Math.min(failures, PAUSE_MS.length) - 1], signal);
  }
}

/**
 * The balance's server-sent events, by fetch since EventSource cannot send a header. Goes on until
 * the signal: a stream ends by itself now and then, and is resumed after the last state seen.
 *
 * `on` has `balance(body, tag)`, `state("connecting" | "live" | "waiting", error)`, and `refused(error)`,
 * which ends it.
 */
export async function stream(accountId, lastTag, on, signal) {
  let last = lastTag;
  let failures = 0;
  on.state("connecting");
  while (!signal.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    let stalled = setTimeout(stop, STALLED_MS);
    try {
      const url = new URL("balances/stream", BALANCE);
      url.searchParams.set("accountId", accountId);
      const response = await fetch(url, {
        credentials: "omit",
        headers: headersOf({ Accept: "text/event-stream", "Last-Event-ID": last }),
        signal: connection.signal,
      });
      if (!response.ok) {
        const body = parseExact(await response.text());
        throw new Refused(response.status, body, response.headers.get("retry-after"));
      }
      failures = 0;
      on.state("live");
      for await (const event of eventsOf(response.body)) {
        clearTimeout(stalled);
        stalled = setTimeout(stop, STALLED_MS);
        if (event.name !== "balance") continue;
        last = event.id;
        on.balance(parseExact(event.data), last);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && !error.passes) {
        on.refused(error);
        return;
      }
      failures += 1;
      on.state("waiting", error instanceof Refused ? error : new Unreachable(error.message));
    } finally {
      clearTimeout(stalled);
      signal.removeEventListener("abort", stop);
    }
    await pause(PAUSE_MS[Math.min(failures, PAUSE_MS.length - 1)], signal);
  }
}

/** The events of a stream's text; a comment is one without a name. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = { name: null, id: null, data: "" };
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        const field = line.slice(0, at);
        const content = line.slice(at + 2);
        if (field === "event") event.name = content;
        else if (field === "id") event.id = content;
        else if (field === "data") event.data += content;
      }
      yield event;
    }
  }
}
