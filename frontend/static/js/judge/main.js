/** The judging page: takes a task, lets a verdict grow, stores it, and has the next one standing there. */

import { Offline, Refused, ServerFailed, SignedOut, send } from "./api.js";
import { Clock, minutes } from "./clock.js";
import { askReason, isOpen, noticeGuidelines, showGuidelines, showKeys, showUnreadGuidelines } from "./dialogs.js";
import { PAGE, byId, say } from "./dom.js";
import { Desk } from "./desk.js";
import { deliver, flushOutbox, withSession } from "./delivery.js";
import { Drafting, draftId } from "./drafting.js";
import { drafts, freshKey, outbox } from "./keeping.js";
import { announce, notice, sayReturned, sayRevision } from "./notices.js";
import { Queue } from "./queue.js";
import { handleKeys } from "./pressing.js";
import { keepReserved } from "./reservation.js";
import { listen, tell } from "./windows.js";
import * as verdicts from "./verdict.js";

/** @typedef {import("./desk.js").Item} Item @typedef {import("./keeping.js").Sending} Sending */

const main = byId("main");
const clock = new Clock((seconds) => (byId("clock").textContent = minutes(seconds)));
const desk = new Desk(changed);
const drafting = new Drafting(desk, clock, () => busy);
const queue = new Queue();
let today = PAGE.today;
let busy = false;

/* ---- what the page says ---- */

/** @param {string} state loading, judging, empty, paused or failed */
function setState(state) {
  main.dataset.state = state;
  for (const name of ["empty", "paused", "failed"]) byId(`state-${name}`).hidden = state !== name;
  for (const id of ["prompt-part", "responses", "verdict", "foot"]) {
    byId(id).hidden = !["judging", "loading"].includes(state);
  }
  if (state !== "judging") clock.stop();
  byId("clock").parentElement.hidden = !["judging", "loading"].includes(state);
  byId("reopen").hidden = desk.last === null;
  if (state === "empty") byId("look-again").focus();
  if (state === "failed") byId("load-again").focus();
}

function showToday() {
  byId("today").textContent = say("today", { n: today });
}

function countOne() {
  today += 1;
  showToday();
}

/** @param {boolean} saving */
function setSaving(saving) {
  busy = saving;
  main.dataset.saving = String(saving);
  byId("submit").disabled = saving;
  byId("skip").disabled = byId("report").disabled = saving || Boolean(desk.item?.judgment);
  if (saving) announce("");
  const label = desk.item?.judgment ? "store_revision" : "submit";
  byId("submit").firstElementChild.textContent = say(saving ? "saving" : label);
}

/* ---- what happens next ---- */

/** Go on to what waits: a task put aside, the one fetched ahead, or a new one. What was here is written to no more. */
async function advance() {
  drafting.stop();
  desk.clear();
  setSaving(false);
  for (const name of ["revision", "earlier", "ended"]) notice(name, null);
  const ready = queue.takeReady();
  if (ready) return show(ready);
  setState("loading");
  // While it was fetched the last verdict may have been opened again: that stays, and the task stands ready.
  const isAwaited = () => main.dataset.state === "loading";
  try {
    const item = await withSession(() => queue.fetch([]));
    if (isAwaited()) return item ? show(item) : setState("empty");
    if (item) queue.ready.push(item);
  } catch (error) {
    if (isAwaited()) stopped(error);
  }
}

/** The verdict has changed. */
function changed() {
  byId("problems").replaceChildren();
  drafting.changed();
}

/** @param {unknown} error */
function stopped(error) {
  if (error instanceof Refused && [403, 404].includes(error.status)) {
    byId("paused-reason").textContent = error.message;
    return setState("paused");
  }
  const reason = error instanceof Offline ? say("sign_in_offline") : `(${error instanceof Error ? error.message : error})`;
  byId("failed-reason").textContent = `${say("load_failed")} ${reason}`;
  return setState("failed");
}

/** @param {Item} item */
function show(item) {
  setState("judging");
  desk.show(item);
  clock.start(item.seconds);
  byId("saved").textContent = "";
  setSaving(false);
  if (item.judgment) sayRevision(item, leaveRevision, takeUpEarlier);
  prefetch();
  noticeGuidelines(item.task.guidelines).catch(() => {}); // asked again with the next task
  showUnreadGuidelines();
}

/** Reserve the next task while this one is being judged; a failure is met again when the task is needed. */
async function prefetch() {
  if (queue.isFull()) return;
  try {
    const held = desk.item && !desk.item.judgment ? [desk.item.task.assignment.id] : [];
    const item = await queue.fetch(held);
    if (item) queue.ready.push(item);
    main.dataset.ahead = String(queue.ready.length);
  } catch (error) {
    if (![Offline, ServerFailed, SignedOut, Refused].some((kind) => error instanceof kind)) throw error;
  }
}

/* ---- submitting ---- */

async function submit() {
  const { item } = desk;
  if (busy || !item || main.dataset.state !== "judging") return;
  const lacking = verdicts.missing(item.verdict, item.task);
  if (lacking.length) return desk.showMissing(lacking);
  drafting.stop();
  setSaving(true);
  const sending = sendingOf(item);
  outbox.keep(sending);
  let answer;
  try {
    answer = await deliver(sending);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    setSaving(false);
    return error.status === 409 ? advance() : undefined; // said so; where one is stored already, there is nothing to do
  }
  setSaving(false);
  if (!item.judgment) countOne();
  tell({ left: draftId(item), stored: !item.judgment });
  desk.remember(item, answer);
  announce(say(item.judgment ? "revision_stored" : answer.surplus ? "stored_surplus" : "stored"));
  return advance();
}

/** @param {Item} item @returns {Sending} */
function sendingOf(item) {
  const revision = item.judgment !== null;
  return {
    id: draftId(item),
    method: revision ? "PUT" : "POST",
    url: revision ? `/api/v1/judgments/${item.judgment.id}/` : `/api/v1/tasks/${item.task.id}/judgments/`,
    body: verdicts.asBody(item.verdict, item.task, clock.seconds),
    key: freshKey(),
    project: PAGE.slug,
    draft: draftId(item),
  };
}

/* ---- the other ways out of a task ---- */

/** @param {"skip" | "report"} kind */
async function giveUp(kind) {
  const { item } = desk;
  if (busy || !item || item.judgment || main.dataset.state !== "judging") return;
  const reason = await askReason(kind);
  if (reason === null) return desk.focusResponse();
  drafting.stop();
  setSaving(true);
  try {
    await withSession(() => send("POST", `/api/v1/tasks/${item.task.id}/${kind}/`, { reason }));
  } catch (error) {
    if (!(error instanceof Refused && error.status === 409)) {
      setSaving(false);
      return notice("problem", error instanceof Offline ? say("offline") : String(error));
    }
  }
  drafts.drop(draftId(item));
  tell({ left: draftId(item), stored: false });
  announce(say(kind === "skip" ? "skipped" : "reported"));
  return advance();
}

function undo() {
  if (busy || main.dataset.state === "paused") return;
  if (desk.undo()) return announce(say("undone"));
  const last = desk.takeLast();
  if (!last) return announce(say("nothing_to_undo"));
  if (desk.item && main.dataset.state === "judging") putAside(desk.item);
  show(last);
}

/** @param {Item} item */
function putAside(item) {
  item.seconds = clock.seconds;
  if (!item.judgment) queue.ready.unshift(item);
}

function leaveRevision() {
  const { item } = desk;
  if (busy || !item?.judgment) return;
  drafting.discard(item);
  advance();
}

/** Put what was begun on an earlier verdict in the place of the stored one; undo leads back. */
function takeUpEarlier() {
  const { item } = desk;
  if (busy || !item?.earlier) return;
  desk.set(verdicts.read(item.earlier, item.task));
  notice("earlier", null);
}

/* ---- other windows of the same person ---- */

listen((told) => {
  const { item } = desk;
  if ("draft" in told) {
    // The window that is written in leads; this one follows, and its undo leads back.
    if (item && !busy && draftId(item) === told.draft) desk.follow(told.verdict);
    return;
  }
  finished(told.left, told.stored, "left_elsewhere");
});

/** Leave a task that was finished elsewhere. @param {string} left its draft @param {boolean} stored anew @param {string} words */
function finished(left, stored, words) {
  if (stored) countOne();
  queue.forget(left);
  const isHere = desk.item !== null && !busy && draftId(desk.item) === left;
  if (isHere) advance();
  if (isHere || words === "stored_late") announce(say(words));
}

/* ---- what goes on beside ---- */

keepReserved(desk, queue, {
  isAtWork: (within) => main.dataset.state === "judging" && !busy && clock.isActive(within),
  sessionEnded: () => drafting.sessionEnded(),
});
addEventListener("offline", () => notice("offline", say("offline")));
addEventListener("online", () => notice("offline", null));
addEventListener("pagehide", () => main.dataset.state === "judging" && drafting.keep());

/* ---- the start ---- */

const actions = { submit, skip: () => giveUp("skip"), report: () => giveUp("report"), undo, guidelines: showGuidelines,
  keys: () => showKeys(desk.keymap, desk.item?.task.protocol, () => desk.refresh()), leave: leaveRevision }; // prettier-ignore
handleKeys(desk, actions, { main, isBusy: () => busy || isOpen() });
byId("submit").addEventListener("click", submit);
byId("skip").addEventListener("click", actions.skip);
byId("report").addEventListener("click", actions.report);
for (const id of ["undo", "reopen"]) byId(id).addEventListener("click", undo);
for (const id of ["show-guidelines", "show-guidelines-here"]) byId(id).addEventListener("click", showGuidelines);
byId("show-keys").addEventListener("click", actions.keys);
byId("look-again").addEventListener("click", advance);
byId("load-again").addEventListener("click", start);

async function start() {
  setState("loading");
  drafts.sweep();
  showToday();
  await flushOutbox((sending) => finished(sending.draft, sending.method === "POST", "stored_late"));
  const wanted = new URLSearchParams(location.search).get("judgment");
  if (!wanted) sayReturned();
  if (!wanted) return advance();
  history.replaceState(null, "", PAGE.urls.page);
  try {
    const url = PAGE.urls.judgment.replace("00000000-0000-0000-0000-000000000000", encodeURIComponent(wanted));
    const { json } = await withSession(() => send("GET", url));
    if (json.voided === null) return show(desk.revisionOf(json, json.judgment, json.sent_back));
    notice("problem", say("voided", { reason: json.voided }));
    return advance();
  } catch (error) {
    if (!(error instanceof Refused)) return stopped(error);
    notice("problem", error.message);
    return advance();
  }
}

start();
