/** Tasks fetched ahead: two live reservations at most, the one being judged and one that stands ready. */

import { Refused, send } from "./api.js";
import { PAGE } from "./dom.js";
import { itemOf } from "./desk.js";

/** @typedef {import("./desk.js").Item} Item */

const LIVE_AT_MOST = 2;
// A reservation that ends while its task is being opened is no use.
const MARGIN_MS = 10_000;

export class Queue {
  /** @type {Item[]} */
  ready = [];
  /** @type {Promise<Item | null> | null} */
  underWay = null;

  isFull() {
    return this.ready.length >= LIVE_AT_MOST - 1 || this.underWay !== null;
  }

  /** Return a task that stands ready and is still reserved. */
  takeReady() {
    this.ready = this.ready.filter((item) => item.touched || item.expires - Date.now() > MARGIN_MS);
    return this.ready.shift() ?? null;
  }

  /** Another window has finished it. @param {string} assignment */
  forget(assignment) {
    this.ready = this.ready.filter((item) => item.task.assignment.id !== assignment);
  }

  /**
   * Reserve a task besides those held; null where there is none. One request at a time: a second caller waits for the
   * first one's task.
   * @param {string[]} held assignment ids @returns {Promise<Item | null>}
   */
  async fetch(held) {
    if (this.underWay) {
      await this.underWay.catch(() => null);
      const ready = this.takeReady();
      if (ready) return ready;
    }
    const hold = [...held, ...this.ready.map((item) => item.task.assignment.id)];
    this.underWay = this.request(hold);
    try {
      return await this.underWay;
    } finally {
      this.underWay = null;
    }
  }

  /** @param {string[]} hold */
  async request(hold) {
    const { status, json, now } = await send("POST", PAGE.urls.next, { hold });
    return status === 204 ? null : itemOf(json, Date.parse(json.assignment.expires_at) - now);
  }

  /** Keep a task that waits from running out; one that is somebody else's by now stands ready no more. @param {Item} item */
  async renew(item) {
    try {
      await send("POST", `/api/v1/tasks/${item.task.id}/renew/`);
      item.expires = Date.now() + item.reserved;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.forget(item.task.assignment.id);
    }
  }
}
