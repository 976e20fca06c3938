/** How the work is laid out: the prompt folded, responses beside or below each other, the verdict as a phone's sheet. */

import { byId, say } from "./dom.js";
import { layout } from "./keeping.js";

/** Lay the page out as it was left, and let its buttons change it. */
export function setUp() {
  byId("fold").addEventListener("click", toggleFold);
  byId("layout").addEventListener("click", toggleLayout);
  byId("scroll").addEventListener("click", toggleScroll);
  byId("sheet").addEventListener("click", () => toggleSheet());
  setFold(false);
  setLayout(layout.load() === "stacked");
}

export function toggleFold() {
  setFold(byId("prompt-part").dataset.folded !== "true");
}

/** @param {boolean} folded */
function setFold(folded) {
  byId("prompt-part").dataset.folded = String(folded);
  byId("fold").setAttribute("aria-expanded", String(!folded));
  byId("fold").firstElementChild.textContent = say(folded ? "unfold" : "fold");
}

/** Beside each other, or below: as wide as a text is read best. */
export function toggleLayout() {
  setLayout(byId("responses").dataset.layout !== "stacked");
}

/** @param {boolean} stacked */
function setLayout(stacked) {
  byId("responses").dataset.layout = stacked ? "stacked" : "beside";
  byId("layout").setAttribute("aria-pressed", String(stacked));
  byId("scroll").hidden = stacked;
  layout.keep(stacked ? "stacked" : "beside");
}

export function toggleScroll() {
  const together = byId("responses").dataset.scroll !== "together";
  byId("responses").dataset.scroll = together ? "together" : "single";
  byId("scroll").setAttribute("aria-pressed", String(together));
}

/** @param {boolean} [open] */
export function toggleSheet(open = byId("sheet").getAttribute("aria-expanded") !== "true") {
  byId("sheet").setAttribute("aria-expanded", String(open));
}

/**
 * Scroll as little as shows a response: one below others begins at the top of what is free, unless it is seen whole.
 * @param {HTMLElement} part
 */
export function bringIntoView(part) {
  const region = byId("responses");
  const stacked = region.lastElementChild.offsetTop > region.firstElementChild.offsetTop;
  const phone = getComputedStyle(byId("prompt-part")).position === "sticky"; // the prompt covers what scrolls below it
  const top = phone ? byId("prompt-part").getBoundingClientRect().bottom : region.getBoundingClientRect().top;
  const bottom = byId("foot").getBoundingClientRect().top;
  const box = part.getBoundingClientRect();
  part.style.scrollMarginTop = phone ? `${top}px` : "";
  const whole = box.top >= top && box.bottom <= bottom;
  part.scrollIntoView({ block: stacked && !whole ? "start" : "nearest", inline: "nearest" });
}
