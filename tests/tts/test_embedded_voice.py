"""The voice that is in the package: understood by an independent ear, itself at any cut of the text, and plain to use."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from whisper_normalizer.english import EnglishTextNormalizer

import speechstream as ss
from speechstream.audio.pitch import loudness, pitch
from speechstream.audio.resample import Resampler

SAID = {
    "The train leaves at a quarter past nine.": "the train leaves at a quarter past nine",
    "Did Maria find the yellow umbrella on Monday?": "did maria find the yellow umbrella on monday",
    "It costs $14.50, or 3% more than last year.": "it costs fourteen dollars and fifty cents or three percent more than last year",
    "Dr. Brown lives at 221 Baker St. in London.": "doctor brown lives at two hundred twenty one baker street in london",
    "Thank you very much, and see you tomorrow!": "thank you very much and see you tomorrow",
}
VOICES = [s["name"] for s in ss.bundle.load(ss.bundle.embedded("tts")).config["speakers"]]
PITCH_HZ = {"f": (150, 240), "m": (85, 150)}  # of a woman and a man: the second letter of a name


@pytest.fixture(scope="module")
def tts(embedded_tts):
    return embedded_tts


def say(tts, pieces, **options):
    with tts.stream(**options) as stream:
        for piece in pieces:
            stream.push(piece)
        stream.end()
        return list(stream)


@pytest.mark.parametrize("voice", VOICES)
def test_it_is_understood(tts, voice, embedded_asr):
    """Read back by the recogniser, which was trained on people."""
    asr, normal, wrong, words = embedded_asr, EnglishTextNormalizer(), 0, 0
    for text, spoken in SAID.items():
        pcm = np.concatenate([c.pcm for c in say(tts, [text], voice=voice)])
        heard = asr.transcribe(
            Resampler(tts.sample_rate, 16000)(pcm[None])[0], sample_rate=16000
        ).text
        a, b = normal(spoken).split(), normal(heard).split()
        wrong, words = wrong + distance(a, b), words + len(a)
    assert words > 30 and wrong <= 0.2 * words


def distance(a, b):
    """Words to be changed, left out or added."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize("voice", VOICES)
def test_it_sounds_like_somebody(tts, voice):
    pcm = np.concatenate([c.pcm for c in say(tts, list(SAID), voice=voice)])
    assert np.isfinite(pcm).all() and 0.1 < np.abs(pcm).max() < 1.0
    level = loudness(pcm, tts.sample_rate)
    assert -32 < 10 * np.log10(np.mean(10 ** (level[level > level.max() - 40] / 10))) < -16
    f0 = pitch(pcm, tts.sample_rate)
    low, high = PITCH_HZ[voice[1]]
    assert low < np.median(f0[f0 > 0]) < high and 0.3 < (f0 > 0).mean() < 0.8


def test_the_text_may_come_in_any_pieces(tts):
    text = "Well, it was not raining yesterday. Was it? " + list(SAID)[3]
    whole = np.concatenate([c.pcm for c in say(tts, [text])])
    rng = np.random.default_rng(0)
    for _ in range(2):
        cuts = np.sort(rng.choice(np.arange(1, len(text)), 20, replace=False))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
        np.testing.assert_allclose(
            np.concatenate([c.pcm for c in say(tts, pieces)]), whole, atol=1e-4
        )


def test_blocks_of_any_size_give_the_same_sound(tts):
    text, usual = list(SAID)[1], tts.voice.blocks
    whole = np.concatenate([c.pcm for c in say(tts, [text])])
    try:
        for blocks in ((1,), (3,), (1000,)):
            tts.voice.blocks = blocks
            np.testing.assert_allclose(
                np.concatenate([c.pcm for c in say(tts, [text])]), whole, atol=1e-4
            )
    finally:
        tts.voice.blocks = usual


def test_speed_and_words(tts):
    text = list(SAID)[1]
    usual, slow = (say(tts, [text], speed=speed) for speed in (1.0, 0.7))
    lengths = [sum(len(c.pcm) for c in chunks) for chunks in (usual, slow)]
    assert lengths[1] / lengths[0] == pytest.approx(1 / 0.7, rel=0.1)
    words = [w for c in usual for w in c.words]
    assert [text[slice(*w.span)].strip("?") for w in words] == text.strip("?").split()
    assert all(a.end <= b.start + 1e-6 for a, b in zip(words, words[1:]))


def test_one_command(tmp_path):
    out = tmp_path / "out.wav"
    run = subprocess.run(
        [sys.executable, "-m", "speechstream", "say", "Good morning, everyone.", "-o", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    pcm, rate = soundfile.read(out)
    assert rate == 24000 and 0.8 < len(pcm) / rate < 4
    run = subprocess.run(
        [sys.executable, "-m", "speechstream", "voices"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and all(name in run.stdout for name in VOICES)
    assert (
        json.loads((ss.bundle.embedded("tts") / "bundle.json").read_text(encoding="utf-8"))["card"][
            "licence"
        ]
        == "Apache-2.0"
    )
