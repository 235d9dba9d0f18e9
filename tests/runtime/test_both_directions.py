"""One pool that hears and speaks at once: the text and the sound of each alone."""

import numpy as np
import soundfile as sf

from speechstream.events import Audio, Final
from speechstream.runtime.pool import Pool

SENTENCES = ("Dr. Brown arrives at 9:15.", "It rained, so we stayed inside and read.")


def test_streams_of_both_kinds_share_a_pool(fixtures_dir, embedded_asr, embedded_tts):
    asr, tts = embedded_asr, embedded_tts
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    pool = Pool(8)
    listening = [pool.open_core(asr.core(latency, rate)) for latency in (160, 640)]
    speaking = [pool.open_core(tts.core()) for _ in SENTENCES]
    said: dict[int, list] = {sid: [] for sid in (*listening, *speaking)}
    for at in range(0, len(x), rate // 4):
        for sid in listening:
            pool.push(sid, x[at : at + rate // 4])
        for sid, sentence in zip(speaking, SENTENCES):
            if at == 0:
                for character in sentence:
                    pool.push(sid, character)
                pool.finish(sid)
        for sid, events in pool.step(budget_s=0.05).items():
            said[sid] += events
    for sid in listening:
        pool.finish(sid)
    while len(pool):
        for sid, events in pool.step().items():
            said[sid] += events
    for sid, latency in zip(listening, (160, 640)):
        with asr.stream(latency, rate) as stream:
            alone = stream.push(x) + stream.finish()
        assert [e for e in said[sid] if isinstance(e, Final)] == [
            e for e in alone if isinstance(e, Final)
        ]
    for sid, sentence in zip(speaking, SENTENCES):
        blocks = [e for e in said[sid] if isinstance(e, Audio)]
        alone = tts.synthesize(sentence)
        sound = np.concatenate([b.pcm for b in blocks])
        assert sound.shape == alone.pcm.shape and np.abs(sound - alone.pcm).max() < 1e-4
        assert [w.text for b in blocks for w in b.words] == [w.text for w in alone.words]
