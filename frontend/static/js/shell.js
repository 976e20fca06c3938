/** What the bar does on every page beyond plain HTML: menus that close, and a theme that changes without a reload. */

// Days begin and times are written where the reader is; the server learns the zone from this.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone) document.cookie = `timezone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;

/** Close the open menus, but for one. @param {Element | null} [except] */
function closeMenus(except = null) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (menu !== except) menu.removeAttribute("open");
  }
}

document.addEventListener("click", (event) => {
  const inside = event.target instanceof Element ? event.target.closest("details.menu") : null;
  closeMenus(inside);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = document.querySelector("details.menu[open]");
  if (!open) return;
  closeMenus();
  open.querySelector("summary")?.focus();
});

for (const form of document.querySelectorAll("form[data-theme-form]")) {
  form.addEventListener("submit", async (event) => {
    const chosen = /** @type {SubmitEvent} */ (event).submitter;
    if (!(form instanceof HTMLFormElement) || !(chosen instanceof HTMLButtonElement)) return;
    event.preventDefault();
    const body = new FormData(form, chosen);
    const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" });
    if (!answer.ok && answer.type !== "opaqueredirect") {
      form.submit(); // the server's words are shown as a page
      return;
    }
    for (const button of form.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button === chosen));
    }
    if (chosen.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen.value;
  });
}
