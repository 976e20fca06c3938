/** Windows of one person on the same work: what one has finished or written, the others know. */

import { PAGE } from "./dom.js";

/** @typedef {{left: string, stored: boolean} | {draft: string, verdict: any}} Told */

const channel = new BroadcastChannel(`rlhf:${PAGE.user}:${PAGE.slug}`);

/** Tell the other windows. @param {Told} told */
export const tell = (told) => channel.postMessage(told);

/** Hear what another window tells. @param {(told: Told) => void} heard */
export function listen(heard) {
  channel.addEventListener("message", (event) => heard(event.data));
}
