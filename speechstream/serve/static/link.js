// The page's connections: keys, /v1/stream with its resumption, and /v1/realtime.

import { fromBase64, toBase64 } from "./sound.js";

const KEY = "speechstream.key";
const SECRET_S = 600;
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const PATIENCE_MS = 8000; // for a connection to open

/** A sentence for the reader. kind: "key" where another key may help, "gone" where another try may, "said" otherwise. */
export class Trouble extends Error {
  constructor(message, kind = "said") {
    super(message);
    this.kind = kind;
  }
}

const NO_KEY = "This server needs a key.";
const WRONG_KEY = "The server does not know this key. Check it for missing characters, or ask whoever runs the server.";
const AWAY = "The server cannot be reached. Is it still running?";
const REFUSED =
  "The server answers, but refuses the connection. It may not know the name under which this page was opened: try localhost or its address, or have it started with --origin.";

/** The key: kept for this tab, sent in a header only, and changed for short-lived ones for sockets. */
export class Keyring {
  constructor(base, storage = sessionStorage) {
    this.base = base;
    this.storage = storage;
    this.secret = null;
    this.until = 0;
  }

  get key() {
    return this.storage.getItem(KEY) || "";
  }

  set key(value) {
    this.secret = null;
    if (value) this.storage.setItem(KEY, value);
    else this.storage.removeItem(KEY);
  }

  async ask(path, options = {}) {
    const headers = { ...options.headers };
    if (this.key) {
      if (!/^[\x21-\x7e]+$/.test(this.key)) throw new Trouble(WRONG_KEY, "key"); // no header may hold it
      headers.authorization = `Bearer ${this.key}`;
    }
    let answer;
    try {
      answer = await fetch(new URL(path, this.base), { ...options, headers, cache: "no-store" });
    } catch {
      throw new Trouble(AWAY, "gone");
    }
    if (answer.status === 401) throw new Trouble(this.key ? WRONG_KEY : NO_KEY, "key");
    if (!answer.ok) {
      const body = await answer.json().catch(() => null);
      throw new Trouble((body && body.error && body.error.message) || `The server answered with status ${answer.status}.`, answer.status >= 500 ? "gone" : "said");
    }
    return answer.json();
  }

  /** What the server offers. Raises Trouble. */
  setup() {
    return this.ask("page/setup");
  }

  /** The subprotocols that open a socket, with a short-lived key where one is needed. */
  async protocols(realtime) {
    const plain = realtime ? ["realtime"] : [];
    if (!this.key) return plain;
    if (!this.secret || Date.now() > this.until) {
      const made = await this.ask("v1/realtime/client_secrets", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ expires_after: { anchor: "created_at", seconds: SECRET_S } }),
      });
      this.secret = made.value;
      this.until = made.expires_at * 1000 - 30000;
    }
    return realtime ? [...plain, `openai-insecure-api-key.${this.secret}`] : ["bearer", this.secret];
  }

  /** An open WebSocket. Raises Trouble. */
  async open(path, realtime = false) {
    const url = new URL(path, this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, await this.protocols(realtime));
    socket.binaryType = "arraybuffer";
    await new Promise((done, failed) => {
      const late = setTimeout(() => {
        socket.close();
        failed(new Trouble(AWAY, "gone"));
      }, PATIENCE_MS);
      socket.onopen = () => {
        clearTimeout(late);
        done();
      };
      socket.onclose = async () => {
        clearTimeout(late);
        // A page is not told why a handshake failed, so ask in a way that is answered.
        failed(await this.setup().then(() => new Trouble(REFUSED, "gone"), (trouble) => trouble));
      };
    });
    return socket;
  }

  /** The trouble that a close stands for. */
  trouble(event) {
    if (event.code === 3000) {
      this.secret = null;
      return new Trouble(this.key ? WRONG_KEY : NO_KEY, "key");
    }
    const known = { 1013: "said", 4009: "said", 4004: "said", 1009: "said", 1007: "said", 1011: "said" };
    return new Trouble(event.reason ? sentence(event.reason) : "The connection dropped.", known[event.code] || "gone");
  }
}

/** As a sentence: a capital, a full stop. */
export function sentence(text) {
  const said = text.trim();
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * A session of /v1/stream that survives dropped connections, and reloads of the page (docs/serve_stream.md).
 *
 * on: {event(e, bytes), state("connecting" | "open" | "waiting" | "over"), trouble(t), taken(sample), trip(ms)}. What the server
 * has not taken is kept and sent again after a drop, and events are counted, so no word is lost or doubled.
 */
export class StreamLink {
  constructor(keys, start, on) {
    this.keys = keys;
    this.on = on;
    this.start = start;
    this.token = null;
    this.received = 0;
    this.taken = { samples: 0, characters: 0, commands: 0 };
    this.kept = []; // {data, kind, amount}
    this.next = 0; // the first of them that was not sent on this connection
    this.resumed = 0; // times
    this.resumeMs = 0;
    this.over = false;
    this.live = null;
  }

  /** What a reload needs, as JSON values. */
  saved() {
    const kept = this.kept.map((k) => ({ ...k, data: typeof k.data === "string" ? k.data : { sound: toBase64(new Uint8Array(k.data.buffer, k.data.byteOffset, k.data.byteLength)) } }));
    const { start, token, received, taken, resumeMs } = this;
    return { start, token, received, taken, resumeMs, kept };
  }

  static restored(keys, saved, on) {
    const link = new StreamLink(keys, saved.start, on);
    const { token, received, taken, resumeMs } = saved;
    Object.assign(link, { token, received, taken, resumeMs });
    link.kept = saved.kept.map((k) => ({ ...k, data: typeof k.data === "string" ? k.data : new Int16Array(fromBase64(k.data.sound).buffer) }));
    return link;
  }

  sound(block) {
    this.send({ data: block, kind: "samples", amount: block.length });
  }

  text(said) {
    const whole = said.toWellFormed ? said.toWellFormed() : said;
    this.send({ data: JSON.stringify({ type: "text", text: whole }), kind: "characters", amount: [...whole].length });
  }

  command(type, of) {
    this.send({ data: JSON.stringify(of ? { type, of } : { type }), kind: "commands", amount: 1 });
  }

  finish() {
    this.command("finish");
  }

  send(one) {
    if (this.over) return;
    this.kept.push(one);
    this.flush();
  }

  flush() {
    while (this.live && this.live.readyState === WebSocket.OPEN && this.next < this.kept.length) this.live.send(this.kept[this.next++].data);
  }

  /** The session is over: nobody resumes it. */
  close() {
    this.over = true;
    if (this.live) this.live.close(1000);
    this.on.state("over");
  }

  /** Connect, again and again, until all was said or nothing can be done. */
  async run() {
    let tries = 0;
    let until = this.token ? Date.now() + this.resumeMs : 0;
    while (!this.over) {
      try {
        this.on.state(this.token ? "waiting" : "connecting");
        const end = await this.connection(() => {
          tries = 0;
        });
        if (this.over) return;
        if (end.code === 1000) break;
        throw this.keys.trouble(end);
      } catch (error) {
        this.live = null;
        if (this.over) return;
        const trouble = error instanceof Trouble ? error : new Trouble(String(error.message || error));
        if (tries === 0) until = Date.now() + this.resumeMs;
        if (trouble.kind !== "gone" || !this.token || Date.now() > until) {
          this.over = true;
          this.on.state("over");
          this.on.trouble(trouble);
          return;
        }
        this.on.state("waiting");
        await wait(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
      }
    }
    this.over = true;
    this.on.state("over");
  }

  /** One connection. Returns how it was closed. */
  async connection(opened) {
    const socket = await this.keys.open("v1/stream");
    if (this.over) socket.close(1000);
    const asked = performance.now();
    const resume = { type: "resume", token: this.token, received: this.received };
    socket.send(JSON.stringify(this.token ? resume : { type: "start", ...this.start }));
    let head = null; // an audio event whose sound is to come
    let refusal = null;
    const end = await new Promise((done) => {
      socket.onclose = done;
      socket.onmessage = ({ data }) => {
        if (typeof data !== "string") {
          const event = head;
          head = null;
          if (event) this.event(event, new Uint8Array(data));
          return;
        }
        const message = JSON.parse(data);
        if (message.type === "started" || message.type === "resumed") {
          this.on.trip(performance.now() - asked);
          this.resumed += message.type === "resumed";
          this.token = message.token;
          this.resumeMs = message.resume_s * 1000;
          this.trim(message);
          this.next = 0;
          this.live = socket;
          opened();
          this.on.state("open");
          this.flush();
        } else if (message.type === "taken") this.trim(message);
        else if (message.type === "error") refusal = new Trouble(sentence(message.message));
        else if (message.type === "audio") head = message;
        else this.event(message, null);
      };
    });
    this.live = null;
    if (refusal) throw refusal;
    return end;
  }

  event(message, bytes) {
    this.received = message.seq;
    if (message.type === "failed") this.on.trouble(new Trouble(sentence(message.message)));
    else this.on.event(message, bytes);
  }

  /** Forget what the server has taken: the first part of what was sent. */
  trim(taken) {
    for (const kind of Object.keys(this.taken)) {
      let more = taken[kind] - this.taken[kind];
      this.taken[kind] = taken[kind];
      for (let i = 0; more > 0 && i < this.kept.length; ) {
        const one = this.kept[i];
        if (one.kind !== kind) {
          i++;
        } else if (one.amount <= more) {
          more -= one.amount;
          this.kept.splice(i, 1);
          if (i < this.next) this.next--;
        } else {
          const data = kind === "samples" ? one.data.slice(more) : one.data; // only sound is taken in parts
          this.kept[i] = { ...one, data, amount: one.amount - more };
          more = 0;
        }
      }
    }
    this.on.taken(this.taken.samples);
  }
}

/** A conversation over /v1/realtime. A dropped one begins anew. on: {event(e), state(s), trouble(t)}. */
export class TalkLink {
  constructor(keys, on) {
    this.keys = keys;
    this.on = on;
    this.over = false;
    this.live = null;
    this.connections = 0;
  }

  send(type, fields = {}) {
    if (this.live && this.live.readyState === WebSocket.OPEN) this.live.send(JSON.stringify({ type, ...fields }));
  }

  append(block) {
    this.send("input_audio_buffer.append", { audio: toBase64(new Uint8Array(block.buffer)) });
  }

  close() {
    this.over = true;
    if (this.live) this.live.close(1000);
    this.on.state("over");
  }

  async run() {
    let tries = 0;
    while (!this.over) {
      try {
        this.on.state(this.connections ? "waiting" : "connecting");
        const socket = await this.keys.open("v1/realtime", true);
        if (this.over) return socket.close(1000);
        const end = await new Promise((done) => {
          socket.onclose = done;
          socket.onmessage = ({ data }) => {
            tries = 0; // it works
            this.on.event(JSON.parse(data));
          };
          this.live = socket;
          this.connections++;
          this.on.state("open");
        });
        this.live = null;
        if (this.over) return;
        throw this.keys.trouble(end);
      } catch (error) {
        if (this.over) return;
        const trouble = error instanceof Trouble ? error : new Trouble(String(error.message || error));
        if (trouble.kind !== "gone" || !this.connections || tries >= 12) {
          this.over = true;
          this.on.state("over");
          this.on.trouble(trouble);
          return;
        }
        this.on.state("waiting");
        await wait(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
      }
    }
  }
}
