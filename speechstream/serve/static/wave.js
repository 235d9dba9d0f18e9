// Both sides' sound as bars over the last seconds; the right edge is now.

export const BAR_S = 0.032;
const STEP = 4; // CSS pixels from bar to bar
const BAR = 2.5;
const KEPT = 2000; // bars of each side

export class Wave {
  constructor(canvas) {
    this.canvas = canvas;
    this.lanes = { you: new Map(), voice: new Map() };
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.drawn = -1;
    this.colours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.colours());
    new ResizeObserver(() => this.size()).observe(canvas);
  }

  colours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = { you: style.getPropertyValue("--you"), voice: style.getPropertyValue("--voice"), line: style.getPropertyValue("--line") };
    this.drawn = -1;
  }

  size() {
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * scale);
    this.canvas.height = Math.round(this.canvas.clientHeight * scale);
    this.drawn = -1;
  }

  /** A peak, 0 to 1, heard at `t` seconds of the page's clock. */
  add(lane, t, peak) {
    const bars = this.lanes[lane];
    const bar = Math.floor(t / BAR_S);
    bars.set(bar, Math.max(peak, bars.get(bar) || 0));
    if (bars.size > KEPT) bars.delete(bars.keys().next().value);
  }

  /** What was to come on a lane after `t` was not heard. */
  cut(lane, t) {
    for (const bar of this.lanes[lane].keys()) if (bar > t / BAR_S) this.lanes[lane].delete(bar);
  }

  /** Draw the moment `t`; true where anything was drawn. */
  draw(t) {
    const now = Math.floor(t / BAR_S / (this.calm.matches ? 16 : 1)) * (this.calm.matches ? 16 : 1);
    if (now === this.drawn || !this.canvas.width) return;
    this.drawn = now;
    const g = this.canvas.getContext("2d");
    const scale = devicePixelRatio || 1;
    g.setTransform(scale, 0, 0, scale, 0, 0);
    const width = this.canvas.width / scale;
    const height = this.canvas.height / scale;
    g.clearRect(0, 0, width, height);
    this.lane(g, "you", now, width, height * 0.25, height * 0.23);
    this.lane(g, "voice", now, width, height * 0.75, height * 0.23);
  }

  lane(g, lane, now, width, middle, most) {
    const n = Math.floor(width / STEP);
    const rest = [];
    g.fillStyle = this.colour[lane];
    g.beginPath();
    for (let i = 0; i < n; i++) {
      const peak = this.lanes[lane].get(now - n + 1 + i) || 0;
      const tall = Math.min(1.4 * peak ** 0.7, 1) * most; // soft sounds are seen too
      if (tall < 1.2) rest.push(i);
      else g.roundRect(i * STEP, middle - tall, BAR, 2 * tall, BAR / 2);
    }
    g.fill();
    g.fillStyle = this.colour.line;
    g.beginPath();
    for (const i of rest) g.roundRect(i * STEP, middle - 1, BAR, 2, 1);
    g.fill();
  }
}

/** The peaks of a sound, one for each bar. */
export function peaks(pcm, rate) {
  const n = Math.round(BAR_S * rate);
  const found = [];
  for (let at = 0; at < pcm.length; at += n) {
    let peak = 0;
    for (const x of pcm.subarray(at, at + n)) peak = Math.max(peak, Math.abs(x));
    found.push(peak);
  }
  return found;
}
