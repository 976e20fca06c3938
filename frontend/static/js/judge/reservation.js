/** Reservations that last while somebody is at work: of the task that is judged, and of the one that stands ready. */

import { Offline, Refused, SignedOut, send } from "./api.js";
import { say } from "./dom.js";
import { notice } from "./notices.js";

const HEARTBEAT_MS = 30_000;

/**
 * @param {import("./desk.js").Desk} desk @param {import("./queue.js").Queue} queue
 * @param {{isAtWork: (within: number) => boolean, sessionEnded: () => void}} page isAtWork: somebody judges, and has
 *   given a sign of life within so many milliseconds
 */
export function keepReserved(desk, queue, page) {
  setInterval(async () => {
    const { item } = desk;
    if (!item || item.judgment || !page.isAtWork(HEARTBEAT_MS * 2)) return;
    try {
      await send("POST", `/api/v1/tasks/${item.task.id}/renew/`);
      notice("offline", null);
      for (const next of queue.ready) if (next.expires - Date.now() < 2 * HEARTBEAT_MS) await queue.renew(next);
    } catch (error) {
      if (error instanceof SignedOut) page.sessionEnded();
      else if (error instanceof Offline) notice("offline", say("offline"));
      else if (error instanceof Refused && error.status === 409 && desk.item === item) notice("ended", say("ended"));
    }
  }, HEARTBEAT_MS);
}
