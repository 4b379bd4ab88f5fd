// An account's chain, computed anew: each hash is SHA-256 over the hash before it and the event's
// exact text; the first one stands on SHA-256 of the account id.

const PAGE_EVENTS = 1000;
export const EVENTS_MAX = 200_000;

const encoder = new TextEncoder();

/** Whether this browser lets the page compute hashes: it does so on https and on localhost. */
export function canVerify() {
  return globalThis.crypto?.subtle !== undefined;
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Walk the whole chain. `page(after, limit)` gives `{ previousHash, events }`; `held` maps positions
 * to hashes that the page was told before, as by a receipt.
 *
 * The outcome: `{ holds: true, events, hash, matched }`, or `{ holds: false, position, why }` with
 * `why` one of `gap`, `text`, `hash`, `receipt`, `missing`.
 */
export async function verifyChain(accountId, page, held, progress, signal) {
  let hash = await sha256(encoder.encode(accountId));
  let position = 0;
  let matched = 0;
  while (position < EVENTS_MAX) {
    signal.throwIfAborted();
    const { previousHash, events } = await page(position, PAGE_EVENTS);
    if (events.length > 0 && previousHash !== hex(hash)) return broken(position || 1, "hash");
    for (const event of events) {
      position += 1;
      if (Number(event.position) !== position) return broken(position, "gap");
      if (!saysItself(event.event, accountId, position)) return broken(position, "text");
      const text = encoder.encode(event.event);
      const bytes = new Uint8Array(hash.length + text.length);
      bytes.set(hash);
      bytes.set(text, hash.length);
      hash = await sha256(bytes);
      if (event.hash !== hex(hash)) return broken(position, "hash");
      if (held.has(position)) {
        if (held.get(position) !== event.hash) return broken(position, "receipt");
        matched += 1;
      }
    }
    progress(position);
    if (events.length < PAGE_EVENTS) {
      const beyond = [...held.keys()].find((each) => each > position);
      if (beyond !== undefined) return broken(beyond, "missing");
      return { holds: true, events: position, hash: hex(hash), matched };
    }
  }
  return { holds: null, events: position };
}

function broken(position, why) {
  return { holds: false, position, why };
}

function saysItself(text, accountId, position) {
  try {
    const event = JSON.parse(text);
    return event.account === accountId && event.position === position;
  } catch {
    return false;
  }
}
