// What was said, by both sides, word by word: the model and its elements. All text goes in as text, never as markup.

const KEPT = 300; // turns

/**
 * A turn: {id, who: "you" | "voice", start, words: [{text, t, sample?}], partial, done, heard?}. Times in seconds;
 * `sample` is where a word begins in the voice's sound, and `heard` how many samples were heard where it was cut.
 */
export class Log {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.turns = [];
    this.elements = new Map();
  }

  add(turn) {
    const whole = { words: [], partial: "", done: false, ...turn };
    this.turns.push(whole);
    if (this.turns.length > KEPT) this.remove(this.turns[0]);
    this.show(whole);
    return whole;
  }

  find(id) {
    return this.turns.find((t) => t.id === id);
  }

  remove(turn) {
    this.turns = this.turns.filter((t) => t !== turn);
    const element = this.elements.get(turn);
    if (element) element.remove();
    this.elements.delete(turn);
    this.empty.hidden = this.turns.length > 0;
  }

  clear() {
    for (const turn of [...this.turns]) this.remove(turn);
  }

  /** Write a turn anew. */
  show(turn) {
    const follow = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 80;
    let element = this.elements.get(turn);
    if (!element) {
      element = make("article", `turn ${turn.who}`);
      const head = make("h2", "who", turn.who === "you" ? "You" : "Voice");
      head.append(make("time", "", clock(turn.start)));
      element.append(head, make("p", "words"));
      this.list.append(element);
      this.elements.set(turn, element);
      this.empty.hidden = true;
    }
    const words = element.querySelector(".words");
    const written = turn.words.map((w) => {
      const span = make("span", "word", w.text);
      if (w.t !== undefined) {
        span.dataset.t = w.t.toFixed(2);
        span.title = `${w.t.toFixed(2)} s`;
      }
      return span;
    });
    if (turn.partial) written.push(make("span", "partial", turn.partial));
    words.replaceChildren(...written.flatMap((s, i) => (i ? [" ", s] : [s])));
    element.classList.toggle("open", !turn.done);
    element.classList.toggle("cut", turn.heard !== undefined);
    this.mark(turn, turn.heard ?? (turn.done ? Infinity : (turn.played ?? -1)));
    if (follow) this.list.scrollTop = this.list.scrollHeight;
  }

  /** So many samples of a voice's turn were played: which words is that? */
  mark(turn, played) {
    if (turn.who !== "voice") return;
    const element = this.elements.get(turn);
    const spans = element ? element.querySelectorAll(".word") : [];
    const cut = turn.heard !== undefined;
    turn.words.forEach((w, i) => {
      const next = turn.words[i + 1];
      const begun = w.sample < played;
      const over = next ? next.sample < played : turn.done;
      spans[i].classList.toggle("coming", !begun && !cut);
      spans[i].classList.toggle("now", begun && !over && !turn.done && !cut);
      spans[i].classList.toggle("unheard", !begun && cut);
    });
  }

  /** The words of a turn as one text; of the voice's, those that were heard. */
  text(turn) {
    const heard = turn.heard ?? Infinity;
    const said = turn.words.filter((w) => turn.who === "you" || w.sample < heard).map((w) => w.text);
    return [...said, turn.partial].join(" ").trim();
  }

  plain() {
    return this.turns.map((t) => `${clock(t.start)}  ${t.who === "you" ? "You" : "Voice"}: ${this.text(t)}`).join("\n");
  }

  saved() {
    return this.turns;
  }

  restore(turns) {
    for (const turn of turns) {
      // Of an answer that was still being spoken nobody knows what was heard after the page had gone.
      this.add(turn.who === "voice" && !turn.done ? { ...turn, done: true, heard: turn.played ?? 0 } : turn);
    }
  }
}

export function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** 75.25 as 1:15.2 */
export function clock(seconds) {
  const tenths = Math.max(Math.floor(seconds * 10), 0);
  const rest = tenths % 600;
  return `${Math.floor(tenths / 600)}:${String(Math.floor(rest / 10)).padStart(2, "0")}.${rest % 10}`;
}
