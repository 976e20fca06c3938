/** The verdict panel: the ranking in tiers, how strong it is, and the flags of the response in focus. */

import { byId, h, letterOf, say } from "./dom.js";
import { labelOf } from "./keys.js";
import { isTie, ranking, sideOf, sides } from "./verdict.js";
import { labelled, placeName, translated } from "./view.js";

/** @typedef {import("./verdict.js").Task} Task @typedef {import("./verdict.js").Verdict} Verdict */

/** Build what stays the same for a task. @param {Task} task @param {any} act @param {Record<string, string>} keys */
export function showPanel(task, act, keys) {
  const { protocol } = task;
  byId("ranking").hidden = protocol.ranking === "off";
  byId("ranking").replaceChildren(
    protocol.two_sided ? "" : h("ol", { class: "tiers", "aria-label": say("key_place") }),
    protocol.two_sided ? "" : h("div", { class: "pool", data: { drop: "pool" } }),
    h("div", { class: "actions" },
      protocol.ties && !protocol.two_sided && h("button", { type: "button", class: "button", id: "all-equal", onclick: () => act("equal") },
        say("all_equal"), " ", h("kbd", {}, labelOf(keys.equal))),
      protocol.all_bad && h("button", {
        type: "button", class: "button", id: "all-bad", "aria-pressed": "false", onclick: () => act("bad"),
      }, say("all_bad"), " ", h("kbd", {}, labelOf(keys.bad)))),
  ); // prettier-ignore
  byId("strength").hidden = protocol.strength === "off" || task.responses.length !== 2;
  byId("strength").replaceChildren(...strengthParts(task, act, keys));
  byId("flags").hidden = protocol.flags.length === 0;
  byId("rationale-part").hidden = protocol.rationale === "off";
  byId("rationale-need").textContent = protocol.rationale === "required" ? `(${say("required")})` : "";
  byId("problems").replaceChildren();
}

/** @param {Task} task @param {any} act @param {Record<string, string>} keys */
function strengthParts({ protocol }, act, keys) {
  if (protocol.two_sided) return scaleParts(protocol, act, keys);
  const steps = Array.from({ length: protocol.strength_levels + 1 }, (_, level) =>
    h("button", {
      type: "button", "aria-pressed": "false", data: { score: level }, tabindex: level === 0 ? "0" : "-1",
      onclick: () => act("strength", level),
    }, h("span", { class: "step__number" }, String(level)), translated(protocol, protocol.strength_labels[level] ?? String(level)))); // prettier-ignore
  return [
    h("div", { class: "verdict__head" },
      h("span", { class: "label", id: "strength-title" }, say("strength")),
      h("span", {}, h("kbd", {}, labelOf(keys.weaker)), " ", h("kbd", {}, labelOf(keys.stronger)))),
    h("div", { class: "steps", role: "group", "aria-labelledby": "strength-title", data: { row: "strength" } }, ...steps),
  ]; // prettier-ignore
}

/** One scale from the first response to the second; its steps are numbered from 1, as the digits that choose them.
 * @param {import("./verdict.js").Protocol} protocol @param {any} act @param {Record<string, string>} keys */
function scaleParts(protocol, act, keys) {
  const steps = sides(protocol).map((side, place) => {
    const level = Math.abs(side);
    const step = translated(protocol, protocol.strength_labels[level] ?? String(level));
    return h("button", {
      type: "button", "aria-pressed": "false", data: { score: place + 1, side }, tabindex: place === 0 ? "0" : "-1",
      onclick: () => act("side", side),
    }, h("span", { class: "step__number" }, String(place + 1)),
      side === 0 ? step : say("scale_step", { letter: letterOf(side < 0 ? 0 : 1), step })); // prettier-ignore
  });
  return [
    h("div", { class: "verdict__head" },
      h("span", { class: "label", id: "strength-title" }, say("scale")),
      h("span", {}, h("kbd", {}, labelOf(keys.weaker)), " ", h("kbd", {}, labelOf(keys.stronger)))),
    h("div", { class: "steps", role: "group", "aria-labelledby": "strength-title", data: { row: "strength" } }, ...steps),
  ]; // prettier-ignore
}

/** Show the verdict as it stands. @param {Task} task @param {Verdict} verdict @param {number} focus @param {any} act */
export function updatePanel(task, verdict, focus, act) {
  const held = /** @type {HTMLElement | null} */ (document.activeElement)?.closest("#verdict [data-drag]");
  if (task.protocol.ranking !== "off") updateRanking(task, verdict, act);
  if (task.protocol.strength !== "off") updateStrength(task, verdict);
  if (task.protocol.flags.length) updateFlags(task, verdict, focus, act);
  const rationale = byId("rationale");
  if (rationale.value !== verdict.rationale) rationale.value = verdict.rationale;
  byId("summary").textContent = summary(task, verdict);
  if (held instanceof HTMLElement) {
    byId("verdict").querySelector(`[data-drag="${held.dataset.drag}"]`)?.focus({ preventScroll: true });
  }
}

/** @param {Task} task @param {Verdict} verdict */
function summary(task, verdict) {
  if (task.protocol.ranking === "off") {
    const scores = Object.values(verdict.ratings).reduce((sum, of) => sum + Object.keys(of).length, 0);
    return say("rated", { n: scores, of: task.responses.length * task.protocol.attributes.length });
  }
  const letters = new Map(task.responses.map(({ id }, index) => [id, letterOf(index)]));
  const { tiers } = ranking(verdict, task);
  const text = tiers.map((tier) => tier.map((id) => letters.get(id)).join(" = ")).join(" › ");
  return text + (verdict.all_bad ? ` · ${say("all_bad")}` : "") || say("nothing_placed");
}

/** @param {Task} task @param {Verdict} verdict @param {any} act */
function updateRanking(task, verdict, act) {
  const { tiers, follows } = ranking(verdict, task);
  const letters = new Map(task.responses.map(({ id }, index) => [id, letterOf(index)]));
  const chip = (/** @type {string} */ id, /** @type {string} */ name, /** @type {string} */ words) =>
    h("button", {
      type: "button", class: `chip${follows.includes(id) ? " chip--follows" : ""}`, data: { drag: id },
      title: follows.includes(id) ? say("follows") : null, "aria-label": say(words, { letter: letters.get(id) ?? "" }),
      onclick: () => act(name, id),
    }, letters.get(id) ?? ""); // prettier-ignore
  // As many rows as responses, so that nothing moves while the ranking grows.
  const rows = task.responses.map((_, index) => {
    const members = tiers[index] ?? [];
    return h("li", { class: "tier", data: { drop: `tier:${index}`, filled: String(members.length > 0) } },
      h("span", { class: "tier__gap", data: { drop: `gap:${index}` } }),
      h("span", { class: "tier__place" }, placeName(index)),
      h("span", { class: "tier__chips" },
        ...members.map((id) => (follows.includes(id) ? chip(id, "place", "place") : chip(id, "takeBack", "take_back"))))); // prettier-ignore
  });
  document.getElementById("all-bad")?.setAttribute("aria-pressed", String(verdict.all_bad));
  if (task.protocol.two_sided) return;
  byId("ranking").querySelector(".tiers").replaceChildren(...rows);
  const placed = new Set(tiers.flat());
  const left = task.responses.filter(({ id }) => !placed.has(id));
  byId("ranking").querySelector(".pool").replaceChildren(
    h("span", { class: "soft small" }, left.length ? say(task.protocol.partial && placed.size ? "unranked" : "unplaced") : ""),
    ...left.map(({ id }) => chip(id, "place", "place")),
  ); // prettier-ignore
}

/** @param {Task} task @param {Verdict} verdict */
function updateStrength(task, verdict) {
  if (task.protocol.two_sided) return updateScale(task, verdict);
  const { tiers } = ranking(verdict, task);
  const ready = tiers.flat().length === 2 && !isTie(tiers);
  const first = task.responses.findIndex(({ id }) => id === tiers[0]?.[0]);
  byId("strength-title").textContent = ready
    ? say("strength_of", { letter: letterOf(first) })
    : say(isTie(tiers) ? "strength_tie" : "strength_first");
  const chosen = ready ? verdict.strength : null;
  for (const step of byId("strength").querySelectorAll("button")) {
    step.disabled = !ready;
    step.setAttribute("aria-pressed", String(Number(step.dataset.score) === chosen));
    step.tabIndex = Number(step.dataset.score) === (chosen ?? 0) ? 0 : -1;
  }
}

/** @param {Task} task @param {Verdict} verdict */
function updateScale(task, verdict) {
  const steps = [...byId("strength").querySelectorAll("button")];
  const chosen = steps.find((step) => Number(step.dataset.side) === sideOf(verdict, task));
  for (const step of steps) {
    step.setAttribute("aria-pressed", String(step === chosen));
    step.tabIndex = step === (chosen ?? steps[0]) ? 0 : -1;
  }
}

/** @param {Task} task @param {Verdict} verdict @param {number} focus @param {any} act */
function updateFlags(task, verdict, focus, act) {
  const { id } = task.responses[focus];
  const letter = letterOf(focus);
  const part = byId("flags");
  if (part.dataset.of !== id) {
    part.dataset.of = id;
    part.replaceChildren(
      h("div", { class: "verdict__head" },
        h("span", { class: "label", id: "flags-title" }, say("flags_of", { letter })),
        h("span", { class: "segmented segmented--small" }, ...task.responses.map((_, index) =>
          h("button", {
            type: "button", "aria-pressed": String(index === focus), "aria-label": say("flags_of", { letter: letterOf(index) }),
            onclick: () => act("focus", index),
          }, letterOf(index))))),
      h("div", { class: "flags", role: "group", "aria-labelledby": "flags-title" }, ...task.protocol.flags.map((flag) =>
        h("label", { class: "check" },
          h("input", {
            type: "checkbox", data: { flag: flag.name }, onchange: () => act("flag", id, flag.name),
            "aria-describedby": flag.description ? `flag-${flag.name}` : null,
          }),
          h("span", {}, labelled(task.protocol, flag), " ", flag.letter && h("kbd", {}, flag.letter.toUpperCase()),
            flag.description && h("span", { class: "flag__about soft", id: `flag-${flag.name}` },
              translated(task.protocol, flag.description)))))),
    ); // prettier-ignore
  }
  for (const box of part.querySelectorAll("input[data-flag]")) {
    box.checked = verdict.flags[id]?.includes(box.dataset.flag) ?? false;
  }
}
