/** Time on a task without the time away: a minute without a sign of life stops the clock. */

const IDLE_MS = 60_000;
const SIGNS_OF_LIFE = ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "scroll"];

export class Clock {
  /** @param {(seconds: number) => void} show called once a second */
  constructor(show) {
    this.show = show;
    this.milliseconds = 0;
    this.running = false;
    this.before = performance.now();
    this.seen = performance.now();
    for (const kind of SIGNS_OF_LIFE) {
      addEventListener(kind, () => this.wake(), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => (document.hidden ? this.sleep() : this.wake()));
    setInterval(() => this.count(), 1000);
  }

  /** Start for a task that has had some seconds already. @param {number} seconds */
  start(seconds) {
    this.milliseconds = seconds * 1000;
    this.running = true;
    this.seen = this.before = performance.now();
    this.show(seconds);
  }

  stop() {
    this.count();
    this.running = false;
  }

  get seconds() {
    this.count();
    return this.milliseconds / 1000;
  }

  /** Whether there was a sign of life within so many milliseconds. @param {number} [within] */
  isActive(within = IDLE_MS) {
    return !document.hidden && performance.now() - this.seen < within;
  }

  wake() {
    this.count();
    this.seen = performance.now();
  }

  /** Stop until the next sign of life. */
  sleep() {
    this.count();
    this.seen = -Infinity;
  }

  /** Add what has passed since the last look, up to the end of the minute after the last sign of life. */
  count() {
    const now = performance.now();
    const end = Math.min(now, this.seen + IDLE_MS);
    if (this.running && end > this.before) this.milliseconds += end - this.before;
    this.before = now;
    if (this.running) this.show(this.milliseconds / 1000);
  }
}

/** Write seconds as 2:31. @param {number} seconds */
export function minutes(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
