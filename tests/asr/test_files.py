"""Many files at once against each file alone; order, faults and an early end."""

import threading
import time

import numpy as np
import pytest
import soundfile as sf

from speechstream.asr.files import cores, transcribe_many
from speechstream.asr.recognizer import Recognizer
from speechstream.errors import AudioDamaged, SpeechStreamError
from speechstream.events import Final, Transcript


class Slow:
    """A recogniser whose first files take longest, and that knows how many it had in hand at a time."""

    batch_size = 1

    def __init__(self):
        self.lock, self.now, self.most, self.done = threading.Lock(), 0, 0, []

    def transcribe(self, file, latency_ms, progress, channels="mix"):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            for second in range(1, 6):
                time.sleep(0.02 if file % 3 == 0 else 0.001)
                progress(float(second))
            if file == 4:
                raise SpeechStreamError(f"{file} is no recording")
            self.done.append(file)
            return Transcript((Final(str(file), (), 0.0, 5.0),), 5.0)
        finally:
            with self.lock:
                self.now -= 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_order_and_a_fault_stays_in_its_place(jobs):
    asr, told = Slow(), []
    got = list(transcribe_many(asr, range(9), jobs, progress=told.append))
    assert [r.text if isinstance(r, Transcript) else str(r) for r in got] == [
        "4 is no recording" if i == 4 else str(i) for i in range(9)
    ]
    assert asr.most == jobs and told == sorted(told) and told[-1] == 45.0
    assert (
        asr.done == [i for i in range(9) if i != 4] if jobs == 1 else asr.done != sorted(asr.done)
    )


def test_who_closes_it_stops_the_work():
    asr = Slow()
    results = transcribe_many(asr, range(200), 2)
    assert next(results).text == "0"
    results.close()
    until = time.monotonic() + 20
    while asr.now and time.monotonic() < until:
        time.sleep(0.005)
    assert asr.now == 0 and len(asr.done) < 20


def test_no_files_and_no_threads():
    assert list(transcribe_many(Slow(), [])) == [] and cores() >= 1
    with pytest.raises(ValueError, match="jobs must be 1 or more, got 0"):
        transcribe_many(Slow(), [1], 0)
    with pytest.raises(ValueError, match="must be a list of recordings, got one str"):
        transcribe_many(Slow(), "a.wav")


def test_the_embedded_model_hears_the_same_in_any_company(fixtures_dir, tmp_path, embedded_asr):
    files = []
    for i, name in enumerate(("austen_0870", "austen_0880", "austen_0890", "austen_0930")):
        x, rate = sf.read(fixtures_dir / f"{name}.flac", dtype="float32")
        files.append(tmp_path / f"{name}.wav")
        sf.write(files[-1], x[i * rate // 4 : (i + 12) * rate // 4], rate)
    sf.write(tmp_path / "silence.wav", np.zeros(8000), 8000)
    files += [tmp_path / "silence.wav", tmp_path / "missing.wav"]
    asr = embedded_asr
    *heard, missing = asr.transcribe_many(files, jobs=3)
    assert heard == [asr.transcribe(f) for f in files[:-1]] and all(t.text for t in heard[:4])
    assert isinstance(missing, SpeechStreamError) and "does not exist" in str(missing)


@pytest.fixture(scope="module")
def fastconformer(fixtures_dir, tmp_path_factory):
    from speechstream.convert.nemo import load_nemo
    from speechstream.export.fastconformer import write_fastconformer

    folder = tmp_path_factory.mktemp("bundle")
    write_fastconformer(
        load_nemo(fixtures_dir / "nemo" / "hybrid.nemo"),
        folder,
        {"name": "tiny", "licence": "none"},
    )
    return Recognizer.load(folder)


class Counting:
    """Networks, and the sizes of their batches."""

    def __init__(self, networks, rows):
        self.networks, self.rows = networks, rows

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def slots(self):
        slots, step = self.networks.slots(), None
        step, rows = slots.step, self.rows
        slots.step = lambda given, inputs: (rows.append(len(given)), step(given, inputs))[1]
        return slots


def test_recordings_share_a_pool_where_that_is_faster(fastconformer, fixtures_dir, tmp_path):
    x, _ = sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")
    files, rng = [], np.random.default_rng(0)
    for i in range(21):
        start, rate = int(rng.integers(0, len(x) - 70_000)), (16_000, 8_000, 22_050)[i % 3]
        files.append(tmp_path / f"{i}.wav")
        sf.write(files[-1], x[start : start + int(rng.integers(0, 70_000))], rate)
    files[4:4] = [tmp_path / "missing.wav"]
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(100))
    files[13:13] = [tmp_path / "noise.wav"]
    rows, networks = [], fastconformer.family.networks
    counting = Counting(networks, rows)
    fastconformer.family.runner.networks = counting
    told = []
    got = list(transcribe_many(fastconformer, files, 2, progress=told.append))
    fastconformer.family.runner.networks = networks
    assert max(rows) > 4 and told == sorted(told)
    heard = 0.0
    for file, result in zip(files, got, strict=True):
        if file.name in ("missing.wav", "noise.wav"):
            assert isinstance(result, SpeechStreamError) and file.name in str(result)
        else:
            assert result == fastconformer.transcribe(file)
            heard += result.duration
    assert sum(bool(r.text) for r in got if isinstance(r, Transcript)) > 10
    assert told[-1] == pytest.approx(heard)


def test_damaged_recordings_in_a_pool_keep_what_was_heard(fastconformer, fixtures_dir, tmp_path):
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    sf.write(tmp_path / "good.wav", x, rate)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:-30_000])
    files = [tmp_path / name for name in ("cut.wav", "good.wav", "cut.wav", "missing.wav")]
    first, good, third, missing = transcribe_many(fastconformer, files, 1)
    with pytest.raises(AudioDamaged) as alone:
        fastconformer.transcribe(files[0])
    assert first.transcript == third.transcript == alone.value.transcript
    assert good == fastconformer.transcribe(files[1])
    assert isinstance(missing, SpeechStreamError) and not isinstance(missing, AudioDamaged)


def test_who_closes_a_pool_of_recordings_stops_it(fastconformer, fixtures_dir):
    before = set(threading.enumerate())
    results = transcribe_many(fastconformer, [fixtures_dir / "austen_0880.flac"] * 300, 2)
    assert next(results).text
    results.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()


def test_what_is_no_recording_is_said_before_anything_is_heard(fastconformer, fixtures_dir):
    files = [fixtures_dir / "austen_0870.flac", 5]
    with pytest.raises(ValueError, match="recording 2 of the list must be a path.*got int"):
        fastconformer.transcribe_many(files)
    with pytest.raises(ValueError, match="must be a list of recordings"):
        fastconformer.transcribe_many(files[0])
