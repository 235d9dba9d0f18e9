"""Files that are not what they say: one sentence each, exit code 2, and the others are still transcribed."""

import re

import numpy as np
import pytest
import soundfile as sf

FORMATS = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "aiff": {},
}


@pytest.fixture
def hostile(tmp_path, wav):
    """Paths of damaged files, each with a pattern that its sentence must match; good.wav is among them, and fine."""
    sound, rate = sf.read(wav("good.wav"))
    noise = np.random.default_rng(1).integers(0, 256, 4096).astype(np.uint8).tobytes()
    files = {"good.wav": None}
    for suffix, options in FORMATS.items():
        whole = tmp_path / f"whole.{suffix}"
        sf.write(whole, sound, 8000, **options)
        data = whole.read_bytes()
        for kind, damaged, word in (
            ("truncated", data[: len(data) * 3 // 5], "truncated|no samples"),
            ("headless", noise[:200] + data[200:], "cannot be read as audio"),
        ):
            name = f"{kind}.{suffix}"
            if (
                name == "headless.mp3"
            ):  # an MP3 has no header: players look for its first whole frame
                continue
            (tmp_path / name).write_bytes(damaged)
            files[name] = word
        if suffix in ("flac", "ogg", "opus"):  # whose frames have check sums
            middle = len(data) // 2
            (tmp_path / f"corrupt.{suffix}").write_bytes(
                data[:middle] + noise[:100] + data[middle + 100 :]
            )
            files[f"corrupt.{suffix}"] = "corrupt|damaged"
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "empty.wav").write_bytes(b"")
    sf.write(tmp_path / "silent.wav", np.zeros(0), 8000)
    (tmp_path / "text.wav").write_text("This is no recording.\n" * 20)
    sf.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.0]), 8000, subtype="FLOAT")
    return files | {
        "folder.wav": "is a directory",
        "empty.wav": "is empty",
        "silent.wav": "no samples",
        "text.wav": "cannot be read as audio",
        "missing.wav": "does not exist",
        "nan.wav": "not finite numbers",
    }


@pytest.mark.parametrize("latency", [[], ["--latency", "160"]], ids=["offline", "streaming"])
def test_each_is_one_sentence_and_the_rest_goes_on(cli, wav, hostile, latency):
    wav("last.wav", 2.0)
    done = cli("transcribe", *hostile, "last.wav", *latency)
    assert done.returncode == 2
    sentences = done.stderr.splitlines()
    expected = {name: word for name, word in hostile.items() if word}
    assert len(sentences) == len(expected), done.stderr
    assert all(sentence.startswith("speechstream: ") for sentence in sentences), sentences
    for (
        name,
        word,
    ) in expected.items():  # files are read side by side, so their sentences may come in any order
        about = [s for s in sentences if f" {name} " in f" {s.replace(':', ' ')} "]
        assert len(about) == 1 and re.search(word, about[0]), (name, word, sentences)
    assert "Traceback" not in done.stderr
    texts = dict(re.findall(r"==> (.*) <==\n((?:(?!==>).*\n?)*)", done.stdout))
    assert texts["good.wav"].strip() == "word0 word1 word2 word3\nword4 word5 tail24000"
    assert texts["last.wav"].strip() == "word0 word1 word2 word3"
    for name in (
        expected.keys() & texts.keys()
    ):  # heard until they broke off: what came before is kept
        assert re.fullmatch(r"(word\d |tail\d+|word\d\n|word\d$|\n)*", texts[name])
