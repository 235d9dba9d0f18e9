// The page: what is pressed and typed, what is shown, and one session at a time.

import { Keyring, sentence, StreamLink, TalkLink, Trouble } from "./link.js";
import { Log } from "./log.js";
import { floats, fromBase64, Loudness, Microphone, microphoneProblem, Player } from "./sound.js";
import { BAR_S, peaks, Wave } from "./wave.js";

const SAVED = "speechstream.page";
const CHOSEN = "speechstream.choices"; // voice and delay, kept beyond the tab; no words, no key
const DELAYS = { 80: "minimal", 160: "low", 320: "medium", 640: "high", 1280: "xhigh" }; // in the Realtime protocol
const PING_MS = 4000;
const TOLD = 40; // turns that a new conversation is told

const $ = (id) => document.getElementById(id);
const keys = new Keyring(document.baseURI);
const log = new Log($("log"), $("empty"));
const wave = new Wave($("wave"));
let epoch = Date.now(); // ms: where the page's clock begins, with the first session after Clear; kept over a reload
const at = (ms) => (performance.timeOrigin + ms - epoch) / 1000; // of performance.now(), as seconds of that clock
const now = () => at(performance.now());

let setup = null; // what the server offers
let player = null;
let session = null;

// What is shown

const STATES = {
  idle: "Ready",
  connecting: "Connecting",
  waiting: "Reconnecting",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
  typing: "Type to it",
  asleep: "Paused by the browser",
  key: "A key is needed",
};

function show(state) {
  if ($("state").dataset.state !== state) {
    $("state").dataset.state = state;
    $("state-text").textContent = STATES[state];
  }
}

function tell(text, calm = false) {
  $("notice-text").textContent = text;
  $("notice").classList.toggle("calm", calm);
  $("notice").hidden = !text;
}

function announce(text) {
  $("said").textContent = text;
}

function meter(id, ms) {
  $(id).textContent = ms === null ? "–" : ms < 9950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(0)} s`;
}

const mode = () => document.querySelector("input[name=mode]:checked").value;

const WORDS = {
  talk: {
    lead: "Press Start, and say something.",
    more: "The voice answers when you have finished. Speak while it speaks, and it stops.",
    text: "Or type",
    send: "Send",
    reply: ["Answer", "From the end of your speech to the first sound"],
  },
  transcribe: {
    lead: "Press Start, and say something.",
    more: "What you say is written as you say it, and nothing answers.",
    text: "",
    send: "",
    reply: ["Words", "From the end of your speech to its last words"],
  },
  speak: {
    lead: "Type a text, and it is spoken.",
    more: "Enter speaks it; Shift and Enter begin a new line.",
    text: "A text to be spoken",
    send: "Speak",
    reply: ["First sound", "From Speak to the first sound"],
  },
};

function arrange() {
  const m = mode();
  const words = WORDS[m];
  document.body.dataset.mode = m;
  $("empty-lead").textContent = words.lead;
  $("empty-more").textContent = words.more;
  $("text").placeholder = words.text;
  $("text-label").textContent = words.text || "Text";
  $("send").textContent = words.send;
  $("typed").hidden = m === "transcribe";
  $("start").hidden = m === "speak";
  $("interrupt").hidden = m === "transcribe";
  $("voice-choice").hidden = m === "transcribe";
  $("latency-choice").hidden = m === "speak";
  fillDelays();
  [$("reply-name").textContent, $("reply").title] = words.reply;
  meter("reply", null);
  meter("trip", null);
  buttons();
}

function buttons() {
  const on = session !== null && mode() !== "speak";
  $("start").textContent = on ? (session.asleep ? "Continue" : "Stop") : "Start";
  $("start").classList.toggle("on", on && !session.asleep);
  $("interrupt").disabled = !(session && session.speaking);
}

// What both kinds of sessions with a microphone share

class Hearing {
  constructor() {
    this.loud = new Loudness();
    this.microphone = null;
    this.link = null;
  }

  get asleep() {
    return this.microphone !== null && this.microphone.asleep;
  }

  get speaking() {
    return false;
  }

  async listen() {
    const microphone = new Microphone(
      (block) => this.block(block),
      () => {
        stop();
        tell("The microphone has gone. Connect it again, then press Start.");
      },
    );
    this.microphone = microphone;
    try {
      await microphone.open();
    } catch (error) {
      this.microphone = null;
      throw error;
    }
    if (session !== this) return microphone.close(); // stopped meanwhile
    buttons();
  }

  /** Take a block: its loudness, its place in the picture. Blocks come unevenly and were heard evenly. */
  note(block) {
    const t = performance.now();
    const s = (block.length / this.microphone.rate) * 1000;
    this.due = this.due === undefined || Math.abs(t - this.due) > 300 ? t : this.due + s + 0.02 * (t - this.due - s);
    wave.add("you", at(this.due - s), this.loud.push(block, t));
    return t;
  }

  close() {
    if (this.microphone) this.microphone.close();
    if (this.link && !this.link.over) this.link.close();
  }
}

// Talk

class Talk extends Hearing {
  async start() {
    this.voice = null; // the answer that is being played: {turn, item, response, begun}
    this.response = null; // the one that the server is giving
    this.stopped = new Set(); // responses of which no more is played
    this.updates = []; // that were sent and not confirmed: "settings", or when a ping left
    this.typedAt = null;
    this.ready = false;
    this.waiting = []; // typed before the connection was there
    this.link = new TalkLink(keys, {
      event: (e) => this.event(e),
      state: (s) => this.state(s),
      trouble: (t) => failed(t),
    });
    const opened = this.link.run();
    this.pinging = setInterval(() => this.ping(), PING_MS);
    try {
      await this.listen();
    } catch (error) {
      if (session !== this) return;
      tell(`${microphoneProblem(error)} You can type to it meanwhile.`);
    }
    await opened;
  }

  close() {
    clearInterval(this.pinging);
    if (this.voice) this.cut();
    super.close();
  }

  get speaking() {
    return this.response !== null || (this.voice !== null && player.busy);
  }

  state(s) {
    if (s === "waiting" && this.ready) {
      tell("The connection dropped. Trying again…");
      this.cut();
    }
    if (s !== "open") {
      this.ready = this.hearing = false;
      this.response = null;
    }
    this.at = s;
  }

  block(block) {
    const t = this.note(block);
    if (!this.ready) return;
    this.origin ??= at(t) - BAR_S;
    this.link.append(block);
  }

  settings() {
    const delay = DELAYS[$("latency").value];
    const heard = {
      format: { type: "audio/pcm", rate: this.microphone ? this.microphone.rate : 16000 },
      transcription: delay ? { delay } : {},
      turn_detection: { type: "semantic_vad" },
    };
    const spoken = { format: { type: "audio/pcm", rate: player.rate }, voice: $("voice").value };
    return { type: "realtime", include: ["words"], output_modalities: ["audio"], audio: { input: heard, output: spoken } };
  }

  update(fields, note) {
    this.updates.push(note);
    this.link.send("session.update", { session: fields, event_id: `update-${this.updates.length}` });
  }

  ping() {
    if (this.ready && !this.updates.length) this.update({}, performance.now());
  }

  updated() {
    const note = this.updates.shift();
    if (typeof note === "number") {
      meter("trip", performance.now() - note);
      return;
    }
    if (this.ready) return;
    this.ready = true;
    this.origin = undefined;
    const again = this.link.connections > 1;
    const told = log.turns.filter((t) => t.mode === "talk" && log.text(t)).slice(-TOLD);
    for (const turn of told) {
      const type = turn.who === "you" ? "input_text" : "output_text";
      const role = turn.who === "you" ? "user" : "assistant";
      this.link.send("conversation.item.create", { item: { type: "message", role, content: [{ type, text: log.text(turn) }] } });
    }
    if (again) tell("The connection had dropped. A new conversation has begun; it was told what you two had said.", true);
    this.ping();
    for (const text of this.waiting.splice(0)) this.write(text);
  }

  event(e) {
    switch (e.type) {
      case "session.created":
        this.updates = [];
        return this.update(this.settings(), "settings");
      case "session.updated":
        return this.updated();
      case "input_audio_buffer.speech_started":
        if (this.voice || this.response) this.cut();
        this.typedAt = null;
        this.hearing = true;
        this.turn = log.add({ id: e.item_id, who: "you", mode: "talk", start: this.time(e.audio_start_ms) });
        return;
      case "input_audio_buffer.speech_stopped":
        this.hearing = false;
        return;
      case "conversation.item.input_audio_transcription.delta":
        return this.heard(e.item_id, e.delta);
      case "conversation.item.input_audio_transcription.completed":
        return this.wrote(e.item_id, e.transcript, e.words);
      case "response.created":
        this.response = e.response.id;
        return;
      case "response.output_audio_transcript.delta":
        return this.spoken(e, null);
      case "response.output_audio.delta":
        return this.spoken(e, floats(fromBase64(e.delta)));
      case "response.done":
        return this.answered(e.response);
      case "error":
        if ((e.error.event_id || "").startsWith("update-")) this.updates.shift();
        if (e.error.code !== "response_cancel_not_active") tell(sentence(e.error.message));
    }
  }

  /** Milliseconds of the connection's sound as seconds of the page. */
  time(ms) {
    return (this.origin ?? now()) + ms / 1000;
  }

  /** More of the user's words; their times come with the whole. */
  heard(item, delta) {
    const turn = log.find(item);
    if (!turn) return;
    for (const text of delta.split(/\s+/).filter(Boolean)) turn.words.push({ text });
    log.show(turn);
  }

  wrote(item, transcript, dated = []) {
    const turn = log.find(item);
    if (!turn) return;
    const texts = transcript.split(/\s+/).filter(Boolean);
    turn.words = texts.map((text, i) => (dated.length === texts.length ? { text, t: this.time(1000 * dated[i].start) } : { text }));
    turn.done = true;
    if (texts.length) log.show(turn);
    else log.remove(turn);
    save();
  }

  /** More of an answer: words, and then the sound in which they begin. */
  spoken(e, pcm) {
    if (this.stopped.has(e.response_id)) return;
    if (!this.voice || this.voice.response !== e.response_id) {
      this.silence();
      player.clear();
      const turn = log.add({ id: e.item_id, who: "voice", mode: "talk", start: now() });
      this.voice = { turn, item: e.item_id, response: e.response_id, begun: null, text: "", dated: [] };
    }
    const v = this.voice;
    if (!pcm) {
      v.text += e.delta;
      v.dated.push(...(e.words || []));
      return;
    }
    const first = player.queued;
    const start = player.push(pcm);
    if (v.begun === null) {
      v.begun = start;
      v.turn.start = at(start);
      const from = this.typedAt ?? this.loud.last;
      if (from !== null) meter("reply", start - from);
    }
    const t = at(start);
    peaks(pcm, player.rate).forEach((p, i) => wave.add("voice", t + i * BAR_S, p));
    this.place(v, first, pcm.length);
  }

  /** Words that begin in a block: at their times, or spread over it by their letters where a server says none. */
  place(v, first, n) {
    const texts = v.text.split(/\s+/).filter(Boolean);
    if (v.within && /^\S/.test(v.text)) v.turn.words.at(-1).text += texts.shift(); // the rest of a word
    if (v.text) v.within = /\S$/.test(v.text);
    const dated = v.dated;
    const letters = texts.reduce((sum, w) => sum + w.length + 1, 0) || 1;
    let before = 0;
    texts.forEach((text, i) => {
      const known = dated.length === texts.length;
      const sample = Math.round(known ? dated[i].start * player.rate : first + (before / letters) * n);
      v.turn.words.push({ text, sample, t: at(v.begun) + sample / player.rate });
      before += text.length + 1;
    });
    v.text = "";
    v.dated = [];
    log.show(v.turn);
  }

  answered(response) {
    if (this.response === response.id) this.response = null;
    const v = this.voice;
    if (v && v.response === response.id && v.text) this.place(v, player.queued, 0);
    if (response.status === "failed") tell(sentence((response.status_details?.error?.message) || "The answer failed"));
    if (response.status === "cancelled" && v && v.response === response.id) this.silence();
    buttons();
  }

  /** No more of any answer: neither of the one that is being given, nor of the one that is being played. */
  cut() {
    if (this.response) this.stopped.add(this.response);
    this.silence();
  }

  /** Play no more, and tell the server how much was heard. */
  silence() {
    const v = this.voice;
    if (!v) return;
    this.voice = null;
    this.stopped.add(v.response);
    const rest = player.busy || this.response === v.response;
    const heard = player.stop();
    v.turn.done = true;
    if (rest) {
      v.turn.heard = heard;
      wave.cut("voice", now());
      this.link.send("conversation.item.truncate", { item_id: v.item, content_index: 0, audio_end_ms: Math.floor((heard * 1000) / player.rate) });
    }
    log.show(v.turn);
    save();
  }

  interrupt() {
    if (this.response) this.link.send("response.cancel");
    this.cut();
    this.response = null;
  }

  write(text) {
    if (!this.ready) {
      this.waiting.push(text);
      return;
    }
    this.interrupt();
    const turn = log.add({ id: crypto.randomUUID?.() ?? String(Math.random()), who: "you", mode: "talk", start: now(), done: true });
    turn.words = text.split(/\s+/).filter(Boolean).map((t) => ({ text: t }));
    log.show(turn);
    this.typedAt = performance.now();
    this.link.send("conversation.item.create", { item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
    this.link.send("response.create");
  }

  tick() {
    const v = this.voice;
    if (v) {
      const played = player.played();
      v.turn.played = played;
      log.mark(v.turn, played);
      if (!player.busy && this.response !== v.response) {
        v.turn.done = true;
        log.show(v.turn);
        this.voice = null;
        save();
      }
    }
    if (this.at !== "open") return show(this.at === "waiting" ? "waiting" : "connecting");
    if (this.asleep) return show("asleep");
    if (v && player.busy) return show("speaking");
    if (this.hearing) return show("hearing");
    if (this.response) return show("thinking");
    show(this.microphone ? "listening" : "typing");
  }
}

// Transcribe

class Transcribe extends Hearing {
  constructor(saved = null) {
    super();
    this.restored = saved;
  }

  async start() {
    this.turn = null;
    this.base = this.restored ? this.restored.base : now(); // where the session's sound begins
    this.left = []; // [sample, when it left]
    this.samples = 0; // that were given to the link
    if (this.restored) this.samples = this.restored.kept.reduce((n, k) => n + (k.kind === "samples" ? k.amount : 0), this.restored.taken.samples);
    const on = {
      event: (e) => this.event(e),
      state: (s) => this.state(s),
      trouble: (t) => failed(t),
      taken: (sample) => this.taken(sample),
      trip: (ms) => meter("trip", ms),
    };
    let running = null;
    if (this.restored) {
      this.link = StreamLink.restored(keys, this.restored, on);
      running = this.link.run();
    }
    try {
      await this.listen();
    } catch (error) {
      if (session === this) failed(new Trouble(microphoneProblem(error)));
      return;
    }
    if (session !== this) return;
    if (!this.link) {
      const listen = { sample_rate: this.microphone.rate, latency_ms: Number($("latency").value) || null };
      this.link = new StreamLink(keys, { listen }, on);
      for (const block of this.early || []) this.link.sound(block);
      running = this.link.run();
    }
    await running;
    if (session === this) stop(true);
  }

  state(s) {
    if (s === "waiting" && this.at === "open") tell("The connection dropped. Trying again; what you say meanwhile is kept.");
    if (s === "open" && this.link.resumed) tell("Connected again. Nothing was lost.", true);
    if (s !== "open") this.left = [];
    this.at = s;
  }

  block(block) {
    const t = this.note(block);
    if (!this.link) {
      this.early = [...(this.early || []), block];
      return;
    }
    if (this.finishing) return;
    this.samples += block.length;
    if (this.at === "open") this.left.push([this.samples, t]);
    this.link.sound(block);
  }

  /** The server has taken the sound up to a sample: the time since it left is a round trip. */
  taken(sample) {
    let at = null;
    while (this.left.length && this.left[0][0] <= sample) at = this.left.shift()[1];
    if (at !== null) meter("trip", performance.now() - at);
  }

  event(e) {
    if (e.type === "speech_started") this.open(e.time);
    if (e.type === "partial") {
      this.open(e.time);
      this.turn.partial = [e.stable, e.unstable].filter(Boolean).join(" ");
      log.show(this.turn);
    }
    if (e.type === "final") {
      this.open(e.start);
      const turn = this.turn;
      this.turn = null;
      turn.partial = "";
      turn.done = true;
      turn.start = this.base + e.start;
      turn.words = e.words.map((w) => ({ text: w.word, t: this.base + w.start }));
      if (!turn.words.length) log.remove(turn);
      else log.show(turn);
      if (this.loud.last !== null) {
        const ms = performance.now() - this.loud.last;
        if (ms < 10000) meter("reply", ms);
      }
      announce(e.text);
      save();
    }
    if (e.type === "endpoint" && this.turn && !this.turn.partial) {
      log.remove(this.turn);
      this.turn = null;
    }
  }

  open(t) {
    this.turn ??= log.add({ id: `heard-${t}`, who: "you", mode: "transcribe", start: this.base + t });
  }

  /** Stop listening; the last words are waited for. */
  finish() {
    if (this.finishing || !this.link || this.link.over || this.at !== "open") return false;
    this.finishing = true;
    if (this.microphone) this.microphone.close();
    this.microphone = null;
    this.link.finish();
    return true;
  }

  close() {
    if (this.turn) {
      const turn = this.turn;
      this.turn = null;
      turn.done = true;
      turn.words = turn.partial.split(/\s+/).filter(Boolean).map((text) => ({ text }));
      turn.partial = "";
      if (turn.words.length) log.show(turn);
      else log.remove(turn);
    }
    super.close();
  }

  interrupt() {}

  tick() {
    if (this.at === undefined || this.at === "connecting") return show("connecting");
    if (this.at === "waiting") return show("waiting");
    if (this.asleep) return show("asleep");
    show(this.turn ? "hearing" : "listening");
  }
}

// Speak

class Speak {
  constructor(text) {
    this.text = text;
    this.letters = Array.from(text);
    this.asked = performance.now();
    this.first = true;
    this.asleep = false;
    this.told = 0;
  }

  async start() {
    player.stop();
    this.turn = log.add({ id: `spoken-${this.asked}`, who: "voice", mode: "speak", start: now() });
    const speak = { voice: $("voice").value || null, encoding: "int16" };
    this.link = new StreamLink(keys, { speak }, {
      event: (e, bytes) => this.event(e, bytes),
      state: (s) => this.state(s),
      trouble: (t) => failed(t),
      taken: () => {},
      trip: (ms) => meter("trip", ms),
    });
    this.link.text(this.text);
    this.link.finish();
    await this.link.run();
    this.complete = true;
  }

  get speaking() {
    return !this.complete || player.busy;
  }

  state(s) {
    if (s === "waiting" && this.at === "open") tell("The connection dropped. Trying again…");
    if (s === "open" && this.at === "waiting" && this.link.resumed) tell("Connected again. Nothing was lost.", true);
    if (s === "open") this.opened ??= performance.now();
    this.at = s;
  }

  event(e, bytes) {
    if (e.type !== "audio") return;
    const pcm = floats(bytes);
    const start = player.push(pcm);
    const t = at(start);
    if (this.first) {
      this.first = false;
      this.turn.start = t;
      meter("reply", start - this.asked);
    }
    this.origin ??= t - e.start;
    peaks(pcm, player.rate).forEach((p, i) => wave.add("voice", t + i * BAR_S, p));
    for (const w of e.words) {
      let [from, to] = w.span || [0, 0];
      if (to <= this.told) continue; // a number that is read as several words
      from = Math.max(from, this.told);
      while (to < this.letters.length && !/\s/.test(this.letters[to])) to++;
      this.told = to;
      this.turn.words.push({ text: this.letters.slice(from, to).join("").trim(), t: this.origin + w.start, sample: Math.round(w.start * player.rate) });
    }
    log.show(this.turn);
  }

  interrupt() {
    stop();
  }

  close() {
    const rest = this.speaking;
    if (!this.link.over) this.link.close();
    const heard = player.stop();
    this.turn.done = true;
    if (rest) {
      this.turn.heard = heard;
      wave.cut("voice", now());
    }
    if (this.turn.words.length) log.show(this.turn);
    else log.remove(this.turn);
  }

  tick() {
    this.turn.played = player.played();
    log.mark(this.turn, this.turn.played);
    if (player.busy) show("speaking");
    else show(this.at === "waiting" ? "waiting" : "thinking");
    if (this.complete && !player.busy) stop();
  }
}

// One session at a time

async function begin(made) {
  if (!setup && !(await offered())) return;
  tell("");
  if (!player || player.rate !== setup.voice_rate) player = new Player(setup.voice_rate);
  player.resume();
  if (!log.turns.length) epoch = Date.now();
  session = made;
  buttons();
  save();
  try {
    await made.start();
  } catch (error) {
    if (session === made) failed(error instanceof Trouble ? error : new Trouble(sentence(String(error.message || error))));
  }
}

function stop(now = false) {
  if (!session) return;
  if (!now && session.finish && session.finish()) {
    setTimeout(() => session && session.finishing && stop(true), 5000);
    return;
  }
  const old = session;
  session = null;
  old.close();
  show("idle");
  buttons();
  save();
}

function failed(trouble) {
  stop(true);
  tell(trouble.message);
  if (trouble.kind === "key") askKey();
}

// The key

function askKey() {
  $("key-form").hidden = false;
  show("key");
  $("key").focus();
}

/** Learn what the server offers; false where that was told as a trouble. */
async function offered() {
  try {
    setup = await keys.setup();
  } catch (trouble) {
    setup = null;
    if (trouble.kind === "key") {
      if (keys.key) tell(trouble.message);
      askKey();
    } else tell(trouble.message || String(trouble));
    return false;
  }
  $("key-form").hidden = true;
  $("change-key").hidden = !setup.keyed;
  if ($("state").dataset.state === "key") show("idle");
  fill($("voice"), setup.voices.map((v) => [v, voiceName(v)]), choices().voice);
  fillDelays();
  return true;
}

function choices() {
  try {
    return JSON.parse(localStorage.getItem(CHOSEN)) || {};
  } catch {
    return {};
  }
}

/** An answer should come soon, a transcript should err little: each mode has a delay of its own. */
function fillDelays() {
  if (!setup) return;
  const usual = mode() === "talk" ? 160 : 320;
  fill($("latency"), setup.latencies.map((ms) => [ms, `${ms} ms`]), choices()[mode()] ?? nearest(setup.latencies, usual));
}

function fill(select, choices, chosen) {
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  if (choices.some(([value]) => String(value) === String(chosen))) select.value = chosen;
  select.disabled = !choices.length;
}

/** "af_heart" as "Heart". */
function voiceName(name) {
  const said = name.replace(/^[a-z]{2}_/, "").replace(/[_-]+/g, " ");
  return said.charAt(0).toUpperCase() + said.slice(1);
}

const nearest = (list, wanted) => list.reduce((best, x) => (Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best), list[0]);

// Kept over a reload

function save() {
  const stream = session instanceof Transcribe && session.link && session.link.token && !session.link.over && !session.finishing ? { ...session.link.saved(), base: session.base } : null;
  const open = session instanceof Transcribe ? session.turn : null;
  const turns = log.saved().filter((t) => t !== open); // its words come again
  const talking = session instanceof Talk;
  try {
    sessionStorage.setItem(SAVED, JSON.stringify({ mode: mode(), epoch, turns, stream, talking, text: $("text").value }));
  } catch {
    // too much for the browser's store: the page works, a reload forgets
  }
}

async function restore() {
  let saved = {};
  try {
    saved = JSON.parse(sessionStorage.getItem(SAVED)) || {};
  } catch {
    // nothing usable
  }
  if (saved.mode) document.querySelector(`input[name=mode][value=${saved.mode}]`).checked = true;
  $("text").value = saved.text || "";
  arrange();
  if (saved.turns && saved.turns.length) epoch = saved.epoch;
  log.restore(saved.turns || []);
  if (!(await offered())) return;
  if (saved.stream) await begin(new Transcribe(saved.stream));
  else if (saved.talking) tell("The page was loaded again. Press Start to go on: the new conversation is told what you two have said.", true);
}

// What is pressed

$("start").addEventListener("click", async () => {
  if (session && session.asleep) {
    await session.microphone.context.resume();
    player.resume();
    return buttons();
  }
  if (session) return stop();
  begin(mode() === "talk" ? new Talk() : new Transcribe());
});

$("interrupt").addEventListener("click", () => session && session.interrupt());

addEventListener("keydown", (e) => {
  if (e.key === "Escape" && $("more").open) {
    $("more").open = false;
    $("more").querySelector("summary").focus();
  } else if (e.key === "Escape" && session && session.speaking) session.interrupt();
});

function send() {
  const text = $("text").value.trim();
  if (!text) return;
  if (mode() === "speak") {
    if (session) stop(true);
    begin(new Speak(text));
    return;
  }
  $("text").value = "";
  grow();
  if (!session) begin(new Talk()).catch(() => {});
  const talk = session;
  if (talk instanceof Talk) talk.write(text);
  else setTimeout(() => session instanceof Talk && session.write(text), 300);
}

$("typed").addEventListener("submit", (e) => {
  e.preventDefault();
  send();
});

$("text").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    send();
  }
});

function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${Math.min($("text").scrollHeight + 2, 160)}px`;
}
$("text").addEventListener("input", grow);
addEventListener("resize", grow);

$("modes").addEventListener("change", () => {
  stop(true);
  tell("");
  arrange();
  save();
});

for (const id of ["voice", "latency"])
  $(id).addEventListener("change", () => {
    localStorage.setItem(CHOSEN, JSON.stringify({ ...choices(), voice: $("voice").value, [mode()]: $("latency").value }));
    if (!(session instanceof Talk || session instanceof Transcribe)) return;
    stop(true); // a voice that has spoken cannot change within a session
    begin(mode() === "talk" ? new Talk() : new Transcribe());
  });

$("key-form").addEventListener("submit", async (e) => {
  e.preventDefault();
  keys.key = $("key").value.trim();
  $("key").value = "";
  if (!keys.key) return tell("Type the key first.");
  if (await offered()) {
    tell("");
    $("start").focus();
  }
});

$("change-key").addEventListener("click", () => {
  $("more").open = false;
  stop(true);
  askKey();
});

$("notice-close").addEventListener("click", () => tell(""));
$("times").addEventListener("change", () => $("log").classList.toggle("times", $("times").checked));

$("copy").addEventListener("click", async () => {
  $("more").open = false;
  try {
    await navigator.clipboard.writeText(log.plain());
    tell("The text was copied.", true);
  } catch {
    tell("The browser did not let the text be copied; select it instead.");
  }
});

$("clear").addEventListener("click", () => {
  $("more").open = false;
  if (session instanceof Talk) stop(true); // a conversation that is cleared is forgotten by the server too
  if (session instanceof Transcribe) session.turn = null;
  log.clear();
  save();
});

document.addEventListener("click", (e) => {
  if ($("more").open && !$("more").contains(e.target)) $("more").open = false;
});

addEventListener("pagehide", save);

function frame() {
  wave.draw(now());
  if (session) {
    session.tick();
    $("interrupt").disabled = !(session && session.speaking);
    const asleep = Boolean(session && session.asleep);
    if (asleep !== frame.asleep) {
      frame.asleep = asleep;
      buttons();
    }
  }
  requestAnimationFrame(frame);
}

arrange();
frame();
restore();
