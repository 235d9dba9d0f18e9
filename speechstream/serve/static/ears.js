// The microphone's thread: what comes in is handed over as blocks of 16-bit samples.

const BLOCK = 512; // samples, 32 ms at 16 kHz

class Ears extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(BLOCK);
    this.at = 0;
  }

  process(inputs) {
    const channels = inputs[0];
    const n = channels.length ? channels[0].length : 0;
    for (let i = 0; i < n; i++) {
      let x = 0;
      for (const channel of channels) x += channel[i];
      x = Math.max(-1, Math.min(1, x / channels.length));
      this.block[this.at++] = Math.round(x * 32767);
      if (this.at === BLOCK) {
        this.port.postMessage(this.block.buffer, [this.block.buffer]);
        this.block = new Int16Array(BLOCK);
        this.at = 0;
      }
    }
    return true;
  }
}

registerProcessor("ears", Ears);
