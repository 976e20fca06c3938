/** What two texts do not share: word by word, character by character in Chinese and Japanese. */

import { diffArrays } from "../../vendor/jsdiff/array.js";

const PIECE = /\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana}|[\p{L}\p{M}\p{N}'’_]+|\s+|[^\s]/gu;
// Beyond this, two texts share so little that marks would tell nothing and cost much.
const MOST_EDITS = 3000;

/** Cut a text into words, Chinese into characters. @param {string} text @returns {string[]} */
export const pieces = (text) => text.match(PIECE) ?? [];

/** @param {string[]} before @param {string[]} after */
const compare = (before, after) => diffArrays(before, after, { maxEditLength: MOST_EDITS, timeout: 300 });

/**
 * Underline what each response does not share with one of them; without one, take the marks away.
 * @param {Element[]} texts the rendered responses @param {number | null} base
 */
export function markDifferences(texts, base) {
  CSS.highlights?.delete("difference");
  if (base === null || !canMark() || texts.length < 2) return;
  const ranges = /** @type {Range[]} */ ([]);
  const read = texts.map(piecesOf);
  const others = read.filter((_, index) => index !== base);
  for (const other of others) {
    const parts = compare(read[base].map((piece) => piece.text), other.map((piece) => piece.text)); // prettier-ignore
    if (!parts) continue;
    let [inBase, inOther] = [0, 0];
    for (const { added, removed, count } of parts) {
      if (added) ranges.push(...rangesOf(other.slice(inOther, inOther + count)));
      // Among several, the one that the others are held against stays clean.
      if (removed && others.length === 1) ranges.push(...rangesOf(read[base].slice(inBase, inBase + count)));
      if (!added) inBase += count;
      if (!removed) inOther += count;
    }
  }
  CSS.highlights.set("difference", new Highlight(...ranges));
}

/** Whether this browser can mark ranges without touching the text. */
export const canMark = () => typeof Highlight === "function" && CSS.highlights !== undefined;

/** @typedef {{text: string, node: Text, from: number, to: number}} Piece */

/** @param {Element} element @returns {Piece[]} */
function piecesOf(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  const found = /** @type {Piece[]} */ ([]);
  while (walker.nextNode()) {
    const node = /** @type {Text} */ (walker.currentNode);
    for (const match of node.data.matchAll(PIECE)) {
      if (match[0].trim()) found.push({ text: match[0], node, from: match.index, to: match.index + match[0].length });
    }
  }
  return found;
}

/** Neighbours in one text become one range, with the space between them. @param {Piece[]} marked */
function rangesOf(marked) {
  const ranges = /** @type {Range[]} */ ([]);
  for (const { node, from, to } of marked) {
    const last = ranges.at(-1);
    if (last?.endContainer === node) {
      last.setEnd(node, to);
      continue;
    }
    const range = new Range();
    range.setStart(node, from);
    range.setEnd(node, to);
    ranges.push(range);
  }
  return ranges;
}

/** Show a rewrite as insertions and deletions. @param {Element} into @param {string} before @param {string} after */
export function showChanges(into, before, after) {
  /** @type {{added?: boolean, removed?: boolean, value: string[]}[]} */
  const parts = compare(pieces(before), pieces(after)) ?? [
    { removed: true, value: [before] },
    { added: true, value: [after] },
  ];
  into.replaceChildren(
    ...parts.map((part) => {
      const made = document.createElement(part.added ? "ins" : part.removed ? "del" : "span");
      made.textContent = part.value.join("");
      return made;
    }),
  ); // prettier-ignore
}
