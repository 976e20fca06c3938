/** A verdict's way to the table: sent with one key until the server has answered, kept on this device until then. */

import { Refused, ServerFailed, SignedOut, send } from "./api.js";
import { askSignIn } from "./dialogs.js";
import { PAGE, h, say } from "./dom.js";
import { drafts, outbox } from "./keeping.js";
import { notice } from "./notices.js";

/** @typedef {import("./keeping.js").Sending} Sending */

const RETRY_MS = [1_000, 2_000, 4_000, 8_000, 15_000];
/** @type {Set<() => void>} each ends a pause before another try */
const pauses = new Set();

/** Run what needs a session; where it has ended, sign in again and repeat. @template T @param {() => Promise<T>} run */
export async function withSession(run) {
  for (;;) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof SignedOut)) throw error;
      await askSignIn();
      notice("session", null);
    }
  }
}

/** Send until the server has answered and return the judgment; throws Refused, having said so. @param {Sending} sending */
export async function deliver(sending) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await attemptTo(sending);
    } catch (error) {
      if (error instanceof Refused) throw error;
      sayPending(error);
      await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
    }
  }
}

/**
 * Store what an earlier page could not: resolves after one try of each, and goes on with those the server did not answer.
 * @param {(sending: Sending) => void} onStored called for each
 */
export function flushOutbox(onStored) {
  // A verdict of this page's own waits there too, from the next press on, and is deliver's.
  return flush(outbox.waiting().filter((waiting) => waiting.project === PAGE.slug), onStored);
}

/** @param {Sending[]} sendings @param {(sending: Sending) => void} onStored */
async function flush(sendings, onStored) {
  const left = [];
  for (const sending of sendings.filter(outbox.holds)) {
    try {
      await attemptTo(sending);
      onStored(sending);
    } catch (error) {
      if (error instanceof Refused) continue;
      left.push(sending);
      sayPending(error);
    }
  }
  if (left.length) void pause(RETRY_MS[RETRY_MS.length - 1]).then(() => flush(left, onStored));
}

/** @param {unknown} error */
function sayPending(error) {
  const again = h("button", { type: "button", class: "button", onclick: () => pauses.forEach((end) => end()) }, say("try_now"));
  notice("pending", say(error instanceof ServerFailed ? "server_failed" : "unreachable"), again);
}

/** Send once. What the server has, or refuses, need not wait here any longer. @param {Sending} sending */
async function attemptTo(sending) {
  try {
    const { json } = await withSession(() => send(sending.method, sending.url, sending.body, { key: sending.key }));
    outbox.drop(sending);
    drafts.drop(sending.draft);
    for (const name of ["pending", "offline", "problem"]) notice(name, null);
    return json;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    outbox.drop(sending);
    notice("pending", null);
    // A draft of what was refused opens with its task; beside another stored verdict it is of no more use.
    if (error.status === 409) drafts.drop(sending.draft);
    notice("problem", error.status === 409 ? say("differs") : say("refused", { reason: error.message }));
    throw error;
  }
}

/** Wait before another try: until the time is up, the network is back, or the person presses. @param {number} ms */
function pause(ms) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    pauses.add(done);
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      pauses.delete(done);
      resolve(undefined);
    }
  });
}
