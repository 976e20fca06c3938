/** The prompt in its turns, and the responses beside each other with their ratings and rewrites. */

import { PAGE, byId, h, letterOf, say } from "./dom.js";
import { labelOf } from "./keys.js";
import { showChanges } from "./differences.js";
import { ranking } from "./verdict.js";

/** @typedef {import("./verdict.js").Task} Task @typedef {import("./verdict.js").Verdict} Verdict */
/** @typedef {import("./verdict.js").Protocol} Protocol */

/** What there is in the reader's language, or in the same without its region. @param {Record<string, any>} [byLanguage] */
function inLanguage(byLanguage = {}) {
  const known = Object.fromEntries(Object.entries(byLanguage).map(([code, words]) => [code.toLowerCase(), words]));
  return [PAGE.language, PAGE.language.split("-")[0]].map((code) => known[code]).filter(Boolean);
}

/** One of the protocol's texts in the reader's language, where it has one. @param {Protocol} protocol @param {string} text */
export function translated(protocol, text) {
  return inLanguage(protocol.translations).find((words) => words[text])?.[text] ?? text;
}

/** A label in the reader's language. @param {Protocol} protocol @param {{label: string, labels: Record<string, string>}} part */
export function labelled(protocol, part) {
  return inLanguage(part.labels)[0] || translated(protocol, part.label);
}

/** How a place in a ranking is called. @param {number} index */
export const placeName = (index) => (index < 3 ? say(`place_${index + 1}`) : say("place_n", { n: index + 1 }));

/** Show the prompt; a conversation stands in turns, and its last turn is in view. @param {Task} task */
export function showPrompt(task) {
  const { messages } = task.prompt;
  const alone = messages.length === 1;
  byId("prompt").replaceChildren(
    ...messages.map(({ role, html }) =>
      h("div", { class: `turn turn--${role}` },
        alone && role === "user" ? null : h("span", { class: "turn__role" }, roleName(role)),
        h("div", { class: "prose", dir: "auto", html }))),
  ); // prettier-ignore
  byId("prompt").scrollTop = alone ? 0 : byId("prompt").scrollHeight;
}

/** @param {string} role */
function roleName(role) {
  return PAGE.words[`role_${role}`] ?? role;
}

/**
 * Build the responses of a task; act carries out what a control asks for.
 * @param {Task} task @param {(name: string, ...values: any[]) => void} act
 */
export function showResponses(task, act) {
  const region = byId("responses");
  region.dataset.number = task.responses.length;
  region.replaceChildren(...task.responses.map((response, index) => responsePart(task, response, index, act)));
  region.scrollTop = region.scrollLeft = 0;
}

/** @param {Task} task @param {any} response @param {number} index @param {any} act */
function responsePart(task, response, index, act) {
  const { protocol } = task;
  const letter = letterOf(index);
  const ranked = protocol.ranking !== "off";
  const title = h("h3", { id: `title-${letter}`, class: "response__title" }, say("response", { letter }));
  const placeButton = h("button", {
    type: "button", class: "chip chip--place", data: { drag: response.id, act: "place" }, "aria-keyshortcuts": index + 1,
    "aria-label": say("place", { letter }), title: say("place", { letter }),
    onclick: (/** @type {MouseEvent} */ event) => act(event.shiftKey ? "tie" : "place", response.id),
  }, letter, h("kbd", {}, String(index + 1))); // prettier-ignore
  return h("article", {
    class: "response", id: `response-${letter}`, tabindex: "-1", "aria-labelledby": `title-${letter}`,
    data: { response: response.id }, onfocusin: () => act("focus", index), onpointerdown: () => act("focus", index),
  },
    h("header", { class: "response__head" },
      ranked ? placeButton : h("span", { class: "chip chip--still" }, letter),
      title,
      h("span", { class: "response__rank", "aria-live": "off" }),
      h("span", { class: "response__flags" }),
      protocol.rewrites && h("button", {
        type: "button", class: "button button--quiet response__rewrite", "aria-expanded": "false",
        onclick: () => act("rewrite", response.id),
      }, say("rewrite"), " ", h("kbd", { data: { key: "rewrite" } }, "."))),
    response.text.trim()
      ? h("div", { class: "prose response__text", dir: "auto", html: response.html })
      : h("p", { class: "soft response__text" }, say("empty_response")),
    protocol.rewrites && h("div", { class: "response__editor", hidden: true }),
    protocol.attributes.length > 0 && ratingsPart(task, response, letter, act)); // prettier-ignore
}

/** @param {Task} task @param {any} response @param {string} letter @param {any} act */
function ratingsPart(task, response, letter, act) {
  const line = h("p", { class: "ratings__anchor soft small" });
  const { protocol } = task;
  const rows = protocol.attributes.map((attribute) => {
    const label = labelled(protocol, attribute);
    const anchorOf = (/** @type {string} */ step) => translated(protocol, attribute.anchors[step] ?? "");
    const steps = [];
    for (let score = attribute.minimum; score <= attribute.maximum; score += 1) {
      const anchor = anchorOf(String(score));
      steps.push(h("button", {
        type: "button", "aria-pressed": "false", tabindex: score === attribute.minimum ? "0" : "-1",
        data: { score }, title: anchor || null, "aria-label": anchor ? `${score}: ${anchor}` : null,
        onclick: () => act("rate", response.id, attribute.key, score),
      }, String(score))); // prettier-ignore
    }
    const anchors = Object.keys(attribute.anchors).map((step) => `${step} ${anchorOf(step)}`).join(" · ");
    const tell = () => (line.textContent = anchors ? `${label}: ${anchors}` : label);
    return h("div", {
      class: "rating", role: "group", data: { row: attribute.key }, onfocusin: tell, onpointerenter: tell,
      "aria-label": say("rating_of", { label, letter }),
    },
      h("span", { class: "rating__label" }, label, attribute.letter && h("kbd", {}, attribute.letter.toUpperCase())),
      h("span", { class: "segmented rating__steps" }, ...steps)); // prettier-ignore
  });
  return h("div", { class: "ratings" }, ...rows, line);
}

/** Show in each response what the verdict says of it. @param {Task} task @param {Verdict} verdict */
export function updateResponses(task, verdict) {
  const { tiers, follows } = ranking(verdict, task);
  task.responses.forEach(({ id }, index) => {
    const part = partOf(index);
    const tier = tiers.findIndex((members) => members.includes(id));
    const rank = part.querySelector(".response__rank");
    rank.textContent = tier < 0 ? "" : placeName(tier) + (tiers[tier].length > 1 ? ` (${say("tie")})` : "");
    rank.classList.toggle("response__rank--follows", follows.includes(id));
    part.dataset.placed = String(tier >= 0);
    part.querySelector(".response__flags").replaceChildren(
      ...task.protocol.flags.filter((flag) => verdict.flags[id]?.includes(flag.name))
        .map((flag) => h("span", { class: "tag tag--danger" }, labelled(task.protocol, flag))),
    ); // prettier-ignore
    for (const row of part.querySelectorAll("[data-row]")) updateRow(row, verdict.ratings[id]?.[row.dataset.row]);
  });
}

/** @param {any} row @param {number | undefined} score */
function updateRow(row, score) {
  const steps = [...row.querySelectorAll("button")];
  const chosen = steps.find((step) => Number(step.dataset.score) === score);
  for (const step of steps) {
    step.setAttribute("aria-pressed", String(step === chosen));
    step.tabIndex = step === (chosen ?? steps[0]) ? 0 : -1;
  }
}

/** @param {number} index @returns {any} */
export const partOf = (index) => byId("responses").children[index];

/**
 * Open, refresh or close the editor of a rewrite.
 * @param {number} index @param {string} original @param {string | undefined} text undefined: closed
 * @param {any} act @param {string} id
 */
export function updateRewrite(index, original, text, act, id) {
  const part = partOf(index);
  const editor = part.querySelector(".response__editor");
  if (!editor) return;
  part.querySelector(".response__rewrite").setAttribute("aria-expanded", String(text !== undefined));
  editor.hidden = text === undefined;
  if (text === undefined) return editor.replaceChildren();
  if (!editor.firstChild) {
    const letter = letterOf(index);
    editor.append(
      h("label", { class: "label", for: `rewrite-${letter}` }, say("rewrite_of", { letter })),
      h("textarea", {
        id: `rewrite-${letter}`, rows: 8, dir: "auto", maxlength: 100000,
        oninput: (/** @type {any} */ event) => act("rewriteText", id, event.target.value),
      }),
      h("button", { type: "button", class: "button", onclick: () => act("rewriteDrop", id) }, say("rewrite_drop")),
      h("p", { class: "label" }, say("rewrite_changes")),
      h("div", { class: "prose changes", dir: "auto", tabindex: "0", role: "region", "aria-label": say("rewrite_changes") }),
    ); // prettier-ignore
  }
  const area = editor.querySelector("textarea");
  if (area.value !== text) area.value = text;
  showChanges(editor.querySelector(".changes"), original, text);
}

/** Write the person's own keys on the page's controls. @param {Record<string, string>} keys */
export function writeKeys(keys) {
  for (const mark of document.querySelectorAll("kbd[data-key]")) {
    mark.textContent = labelOf(keys[/** @type {HTMLElement} */ (mark).dataset.key ?? ""] ?? "");
  }
}
