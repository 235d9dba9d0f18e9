"""The reader of GGUF files against llama.cpp's own Python package, and damaged files."""

import random
import struct

import numpy as np
import pytest

from speechstream.convert.gguf import TYPES, Gguf
from speechstream.errors import SpeechStreamError

gguf = pytest.importorskip("gguf", reason="llama.cpp's gguf package is the oracle")


SCALES = dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2))  # bytes where they stand; else 0
SCALES |= {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Bytes of blocks whose scales are sane numbers and whose codes are anything."""
    _, weights, size = next(t for t in TYPES.values() if t[0] == kind)
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows * columns // weights, size), np.uint8)
    for at in SCALES.get(kind, (0,)):
        raw[:, at : at + 2] = (
            rng.uniform(-0.1, 0.1, (len(raw), 1)).astype(np.float16).view(np.uint8)
        )
    return raw.reshape(rows, -1)


def write(path, tensors, **metadata):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        (writer.add_array if isinstance(value, list) else writer.add_string)(key, value)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


KINDS = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_have_the_values_of_llama_cpp(tmp_path, kind):
    raw = random_blocks(kind, 6, 512)
    number = gguf.GGMLQuantizationType[kind]
    file = Gguf(write(tmp_path / "a.gguf", {"w": (raw, number)}))
    expected = gguf.dequantize(raw, number)
    assert expected.shape == (6, 512)
    np.testing.assert_allclose(file.values("w"), expected, atol=1e-5)
    assert file.blocks("w").bits == (4 if kind.startswith("Q4") else 8)


def test_floats_and_metadata(tmp_path):
    plain = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    tensors = {"a": (plain, None), "b": (plain.astype(np.float16), None)}
    file = Gguf(write(tmp_path / "a.gguf", tensors, words=["eins", "zwei"], name="x"))
    assert file.metadata["words"] == ["eins", "zwei"] and file.metadata["name"] == "x"
    assert (file.values("a") == plain).all()
    assert (file.values("b") == plain.astype(np.float16)).all()
    with pytest.raises(SpeechStreamError, match="lacks the tensor 'c'"):
        file.values("c")


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    tensors = {"w": (random_blocks("Q4_0", 4, 64), gguf.GGMLQuantizationType.Q4_0)}
    data = write(tmp_path / "a.gguf", tensors, words=["eins", "zwei"]).read_bytes()
    path, rng, refused = tmp_path / "b.gguf", random.Random(0), 0
    for trial in range(400):
        bad = bytearray(data)
        if trial % 2:
            bad = bad[: rng.randrange(len(bad))]
        else:
            for _ in range(3):
                bad[rng.randrange(min(len(bad), 250))] = rng.randrange(256)
        path.write_bytes(bad)
        try:
            file = Gguf(path)
            for name in file.tensors:
                file.values(name)
        except SpeechStreamError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "cannot be read"),
        (b"GGML" + bytes(40), "does not begin"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version is 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "a text of"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 0, 1 << 50), "a list of"),
    ],
)
def test_huge_claims_cost_nothing(tmp_path, head, words):
    (tmp_path / "a.gguf").write_bytes(head)
    with pytest.raises(SpeechStreamError, match=words):
        Gguf(tmp_path / "a.gguf")
