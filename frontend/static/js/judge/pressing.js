/** Key presses turned into acts: by the person's keymap, the digits, and the letters of the protocol. */

import { byId } from "./dom.js";
import { combination, counts } from "./keys.js";
import { toggleFold, toggleLayout, toggleScroll, toggleSheet } from "./layout.js";

/**
 * @param {import("./desk.js").Desk} desk @param {Record<string, () => void>} actions
 * @param {{main: HTMLElement, isBusy: () => boolean}} page
 */
export function handleKeys(desk, actions, page) {
  document.addEventListener("keydown", (event) => {
    if (!counts(event)) {
      // A held Enter must not press a button again and again either.
      if (event.repeat && event.key === "Enter" && !inText(event.target)) event.preventDefault();
      return;
    }
    if (page.isBusy()) return;
    if (page.main.dataset.state !== "judging") {
      if (desk.keymap.action(event) === "undo") actions.undo(); // the last submit of all can be opened again too
      return;
    }
    const done = inText(event.target) ? pressInText(event) : press(event);
    if (done) event.preventDefault();
  });

  /** @param {KeyboardEvent} event */
  function pressInText(event) {
    const pressed = combination(event);
    if (pressed === "Escape") desk.focusResponse();
    else if (pressed === "Ctrl+Enter") actions.submit();
    else return false;
    return true;
  }

  /** @param {KeyboardEvent} event */
  function press(event) {
    const pressed = combination(event);
    if (pressed === "Escape") return desk.row() ? (desk.focusResponse(), true) : leave();
    if (pressed === "Ctrl+Enter") return actions.submit(), true;
    const digit = /^(Shift\+)?Digit(\d)$/.exec(pressed);
    if (digit && !digit[1] && desk.row()) return desk.rateHere(Number(digit[2])), true;
    if (digit && digit[2] !== "0") return placed(Number(digit[2]) - 1, digit[1] ? "tie" : "place");
    const action = desk.keymap.action(event);
    if (action === "submit" && ownsEnter(event.target)) return false;
    if (action) return act(action);
    return letter(pressed);
  }

  function leave() {
    const text = byId("sheet").getAttribute("aria-expanded") === "true";
    if (text) toggleSheet(false);
    else actions.leave();
    return true;
  }

  /** @param {number} index @param {string} how */
  function placed(index, how) {
    const response = desk.item?.task.responses[index];
    if (response) desk.act(how, response.id);
    return true;
  }

  /** @param {string} action */
  function act(action) {
    const response = desk.item?.task.responses[desk.focus];
    if (action in actions) actions[action]();
    else if (action === "equal" || action === "bad") desk.act(action);
    else if (action === "back") desk.takeBack();
    else if (action === "left" || action === "right") desk.moveFocus(action === "left" ? -1 : 1);
    else if (action === "up" || action === "down") return rows(action === "up" ? -1 : 1);
    else if (action === "weaker" || action === "stronger") desk.changeStrength(action === "weaker" ? -1 : 1);
    else if (action === "differences") desk.toggleDifferences();
    else if (action === "fold") toggleFold();
    else if (action === "scroll") toggleScroll();
    else if (action === "layout") toggleLayout();
    else if (action === "rewrite" && response) desk.act("rewrite", response.id);
    else if (action === "rationale") return write();
    return true;
  }

  /** Without rating rows, up and down scroll as everywhere. @param {number} step */
  function rows(step) {
    const protocol = desk.item?.task.protocol;
    if (!protocol?.attributes.length && !desk.row()) return false;
    desk.moveRow(step);
    return true;
  }

  function write() {
    if (byId("rationale-part").hidden) return false;
    toggleSheet(true);
    byId("rationale").focus();
    return true;
  }

  /** @param {string} pressed */
  function letter(pressed) {
    const name = /^Key([A-Z])$/.exec(pressed)?.[1].toLowerCase();
    const { task } = desk.item ?? {};
    if (!name || !task) return false;
    const attribute = task.protocol.attributes.find((part) => part.letter === name);
    const flag = task.protocol.flags.find((part) => part.letter === name);
    if (attribute) desk.focusRow(attribute.key);
    if (flag) desk.act("flag", task.responses[desk.focus].id, flag.name);
    return Boolean(attribute || flag);
  }
}

/** @param {EventTarget | null} target */
function inText(target) {
  if (!(target instanceof HTMLElement)) return false;
  const typed = target instanceof HTMLInputElement && !["checkbox", "radio", "button"].includes(target.type);
  return typed || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

/** Whether Enter belongs to what has the focus: a button of the bar or the foot, a link, a menu. @param {EventTarget | null} target */
function ownsEnter(target) {
  if (!(target instanceof Element) || !target.closest("button, a[href], summary")) return false;
  return target.closest("a[href], summary, .bar, .judge__foot, .judge__notices, .response__editor") !== null
    && target.closest("#submit, #undo") === null; // prettier-ignore
}
