/** What lies before the annotator: one task with its verdict, its undo history and the response in focus. */

import { PAGE, byId, h, letterOf, say } from "./dom.js";
import { canMark, markDifferences } from "./differences.js";
import { enableDragging } from "./drag.js";
import { drafts } from "./keeping.js";
import { Keymap } from "./keys.js";
import { bringIntoView, setUp, toggleSheet } from "./layout.js";
import { showPanel, updatePanel } from "./panel.js";
import * as verdicts from "./verdict.js";
import { labelled, partOf, showPrompt, showResponses, updateResponses, updateRewrite, writeKeys } from "./view.js";

/**
 * @typedef {{task: import("./verdict.js").Task, verdict: import("./verdict.js").Verdict, before: import("./verdict.js").Verdict[],
 *   judgment: any, comment: string, drafted: boolean, earlier: any, seconds: number, touched: boolean, reserved: number,
 *   expires: number}} Item drafted: opened with a draft; earlier: a draft of a verdict that was revised since
 */

/**
 * A task with the newest draft of it: the server's, or the one that this device kept.
 * @param {import("./verdict.js").Task} task @param {number} reserved milliseconds @returns {Item}
 */
export function itemOf(task, reserved) {
  const own = drafts.load(task.assignment.id);
  const draft = newest(own, task.draft);
  return {
    task, verdict: verdicts.read(draft, task), before: [], judgment: null, comment: "", drafted: draft !== null, earlier: null,
    seconds: Number(draft?.lead_time) || 0, touched: draft !== null, reserved, expires: Date.now() + reserved,
  }; // prettier-ignore
}

/** @param {any} own this device's draft @param {any} stored the server's */
const newest = (own, stored) => ((own?.at ?? 0) > (stored?.at ?? 0) ? own : stored);

export class Desk {
  /** @param {() => void} changed called after every change of the verdict */
  constructor(changed) {
    this.changed = changed;
    this.keymap = new Keymap(PAGE.keymap);
    this.item = /** @type {Item | null} */ (null);
    this.last = /** @type {Item | null} */ (null);
    this.focus = 0;
    this.differences = false;
    this.typing = ""; // the text that is being typed in
    this.act = this.act.bind(this);
    writeKeys(this.keymap.all);
    byId("differences").hidden = !canMark();
    byId("differences").addEventListener("click", () => this.toggleDifferences());
    byId("rationale").addEventListener("input", (/** @type {any} */ event) => this.act("rationale", event.target.value));
    enableDragging((id, target) => this.dropped(id, target));
    setUp();
  }

  /** @param {Item} item */
  show(item) {
    this.item = item;
    this.focus = 0;
    delete byId("flags").dataset.of;
    toggleSheet(false);
    showPrompt(item.task);
    showResponses(item.task, this.act);
    showPanel(item.task, this.act, this.keymap.all);
    this.refresh();
    scrollTo(0, 0);
    partOf(0)?.focus({ preventScroll: true });
    if (this.differences) this.mark();
  }

  /** Take the task away: what is still shown of it answers to nothing. */
  clear() {
    this.item = null;
  }

  refresh() {
    writeKeys(this.keymap.all);
    if (!this.item) return;
    const { task, verdict } = this.item;
    updateResponses(task, verdict);
    updatePanel(task, verdict, this.focus, this.act);
    task.responses.forEach(({ id, text }, index) => updateRewrite(index, text, verdict.rewrites[id], this.act, id));
    for (const part of byId("responses").children) part.toggleAttribute("data-focused", part === partOf(this.focus));
  }

  /** Carry out what a key or a control asks for. @param {string} name @param {...any} values */
  act(name, ...values) {
    if (!this.item || byId("main").dataset.saving === "true") return;
    const { task, verdict } = this.item;
    const [id, value, score] = values;
    switch (name) {
      case "focus": return this.focusOn(id);
      case "place": return this.rank(verdicts.place(verdict, id));
      case "tie": return task.protocol.ties ? this.rank(verdicts.tie(verdict, id)) : this.complain("no_ties");
      case "takeBack": return this.rank(verdicts.takeBack(verdict, id));
      case "equal": return task.protocol.ties ? this.rank(verdicts.allEqual(verdict, task)) : this.complain("no_ties");
      case "bad": return task.protocol.all_bad ? this.set(verdicts.toggleBad(verdict)) : undefined;
      case "strength": return this.set({ ...verdict, strength: verdict.strength === id ? null : id });
      case "side": return this.set(verdicts.toSide(verdict, task, id));
      case "rate": return this.set(verdicts.rate(verdict, id, value, score));
      case "flag": return this.set(verdicts.toggleFlag(verdict, id, value));
      case "rationale": return this.set({ ...verdict, rationale: id }, "rationale");
      case "rewrite": return this.openRewrite(id);
      case "rewriteText": return this.set(verdicts.rewrite(verdict, id, value), `rewrite ${id}`);
      case "rewriteDrop": return this.set(verdicts.rewrite(verdict, id, null));
      default: throw new Error(`no such action: ${name}`);
    }
  } // prettier-ignore

  /** @param {import("./verdict.js").Verdict} verdict */
  rank(verdict) {
    if (this.item?.task.protocol.ranking !== "off") this.set(verdict);
  }

  /**
   * Put a new verdict in place; typing on in one text is undone as one step.
   * @param {import("./verdict.js").Verdict} verdict @param {string} [typing]
   */
  set(verdict, typing = "") {
    const { item } = this;
    if (!item) return;
    if (!typing || typing !== this.typing) item.before.push(item.verdict);
    this.typing = typing;
    item.verdict = verdict;
    item.touched = true;
    this.refresh();
    this.changed();
  }

  /** Show what another window has written; nothing is saved, for it is there already. @param {any} draft */
  follow(draft) {
    const { item } = this;
    if (!item) return;
    if (this.typing !== "elsewhere") item.before.push(item.verdict);
    this.typing = "elsewhere";
    item.verdict = verdicts.read(draft, item.task);
    item.touched = true;
    this.refresh();
  }

  /** Take the last change back; false where there is none. */
  undo() {
    const before = this.item?.before.pop();
    if (!this.item || !before) return false;
    this.typing = "";
    this.item.verdict = before;
    this.refresh();
    this.changed();
    return true;
  }

  /* ---- the last submit, which can be opened again ---- */

  /** @param {Item} item @param {any} judgment */
  remember(item, judgment) {
    this.last = this.revisionOf({ ...item.task, draft: null }, judgment); // a draft of it went with the submit
    this.item = null;
  }

  /**
   * A stored verdict with the newest draft of a revision, the server's or this device's; one that was begun on an
   * earlier verdict stands aside.
   * @param {import("./verdict.js").Task} task @param {any} judgment
   * @param {string | null} [comment] why a reviewer sent it back @returns {Item}
   */
  revisionOf(task, judgment, comment = "") {
    const own = drafts.load(judgment.id);
    const fits = (/** @type {any} */ draft) => (draft?.revision === judgment.revision ? draft : null);
    const draft = newest(fits(own), fits(task.draft));
    return {
      task, verdict: verdicts.read(draft ?? judgment, task), before: [], judgment, comment: comment ?? "",
      drafted: draft !== null, earlier: own && !fits(own) ? own : null, touched: false, reserved: Infinity,
      expires: Infinity, seconds: Number(draft?.lead_time ?? judgment.lead_time) || 0,
    }; // prettier-ignore
  }

  takeLast() {
    const { last } = this;
    this.last = null;
    return last;
  }

  /* ---- where the annotator is ---- */

  /** @param {number} index */
  focusOn(index) {
    if (this.focus === index) return;
    this.focus = index;
    this.refresh();
    if (this.differences && (this.item?.task.responses.length ?? 0) > 2) this.mark();
  }

  /** @param {number} [index] */
  focusResponse(index = this.focus) {
    this.focusOn(index);
    const part = partOf(index);
    part?.focus({ preventScroll: true });
    if (part) bringIntoView(part);
  }

  /** Move to the neighbour, on the same rating row where one has the focus. @param {number} step */
  moveFocus(step) {
    const row = this.row()?.dataset.row;
    const index = this.focus + step;
    if (!this.item || index < 0 || index >= this.item.task.responses.length) return;
    this.focusResponse(index);
    if (row && row !== "strength") this.focusRow(row);
  }

  /** The rating or strength row that has the focus. @returns {any} */
  row() {
    return document.activeElement?.closest("[data-row]");
  }

  /** @param {string} key */
  focusRow(key) {
    const row = key === "strength" ? byId("strength") : partOf(this.focus)?.querySelector(`[data-row="${key}"]`);
    row?.querySelector('button[tabindex="0"]')?.focus();
  }

  /** Go one row up or down: from the response through its ratings to the strength. @param {number} step */
  moveRow(step) {
    if (!this.item) return;
    const { attributes, strength } = this.item.task.protocol;
    const rows = [...attributes.map(({ key }) => key), ...(strength === "off" ? [] : ["strength"])];
    const index = rows.indexOf(this.row()?.dataset.row) + step;
    if (index === -1 && step < 0) this.focusResponse();
    else if (rows[index]) this.focusRow(rows[index]);
  }

  /** Rate on the row that has the focus; ten is the nought of a scale without one. @param {number} digit */
  rateHere(digit) {
    const row = this.row();
    const steps = [...row.querySelectorAll("button")].map((/** @type {any} */ step) => Number(step.dataset.score));
    const score = digit === 0 && !steps.includes(0) ? 10 : digit;
    if (!steps.includes(score) || !this.item) return;
    const chosen = row.querySelector('button[aria-pressed="true"]')?.dataset.score;
    // A key sets and never takes away: pressed twice, it says the same.
    if (String(score) !== chosen) row.querySelector(`button[data-score="${score}"]`).click();
    this.focusRow(row.dataset.row);
  }

  /** Take back what the row in focus says, or else the last one placed. */
  takeBack() {
    const row = this.row();
    if (!row) return this.act("takeBack");
    row.querySelector('button[aria-pressed="true"]')?.click();
    this.focusRow(row.dataset.row);
  }

  /** @param {number} step */
  changeStrength(step) {
    const first = byId("strength").querySelector("button");
    if (!this.item || byId("strength").hidden || !first || first.disabled) return;
    if (this.item.task.protocol.two_sided) return this.changeSide(step);
    const { strength } = this.item.verdict;
    const most = this.item.task.protocol.strength_levels;
    const next = strength === null ? (step > 0 ? 1 : 0) : Math.max(0, Math.min(most, strength + step));
    if (next !== strength) this.act("strength", next);
  }

  /** Go one step towards the first response, or the second. @param {number} step */
  changeSide(step) {
    if (!this.item) return;
    const { task, verdict } = this.item;
    const now = verdicts.sideOf(verdict, task) ?? 0;
    const there = verdicts.sides(task.protocol).filter((side) => (step < 0 ? side < now : side > now));
    const next = step < 0 ? there.at(-1) : there[0];
    if (next !== undefined) this.act("side", next);
  }

  /** @param {string} id */
  openRewrite(id) {
    if (!this.item?.task.protocol.rewrites) return;
    const { task, verdict } = this.item;
    const index = task.responses.findIndex((response) => response.id === id);
    if (verdict.rewrites[id] === undefined) this.set(verdicts.rewrite(verdict, id, task.responses[index].text));
    partOf(index).querySelector("textarea").focus();
  }

  /** @param {string} id @param {string} target where it was dropped */
  dropped(id, target) {
    if (!this.item || !id) return;
    const [kind, index] = target.split(":");
    if (kind === "pool") return this.act("takeBack", id);
    const { tiers } = this.item.verdict;
    const asNew = kind === "gap" || !this.item.task.protocol.ties || !tiers[Number(index)];
    this.rank(verdicts.move(this.item.verdict, id, Number(index), asNew));
  }

  /* ---- how it is shown ---- */

  toggleDifferences() {
    if (!canMark()) return;
    this.differences = !this.differences;
    byId("differences").setAttribute("aria-pressed", String(this.differences));
    this.mark();
  }

  mark() {
    const texts = [...byId("responses").querySelectorAll(".response__text")];
    markDifferences(texts, this.differences ? this.focus : null);
    byId("said").textContent = this.differences && texts.length > 2 ? say("differences_of", { letter: letterOf(this.focus) }) : "";
  }

  /** @param {string} words */
  complain(words) {
    byId("problems").replaceChildren(h("p", {}, say(words)));
  }

  /** Say what the protocol still wants and go to the first of it. @param {import("./verdict.js").Missing[]} lacking */
  showMissing(lacking) {
    if (!this.item) return;
    const { task } = this.item;
    const place = (/** @type {any} */ lack) => task.responses.findIndex(({ id }) => id === lack.response);
    const label = (/** @type {any} */ lack) => {
      const attribute = task.protocol.attributes.find(({ key }) => key === lack.key);
      return { label: attribute ? labelled(task.protocol, attribute) : "", letter: letterOf(place(lack)) ?? "" };
    };
    byId("problems").replaceChildren(...lacking.slice(0, 4).map((lack) => h("p", {}, say(lack.words, label(lack)))));
    const [first] = lacking;
    toggleSheet(first.part !== "rating");
    if (first.part === "rating") {
      this.focusResponse(place(first));
      this.focusRow(first.key ?? "");
    } else if (first.part === "strength") this.focusRow("strength");
    else if (first.part === "rationale") byId("rationale").focus();
    else this.focusResponse();
  }
}
