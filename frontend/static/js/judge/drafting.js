/** The draft of a verdict: kept on this device at once, told to the other windows, and stored by the server soon after. */

import { Offline, Refused, SignedOut, send } from "./api.js";
import { askSignIn } from "./dialogs.js";
import { byId, h, say } from "./dom.js";
import { drafts } from "./keeping.js";
import { notice } from "./notices.js";
import { asDraft } from "./verdict.js";
import { tell } from "./windows.js";

/** @typedef {import("./desk.js").Item} Item */

const DELAY_MS = 1_000;

/** What a draft is kept by: its assignment, or the judgment that is revised. @param {Item} item */
export const draftId = (item) => item.judgment?.id ?? item.task.assignment.id;

/** @param {Item} item */
const urlOf = ({ judgment, task }) =>
  judgment ? `/api/v1/judgments/${judgment.id}/draft/` : `/api/v1/tasks/${task.id}/draft/`;

export class Drafting {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  timer;
  /** @type {Promise<void> | undefined} */
  underWay;

  /** @param {import("./desk.js").Desk} desk @param {import("./clock.js").Clock} clock @param {() => boolean} isBusy */
  constructor(desk, clock, isBusy) {
    this.desk = desk;
    this.clock = clock;
    this.isBusy = isBusy;
  }

  /** The verdict has changed: keep it here at once, and on the server soon. */
  changed() {
    const { item } = this.desk;
    if (!item) return;
    const draft = this.draftOf(item);
    drafts.keep(draftId(item), draft);
    tell({ draft: draftId(item), verdict: draft });
    this.stop();
    this.timer = setTimeout(() => (this.underWay = this.save(item)), DELAY_MS);
  }

  /** Save no more of what was written last: it is being sent, or given up. */
  stop() {
    clearTimeout(this.timer);
  }

  /** The page goes away: what was done is on this device at least. */
  keep() {
    const { item } = this.desk;
    if (item?.touched) drafts.keep(draftId(item), this.draftOf(item));
  }

  /** A revision's draft names the verdict that it was begun on. @param {Item} item */
  draftOf({ verdict, judgment }) {
    const draft = asDraft(verdict, this.clock.seconds);
    return judgment ? { ...draft, revision: judgment.revision } : draft;
  }

  /** @param {Item} item */
  async save(item) {
    try {
      await send("PUT", urlOf(item), this.draftOf(item));
      notice("offline", null);
      const time = new Date().toLocaleTimeString([], { timeStyle: "short" });
      if (this.desk.item === item) byId("saved").textContent = say("draft_saved", { time });
    } catch (error) {
      if (this.desk.item !== item || this.isBusy()) return;
      byId("saved").textContent = say("draft_kept");
      if (error instanceof SignedOut) this.sessionEnded();
      else if (error instanceof Offline) notice("offline", say("offline"));
      else if (error instanceof Refused && error.status === 409) {
        notice("ended", item.judgment ? say("draft_refused", { reason: error.message }) : say("ended"));
      }
    }
  }

  /** Delete a revision's draft, here and there. @param {Item} item */
  async discard(item) {
    this.stop();
    drafts.drop(draftId(item));
    try {
      await this.underWay; // or it would arrive after this and stay
      await send("DELETE", urlOf(item), undefined, { keepalive: true });
    } catch (error) {
      if (!(error instanceof Refused)) notice("problem", say("discard_failed"));
    }
  }

  /** Nobody is torn out of a sentence by a dialog: it opens when they press, or when they submit. */
  sessionEnded() {
    const signIn = h("button", { type: "button", class: "button", onclick: async () => {
      await askSignIn();
      notice("session", null);
      const { item } = this.desk;
      if (item && (item.touched || !item.judgment)) await this.save(item);
    } }, say("sign_in")); // prettier-ignore
    notice("session", say("session_ended"), signIn);
  }
}
