/** What must survive a reload, a crash and a dead network: drafts, and verdicts that are not stored yet. */

import { PAGE } from "./dom.js";

const DRAFT_DAYS = 14;
/** @param {string} kind @param {string} id */
const nameOf = (kind, id) => `rlhf:${PAGE.user}:${kind}:${id}`;

/** @param {string} name @returns {any} */
function load(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null");
  } catch {
    return null; // not ours, or cut short by a crash
  }
}

/** Keep a value; false where the browser will not (full, or forbidden). @param {string} name @param {unknown} value */
function store(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @param {string} kind */
function all(kind) {
  const prefix = nameOf(kind, "");
  return Object.keys(localStorage).filter((name) => name.startsWith(prefix));
}

export const drafts = {
  /** @param {string} id of the assignment or the judgment @returns {any} */
  load: (id) => load(nameOf("draft", id)),
  /** @param {string} id @param {any} draft */
  keep: (id, draft) => store(nameOf("draft", id), draft),
  /** @param {string} id */
  drop: (id) => localStorage.removeItem(nameOf("draft", id)),
  /** Drop what is too old to come back to. */
  sweep() {
    for (const name of all("draft")) {
      if (!(load(name)?.at > Date.now() - DRAFT_DAYS * 86_400_000)) localStorage.removeItem(name);
    }
  },
};

/** Whether responses stand beside or below each other: a matter of the screen, and so of the device. */
export const layout = {
  /** @returns {unknown} */
  load: () => load(nameOf("layout", "")),
  /** @param {string} chosen */
  keep: (chosen) => store(nameOf("layout", ""), chosen),
};

/**
 * A verdict under way: the same method, address, body and key until the server has answered.
 * @typedef {{id: string, method: string, url: string, body: any, key: string, project: string, draft: string}} Sending
 */
export const outbox = {
  /** @param {Sending} sending */
  keep: (sending) => store(nameOf("outbox", sending.id), sending),
  /** @param {Sending} sending */
  drop: (sending) => localStorage.removeItem(nameOf("outbox", sending.id)),
  /** Whether this very one still waits: a later verdict on the same task takes its place. @param {Sending} sending */
  holds: (sending) => load(nameOf("outbox", sending.id))?.key === sending.key,
  /** @returns {Sending[]} what has waited since an earlier page */
  waiting: () => all("outbox").map(load).filter((sending) => sending?.url),
};

/** A key that no other request has. */
export function freshKey() {
  // randomUUID is there on https and localhost only; getRandomValues is everywhere.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
