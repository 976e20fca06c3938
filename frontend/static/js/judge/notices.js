/** What the page says: one line at the foot for what went well, and notices above the work for what has not. */

import { PAGE, byId, h, say } from "./dom.js";

const DANGERS = ["pending", "offline", "problem", "session"];

/** @param {string} text */
export function announce(text) {
  byId("said").textContent = text;
}

/** Show one notice by its name, or take it away. @param {string} name @param {string | null} text @param {...HTMLElement} buttons */
export function notice(name, text, ...buttons) {
  byId("notices").querySelector(`[data-notice="${name}"]`)?.remove();
  if (text === null) return;
  const danger = DANGERS.includes(name) ? " notice--danger" : "";
  byId("notices").append(h("p", { class: `notice${danger}`, data: { notice: name } }, h("span", {}, text), ...buttons));
}

/**
 * Say what is being edited, why, and which drafts of it there are.
 * @param {import("./desk.js").Item} item @param {() => void} leave @param {() => void} takeUp the draft that stands aside
 */
export function sayRevision(item, leave, takeUp) {
  const button = (/** @type {string} */ words, /** @type {() => void} */ onclick) =>
    h("button", { type: "button", class: "button", onclick }, say(words));
  const why = item.comment ? [say("sent_back", { comment: item.comment })] : [];
  const back = item.drafted ? [say("revision_drafted")] : [];
  notice("revision", [...why, say("revising"), ...back].join(" "), button("revision_leave", leave));
  if (item.earlier) notice("earlier", say("draft_earlier"), button("draft_earlier_take", takeUp));
}

/** Say once a visit what a reviewer has sent back; home and the list of one's work say it too. */
export function sayReturned() {
  if (!PAGE.returned) return;
  const open = h("a", { class: "button", href: PAGE.urls.history }, say("returned_open"));
  const later = h("button", { type: "button", class: "button button--quiet", onclick: () => notice("returned", null) }, say("later"));
  notice("returned", PAGE.returned, open, later);
}
