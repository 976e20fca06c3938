/** What a partial page says when its part cannot be loaded: htmx alone would stay silent. */

/** Show a line above the page's content, once. @param {string} text */
function say(text) {
  const main = document.getElementById("main");
  if (!main) return;
  let line = document.getElementById("partial-failed");
  if (!line) {
    line = document.createElement("p");
    line.id = "partial-failed";
    line.className = "notice notice--danger";
    line.setAttribute("role", "alert");
    main.prepend(line);
  }
  line.textContent = text;
}

const words = document.documentElement.dataset;

document.addEventListener("htmx:sendError", () => {
  say(words.sayOffline ?? "The server cannot be reached. Nothing was lost; try again.");
});

document.addEventListener("htmx:responseError", () => {
  say(words.sayFailed ?? "The server could not answer. Reload the page and try again.");
});

document.addEventListener("htmx:afterRequest", (event) => {
  const detail = /** @type {CustomEvent<{successful: boolean}>} */ (event).detail;
  if (detail.successful) document.getElementById("partial-failed")?.remove();
});
