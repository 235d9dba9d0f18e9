// The microphone, and a player that knows which samples were heard.

export const HEAR_RATE = 16000;

/** A sentence for why there is no microphone. */
export function microphoneProblem(error) {
  if (!globalThis.isSecureContext || !navigator.mediaDevices)
    return "A browser gives its microphone only to pages from localhost or over HTTPS, and this page is neither. Typed text can still be spoken.";
  const name = error && error.name;
  if (name === "NotAllowedError") return "The microphone is not allowed for this page. Allow it in the browser's address bar, then press Start.";
  if (name === "NotFoundError") return "No microphone was found. Connect one, then press Start.";
  if (name === "NotReadableError") return "The microphone is in use by another program, or does not work.";
  return `The microphone cannot be opened: ${(error && error.message) || "the reason is not known"}`;
}

/** The microphone as blocks of Int16Array. onblock(block), onlost(). */
export class Microphone {
  constructor(onblock, onlost) {
    this.onblock = onblock;
    this.onlost = onlost;
    this.rate = HEAR_RATE;
  }

  /** Ask for it. Raises what getUserMedia raises. */
  async open() {
    if (!globalThis.isSecureContext || !navigator.mediaDevices) throw new Error("no microphone here");
    this.stream = await navigator.mediaDevices.getUserMedia({
      // Echo must go, for the voice would hear itself; noise stays, for the recogniser was trained with it.
      audio: { echoCancellation: true, noiseSuppression: false, autoGainControl: true, channelCount: 1 },
    });
    try {
      await this._listen(new AudioContext({ sampleRate: HEAR_RATE, latencyHint: "interactive" }));
    } catch (error) {
      if (this.context) this.context.close();
      if (error.name !== "NotSupportedError") {
        this.close();
        throw error;
      }
      await this._listen(new AudioContext({ latencyHint: "interactive" })); // a browser that does not resample here
    }
    const [track] = this.stream.getAudioTracks();
    track.addEventListener("ended", () => this.onlost());
  }

  async _listen(context) {
    this.context = context;
    this.rate = context.sampleRate;
    await context.audioWorklet.addModule(new URL("ears.js", import.meta.url));
    const source = context.createMediaStreamSource(this.stream);
    this.node = new AudioWorkletNode(context, "ears", { numberOfOutputs: 0 });
    this.node.port.onmessage = (message) => this.onblock(new Int16Array(message.data));
    source.connect(this.node);
    await Promise.race([context.resume(), new Promise((done) => setTimeout(done, 500))]);
    this.opened = true;
  }

  /** Whether the browser waits for a click before it listens. */
  get asleep() {
    return Boolean(this.opened) && this.context.state !== "running";
  }

  close() {
    if (this.node) this.node.port.onmessage = null;
    if (this.stream) for (const track of this.stream.getTracks()) track.stop();
    if (this.context && this.context.state !== "closed") this.context.close();
    this.node = this.stream = null;
  }
}

const AHEAD_S = 0.03; // of the clock, at which sound that comes late begins
const FADE_S = 0.012; // so that a stop does not click

/** Plays mono sound at one rate, block after block, each at a sample of its own on the context's clock. */
export class Player {
  constructor(rate) {
    this.rate = rate;
    this.context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    this.clear();
  }

  /** To be called from a click: browsers play nothing before one. */
  resume() {
    return this.context.resume();
  }

  /** Begin to count anew, with the next block. */
  clear() {
    this.pieces = []; // {at, n, start, source}: sample number, samples, seconds of the clock
    this.queued = 0;
    this.end = 0;
    this.gain = this.context.createGain();
    this.gain.connect(this.context.destination);
  }

  /** Queue a Float32Array. Returns when it begins to be heard, in ms of performance.now(). */
  push(pcm) {
    const c = this.context;
    const buffer = c.createBuffer(1, pcm.length, this.rate);
    buffer.copyToChannel(pcm, 0);
    const source = c.createBufferSource();
    source.buffer = buffer;
    source.connect(this.gain);
    const start = Math.round(Math.max(this.end, c.currentTime + AHEAD_S) * this.rate) / this.rate;
    source.start(start);
    this.end = start + pcm.length / this.rate;
    this.pieces.push({ at: this.queued, n: pcm.length, start, source });
    this.queued += pcm.length;
    return performance.now() + (start - c.currentTime + this.delay) * 1000;
  }

  /** Seconds between the clock and the ear. */
  get delay() {
    return this.context.outputLatency || this.context.baseLatency || 0;
  }

  /** How many samples of what was queued were played `delay` seconds ago. */
  played(delay = this.delay) {
    const now = this.context.currentTime - delay;
    let played = 0;
    for (const p of this.pieces) {
      if (p.start > now) break;
      played = p.at + Math.min(p.n, Math.round((now - p.start) * this.rate));
    }
    return played;
  }

  /** Whether anything is still to be heard. */
  get busy() {
    return this.played() < this.queued;
  }

  /** Stop. Returns how many samples were heard: what the device already has is heard too. */
  stop() {
    const heard = this.played(0);
    const { gain, pieces, context } = this;
    gain.gain.setValueAtTime(1, context.currentTime);
    gain.gain.linearRampToValueAtTime(0, context.currentTime + FADE_S);
    for (const p of pieces) {
      try {
        p.source.stop(context.currentTime + FADE_S);
      } catch {
        // one that is over
      }
    }
    setTimeout(() => gain.disconnect(), 200);
    this.clear();
    return heard;
  }

  close() {
    this.context.close();
  }
}

/** Decides from loudness alone when somebody last spoke, for the latency meter. */
export class Loudness {
  constructor() {
    this.floor = 0.002;
    this.last = null; // ms of performance.now() at the end of the last loud block
  }

  /** Take a block; returns its peak, 0 to 1. */
  push(block, now) {
    let peak = 0;
    let energy = 0;
    for (const x of block) {
      peak = Math.max(peak, Math.abs(x));
      energy += x * x;
    }
    const rms = Math.sqrt(energy / block.length) / 32768;
    this.floor = rms < this.floor ? 0.9 * this.floor + 0.1 * rms : this.floor + 0.002 * (rms - this.floor);
    this.floor = Math.min(Math.max(this.floor, 0.0005), 0.02);
    if (rms > Math.max(4 * this.floor, 0.006)) this.last = now;
    return peak / 32768;
  }
}

/** Bytes of 16-bit samples as Float32Array. */
export function floats(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pcm = new Float32Array(bytes.byteLength >> 1);
  for (let i = 0; i < pcm.length; i++) pcm[i] = view.getInt16(2 * i, true) / 32768;
  return pcm;
}

export function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
