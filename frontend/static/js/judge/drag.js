/** Dragging a response between places, by mouse, pen or finger; a press that does not move stays a click. */

const SLACK = 5;

/**
 * Let everything with data-drag be dragged onto everything with data-drop.
 * @param {(id: string, target: string) => void} drop
 */
export function enableDragging(drop) {
  document.addEventListener("pointerdown", (event) => {
    const source = event.target instanceof Element ? event.target.closest("[data-drag]") : null;
    if (!(source instanceof HTMLElement) || event.button !== 0 || !event.isPrimary) return;
    new Drag(source, event, drop);
  });
}

class Drag {
  /** @param {HTMLElement} source @param {PointerEvent} event @param {(id: string, target: string) => void} drop */
  constructor(source, event, drop) {
    this.source = source;
    this.drop = drop;
    this.pointer = event.pointerId;
    this.x = event.clientX;
    this.y = event.clientY;
    this.over = /** @type {HTMLElement | null} */ (null);
    this.ghost = /** @type {HTMLElement | null} */ (null);
    this.ends = new AbortController();
    const { signal } = this.ends;
    addEventListener("pointermove", (moved) => this.move(moved), { signal });
    addEventListener("pointerup", (ended) => this.end(ended, true), { signal });
    addEventListener("pointercancel", (ended) => this.end(ended, false), { signal });
    addEventListener("keydown", (pressed) => pressed.key === "Escape" && this.end(null, false), { signal });
  }

  /** @param {PointerEvent} event */
  move(event) {
    if (event.pointerId !== this.pointer) return;
    const far = Math.hypot(event.clientX - this.x, event.clientY - this.y) > SLACK;
    if (!this.ghost && !far) return;
    this.ghost ??= this.lift();
    this.ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
    const below = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-drop]");
    this.hover(below instanceof HTMLElement ? below : null);
  }

  lift() {
    const ghost = /** @type {HTMLElement} */ (this.source.cloneNode(true));
    ghost.classList.add("chip--dragged");
    ghost.removeAttribute("data-drag");
    document.body.append(ghost);
    document.body.dataset.dragging = "";
    return ghost;
  }

  /** @param {HTMLElement | null} target */
  hover(target) {
    if (target === this.over) return;
    this.over?.classList.remove("drop--over");
    target?.classList.add("drop--over");
    this.over = target;
  }

  /** @param {PointerEvent | null} event @param {boolean} dropped */
  end(event, dropped) {
    if (event && event.pointerId !== this.pointer) return;
    this.ends.abort();
    const [target, moved] = [this.over?.dataset.drop, this.ghost !== null];
    this.hover(null);
    this.ghost?.remove();
    delete document.body.dataset.dragging;
    if (!moved) return;
    // The press has been a drag: the click that follows is not for the button below.
    const swallow = (/** @type {Event} */ click) => click.stopImmediatePropagation();
    addEventListener("click", swallow, { capture: true, once: true });
    setTimeout(() => removeEventListener("click", swallow, { capture: true }), 0);
    if (dropped && target) this.drop(this.source.dataset.drag ?? "", target);
  }
}
