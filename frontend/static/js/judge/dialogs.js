/** The page's dialogs: guidelines, keys, giving a task up, signing in again, and links that ask first. */

import { Offline, send, signIn } from "./api.js";
import { PAGE, byId, h, say } from "./dom.js";
import { DEFAULTS, combination, counts, labelOf } from "./keys.js";
import { labelled } from "./view.js";

for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog")?.close());
}

/** Whether a dialog is open: the page's own keys rest then. */
export const isOpen = () => document.querySelector("dialog[open]") !== null;

/* Guidelines: one key away, and shown until read when they are new to the reader. */

const guidelines = byId("guidelines-dialog");
let shownGuidelines = PAGE.guidelines;

function unread() {
  return guidelines.hasAttribute("data-unread");
}

export function showGuidelines() {
  guidelines.querySelector("[data-unread-label]").hidden = !unread();
  guidelines.querySelector("[data-close-label]").hidden = unread();
  if (!guidelines.open) guidelines.showModal();
  byId("guidelines-close").focus({ preventScroll: true });
}

/** Show the guidelines if they are new to the reader. */
export function showUnreadGuidelines() {
  if (unread()) showGuidelines();
}

/** Take note of the newest version that the server names. @param {{id: string, read: boolean} | null | undefined} newest */
export async function noticeGuidelines(newest) {
  if (!newest || newest.id === shownGuidelines) return;
  const { json } = await send("GET", PAGE.urls.guidelines);
  byId("guidelines-text").innerHTML = json.html; // sanitised by the server
  byId("guidelines-none").hidden = json.html !== "";
  shownGuidelines = json.id;
  if (newest.read) return;
  byId("guidelines-notice").textContent = say("guidelines_new");
  byId("guidelines-notice").hidden = false;
  guidelines.setAttribute("data-unread", "");
  showGuidelines();
}

guidelines.addEventListener("cancel", (/** @type {Event} */ event) => unread() && event.preventDefault());
byId("guidelines-close").addEventListener("click", () => {
  guidelines.close();
  if (!unread()) return;
  guidelines.removeAttribute("data-unread");
  byId("guidelines-notice").hidden = true;
  send("POST", PAGE.urls.guidelines, { id: shownGuidelines }).catch(() => {
    guidelines.setAttribute("data-unread", ""); // shown again with the next task
  });
});

/* Keys: every key with what it does, and another one where a person wants it. */

/** @param {import("./keys.js").Keymap} keymap @param {any} protocol @param {() => void} changed */
export function showKeys(keymap, protocol, changed) {
  const dialog = byId("keys-dialog");
  const parts = [...(protocol?.attributes ?? []), ...(protocol?.flags ?? [])].filter((part) => part.letter);
  const letters = parts.map((part) => part.letter);
  const row = (/** @type {Node[]} */ keys, /** @type {string} */ does, /** @type {Node | null} */ change = null) =>
    h("tr", {}, h("td", {}, ...keys), h("td", {}, does), h("td", {}, change));
  const fixed = (/** @type {string} */ key) => h("kbd", {}, key);
  const list = () => [
    row([fixed("1"), " – ", fixed("9")], say("key_place")),
    row([fixed("⇧1"), " – ", fixed("⇧9")], say("key_tie")),
    ...Object.keys(DEFAULTS).map((action) => {
      const change = h("button", {
        type: "button", class: "button button--quiet", "aria-label": `${say("key_change")}: ${say(`key_${action}`)}`,
        onclick: () => listen(change, action),
      }, say("key_change")); // prettier-ignore
      return row([fixed(labelOf(keymap.all[action]))], say(`key_${action}`), change);
    }),
    row([fixed("Ctrl Enter")], say("key_submit_text")),
    row([fixed("Esc")], say("key_leave")),
    row([fixed("0"), " – ", fixed("9")], say("key_rate")),
    ...(protocol?.attributes ?? []).filter((/** @type {any} */ part) => part.letter).map((/** @type {any} */ part) =>
      row([fixed(part.letter.toUpperCase())], say("key_letter", { label: labelled(protocol, part) }))),
    ...(protocol?.flags ?? []).filter((/** @type {any} */ part) => part.letter).map((/** @type {any} */ part) =>
      row([fixed(part.letter.toUpperCase())], say("key_flag", { label: labelled(protocol, part) }))),
  ]; // prettier-ignore
  const refresh = () => {
    byId("keys-list").replaceChildren(...list());
    byId("keys-problem").textContent = "";
    byId("keys-reset").hidden = Object.keys(keymap.own).length === 0;
  };
  const keep = async () => {
    refresh();
    changed();
    try {
      await send("PUT", PAGE.urls.keys, keymap.own);
    } catch (error) {
      byId("keys-problem").textContent = say("refused", { reason: String(error) });
    }
  };
  const listen = (/** @type {HTMLElement} */ button, /** @type {string} */ action) => {
    button.textContent = say("key_press");
    button.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (!counts(event) || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      const key = combination(event);
      if (key === "Escape") return refresh();
      if (!keymap.isFree(action, key, letters)) {
        refresh();
        byId("keys-problem").textContent = say("key_taken");
        return;
      }
      keymap.change(action, key);
      keep();
    }); // prettier-ignore
  };
  byId("keys-reset").textContent = say("key_reset");
  byId("keys-reset").onclick = () => {
    keymap.reset();
    keep();
  };
  refresh();
  dialog.showModal();
}

/* Giving a task up. */

/** Ask for the reason; resolves to it, or to null where the person goes back. @param {"skip" | "report"} kind */
export function askReason(kind) {
  const dialog = byId("give-up-dialog");
  for (const part of dialog.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== kind;
  byId("give-up-reason").value = "";
  byId("give-up-reason").required = kind === "report";
  byId("give-up-problem").textContent = "";
  const buttons = kind === "skip" ? [...dialog.querySelectorAll("[data-reason]")] : [];
  return new Promise((resolve) => {
    const ends = new AbortController();
    const { signal } = ends;
    const done = (/** @type {string | null} */ reason) => {
      ends.abort();
      dialog.close();
      resolve(reason);
    };
    for (const button of buttons) button.addEventListener("click", () => done(button.dataset.reason), { signal });
    dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const index = Number(/^Digit([1-9])$/.exec(combination(event))?.[1]) - 1;
      const inText = event.target === byId("give-up-reason") && byId("give-up-reason").value !== "";
      if (counts(event) && buttons[index] && !inText) {
        event.preventDefault();
        done(buttons[index].dataset.reason);
      }
    }, { signal }); // prettier-ignore
    byId("give-up-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      done(byId("give-up-reason").value.trim());
    }, { signal }); // prettier-ignore
    dialog.addEventListener("close", () => {
      ends.abort();
      resolve(null);
    }, { signal }); // prettier-ignore
    dialog.showModal();
    byId("give-up-reason").focus();
  });
}

/* Signing in again, in place. */

/** @type {Promise<void> | null} */
let signingIn = null;

/** Ask for the password until the session stands again; several callers share one dialog. */
export function askSignIn() {
  signingIn ??= new Promise((resolve) => {
    const [dialog, form] = [byId("sign-in-dialog"), byId("sign-in-form")];
    byId("sign-in-name").value = PAGE.username;
    byId("sign-in-password").value = "";
    byId("sign-in-problem").textContent = "";
    dialog.addEventListener("cancel", keepOpen);
    form.addEventListener("submit", tryPassword);
    dialog.showModal();
    byId("sign-in-password").focus();

    /** @param {Event} event */
    function keepOpen(event) {
      event.preventDefault(); // without a session, nothing behind it works
    }

    /** @param {Event} event */
    async function tryPassword(event) {
      event.preventDefault();
      try {
        const done = await signIn(PAGE.urls.login, PAGE.username, byId("sign-in-password").value);
        if (!done) {
          byId("sign-in-problem").textContent = say("sign_in_wrong");
          return byId("sign-in-password").select();
        }
      } catch (error) {
        const reason = error instanceof Offline ? say("sign_in_offline") : String(error);
        byId("sign-in-problem").textContent = reason;
        return undefined;
      }
      dialog.removeEventListener("cancel", keepOpen);
      form.removeEventListener("submit", tryPassword);
      dialog.close();
      signingIn = null;
      resolve(undefined);
      return undefined;
    }
  });
  return signingIn;
}

/* Links in what models and strangers wrote ask first. */

/** @param {MouseEvent} event */
function askLink(event) {
  const link = event.target instanceof Element ? event.target.closest(".prose a[href]") : null;
  if (!(link instanceof HTMLAnchorElement)) return;
  event.preventDefault();
  byId("link-address").textContent = link.href;
  byId("link-open").href = link.href;
  // Who pressed it with a pointer goes on judging: an Enter that submits must not find the link in focus. A dialog gives
  // focus back to what had it as it opened, at once; its close event comes later, and a quick Enter before that.
  const response = event.detail > 0 ? link.closest(".response, #prompt") : null;
  if (response instanceof HTMLElement) response.focus({ preventScroll: true });
  byId("link-dialog").showModal();
}
document.addEventListener("click", askLink);
document.addEventListener("auxclick", askLink);
byId("link-open").addEventListener("click", () => byId("link-dialog").close());
