"""The engine against the library: the same text and sound, bounded memory, and one stream's fault its own."""

import asyncio

import numpy as np
import pytest
import soundfile as sf

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Failed, Final
from speechstream.runtime.pool import Pool
from speechstream.serve.engine import UNTAKEN_BYTES, Engine, Limits, Refused

TEXT = "Dr. Brown arrives at 9:15."


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")


def within(models, do, limits=None):
    """Run `do(engine)` on a loop with an engine."""

    async def main():
        engine = Engine(*models, limits)
        engine.start()
        try:
            return await asyncio.wait_for(do(engine), 60)
        finally:
            engine.stop()

    return asyncio.run(main())


async def heard(stream, x, size):
    for at in range(0, len(x), size):
        await stream.push(x[at : at + size])
    stream.finish()
    return [e async for e in stream]


def test_both_threads_give_what_the_library_gives(models, speech):
    asr, tts = models
    x, rate = speech

    async def do(engine):
        async def spoken():
            stream = engine.speak(markup=True)
            await stream.push(TEXT)
            stream.finish()
            return [e async for e in stream]

        return await asyncio.gather(
            heard(engine.listen(320, rate), x, 777),
            heard(engine.hear_file(None, rate), x, 16_000),
            spoken(),
        )

    live, file, blocks = within(models, do)
    for events, latency in ((live, 320), (file, None)):
        with asr.stream(latency, rate) as stream:
            alone = stream.push(x) + stream.finish()
        assert [e for e in events if isinstance(e, Final)] == [
            e for e in alone if isinstance(e, Final)
        ]
    sound, alone = np.concatenate([b.pcm for b in blocks]), tts.synthesize(TEXT)
    assert sound.shape == alone.pcm.shape and np.abs(sound - alone.pcm).max() < 1e-4


def test_blocks_of_one_sample_are_gathered_and_give_the_same_text(models, speech):
    asr, _ = models
    x, rate = speech

    async def do(engine):
        stream, given = engine.listen(320, rate), []
        push = stream._lane.keeper.push

        def counted(key, block, count):
            given.append(block)
            push(key, block, count)

        stream._lane.keeper.push = counted
        return await heard(stream, x[:16_000], 1), given

    events, given = within(models, do)
    assert len(given) < 16_000 / 50  # 10 ms are 160, but for those that the thread was quick to see
    np.testing.assert_array_equal(np.concatenate(given), x[:16_000])
    with asr.stream(320, rate) as stream:
        alone = stream.push(x[:16_000]) + stream.finish()
    finals = [[e for e in said if isinstance(e, Final)] for said in (events, alone)]
    assert finals[0] == finals[1] and finals[0]


def test_the_first_sound_does_not_wait_for_the_second(models):
    def steps(eager):
        pool, said = Pool(1), []
        sid = pool.open_core(models[1].core())
        pool.push(sid, TEXT)
        pool.finish(sid)
        while sid in pool:
            events = pool.step(eager=eager).get(sid, [])
            said.append([e.pcm for e in events if isinstance(e, Audio) and len(e.pcm)])
        return said

    whole, eager = steps(False), steps(True)
    assert len(whole) == 1 and max(map(len, eager)) == 1
    np.testing.assert_array_equal(np.concatenate(whole[0]), np.concatenate(sum(eager, [])))


def test_a_stream_that_nobody_takes_is_held_and_then_goes_on(models):
    async def do(engine):
        stream = engine.speak()
        await stream.push("It rained, so we stayed inside and read. " * 20)
        stream.finish()
        while not stream._held:
            await asyncio.sleep(0.01)
        # the thread answers what is asked after the hold: from here on it rests
        data = await stream.snapshot()
        kept = stream._untaken
        await stream.snapshot()
        assert stream._untaken == kept and data
        seconds = 0.0
        async for block in stream:
            seconds += len(block.pcm) / engine.synthesizer.sample_rate
        return kept, seconds

    kept, seconds = within(models, do)
    assert kept < UNTAKEN_BYTES + (1 << 19)
    assert seconds > 2 * UNTAKEN_BYTES / 4 / 24_000


def test_a_twin_foresees_the_end_and_the_stream_goes_on(models, speech):
    x, rate = speech
    half = len(x) // 2

    async def do(engine):
        stream = engine.listen(320, rate)
        await stream.push(x[:half])
        twin = stream.fork()
        twin.finish()
        foreseen = [e async for e in twin]
        await stream.push(x[half:])
        stream.finish()
        return foreseen, [e async for e in stream]

    foreseen, whole = within(models, do)
    with models[0].stream(320, rate) as stream:
        alone = stream.push(x[:half])
        assert alone  # the twin says what comes after these
        cut = stream.fork()
        assert [e for e in foreseen if isinstance(e, Final)] == [
            e for e in cut.finish() if isinstance(e, Final)
        ]
        alone += stream.push(x[half:]) + stream.finish()
    assert [e for e in whole if isinstance(e, Final)] == [e for e in alone if isinstance(e, Final)]


def test_input_waits_where_too_much_is_unheard(models, speech):
    x, rate = speech

    async def do(engine):
        stream = engine.listen(320, rate)
        most = 0.0
        for at in range(0, len(x), rate // 10):
            await stream.push(x[at : at + rate // 10])
            most = max(most, stream.waiting_s)
        stream.finish()
        return most, [e.text async for e in stream if isinstance(e, Final)]

    most, texts = within(models, do, Limits(backlog_s=0.5))
    assert most <= 0.5 + 0.2 and len(texts) == 1


def test_samples_that_are_none_fail_their_own_stream(models, speech):
    x, rate = speech

    async def do(engine):
        bad, good = engine.listen(320, rate), engine.listen(320, rate)
        await bad.push(np.full(100, np.nan, np.float32))
        events = [e async for e in bad]
        with pytest.raises(SpeechStreamError, match="finished"):
            await bad.push(x)
        return events, await heard(good, x, 16_000), len(engine.live)

    events, others, left = within(models, do)
    assert [type(e) for e in events] == [Failed] and "finite" in events[0].message
    assert any(isinstance(e, Final) for e in others) and left == 0


def test_seats_are_counted_and_given_back(models):
    async def do(engine):
        with engine.seat("stream"):
            with pytest.raises(Refused, match="all 1 places") as full:
                engine.admit()
            assert full.value.retry_s
        engine.admit()
        engine.draining.set()
        with pytest.raises(Refused, match="about to end"):
            engine.admit()

    within(models, do, Limits(sessions=1))


def test_who_is_cut_off_by_the_end_is_told(models, speech):
    x, rate = speech

    async def do(engine):
        stream = engine.listen(320, rate)
        await stream.push(x)
        engine.stop()
        return [e async for e in stream][-1]

    assert isinstance(within(models, do), Failed)


def test_limits_are_read_strictly():
    with pytest.raises(ValueError, match="sessions must be above 0"):
        Limits(sessions=0)
    with pytest.raises(ValueError, match="idle_s must be above 0, got 'x'"):
        Limits(idle_s="x")
