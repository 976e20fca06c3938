/** A list with boxes to tick: one button ticks the page's boxes, or unticks them. */

for (const form of document.querySelectorAll("form[data-ticks]")) {
  const button = form.querySelector("button[data-tick-all]");
  if (!(button instanceof HTMLButtonElement)) continue;
  button.hidden = false;
  button.addEventListener("click", () => {
    const boxes = /** @type {NodeListOf<HTMLInputElement>} */ (form.querySelectorAll("tbody input[type=checkbox]"));
    const all = [...boxes].every((box) => box.checked);
    for (const box of boxes) box.checked = !all;
  });
}
