/** Which key does what: by its physical place, never while an input method composes, never on repeat. */

/** What the page does by a single key; digits and the protocol's letters come beside them. */
export const DEFAULTS = Object.freeze({
  equal: "Digit0",
  bad: "KeyX",
  back: "Backspace",
  left: "ArrowLeft",
  right: "ArrowRight",
  up: "ArrowUp",
  down: "ArrowDown",
  weaker: "Minus",
  stronger: "Equal",
  differences: "KeyD",
  fold: "KeyF",
  scroll: "Backslash",
  layout: "BracketRight",
  rationale: "Slash",
  rewrite: "Period",
  guidelines: "KeyG",
  skip: "KeyS",
  report: "Shift+KeyS",
  undo: "Ctrl+KeyZ",
  submit: "Enter",
  keys: "Shift+Slash",
});

/** Keys that keep their meaning whatever is remapped. */
const FIXED = /^(Shift\+)?Digit[1-9]$|^Escape$|^Tab$|^(Shift|Ctrl)\+Tab$|^Ctrl\+Enter$/;

/** Whether a key press is for the page at all. @param {KeyboardEvent} event */
export function counts(event) {
  return !event.isComposing && event.keyCode !== 229 && !event.repeat;
}

/** Name a key press by its place: "Shift+Digit2", "Ctrl+KeyZ". @param {KeyboardEvent} event */
export function combination(event) {
  const code = event.code.replace(/^Numpad(\d)$/, "Digit$1").replace("NumpadEnter", "Enter");
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  return `${control}${event.altKey ? "Alt+" : ""}${event.shiftKey ? "Shift+" : ""}${code}`;
}

/** The keys of one person, over the ones that the page comes with. */
export class Keymap {
  /** @param {Record<string, string>} own */
  constructor(own) {
    this.own = Object.fromEntries(Object.entries(own).filter(([action]) => action in DEFAULTS));
  }

  /** @returns {Record<string, string>} */
  get all() {
    return { ...DEFAULTS, ...this.own };
  }

  /** Return the action of a combination. @param {KeyboardEvent} event @returns {string | undefined} */
  action(event) {
    const pressed = combination(event);
    const found = Object.entries(this.all).find(([, key]) => key === pressed)?.[0];
    // The question mark stands elsewhere on other keyboards.
    return found ?? (event.key === "?" && this.all.keys === DEFAULTS.keys ? "keys" : undefined);
  }

  /** Whether a key may be given to an action. @param {string} action @param {string} key @param {string[]} letters */
  isFree(action, key, letters) {
    const taken = Object.entries(this.all).some(([other, used]) => other !== action && used === key);
    return !taken && !FIXED.test(key) && !letters.some((letter) => key === `Key${letter.toUpperCase()}`);
  }

  /** @param {string} action @param {string} key */
  change(action, key) {
    this.own = { ...this.own, [action]: key };
  }

  reset() {
    this.own = {};
  }
}

const SIGNS = /** @type {Record<string, string>} */ ({
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Backspace: "⌫", Minus: "−", Equal: "=",
  Backslash: "\\", Slash: "/", Period: ".", Comma: ",", Semicolon: ";", Quote: "'", Backquote: "`", Space: "␣",
  BracketLeft: "[", BracketRight: "]", Escape: "Esc",
}); // prettier-ignore

/** Write a key as it stands on the keyboard. @param {string} key */
export function labelOf(key) {
  if (key === "Shift+Slash") return "?";
  const parts = key.split("+").map((part) => SIGNS[part] ?? part.replace(/^(Key|Digit)/, ""));
  return parts.map((part) => (part === "Shift" ? "⇧" : part)).join(parts[0] === "Shift" ? "" : " ");
}
