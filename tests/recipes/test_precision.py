"""In which precision recipes multiply: what a processor says of itself."""

import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")

from recipes.common import precision


@pytest.mark.parametrize(
    "cpuinfo, fast",
    [
        ("model name\t: Xeon\nflags\t\t: fpu sse2 avx512f amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("model name\t: amx_bf16\nflags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_taken_where_the_processor_multiplies_it(tmp_path, monkeypatch, cpuinfo, fast):
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    monkeypatch.setattr(precision, "CPUINFO", path)
    precision.matmul_dtype.cache_clear()
    try:
        a = torch.ones(2, 2)
        with precision.autocast():
            assert (a @ a).dtype == (torch.bfloat16 if fast else torch.float32)
    finally:
        precision.matmul_dtype.cache_clear()


def test_without_such_a_list_it_is_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "none")
    precision.matmul_dtype.cache_clear()
    try:
        assert precision.matmul_dtype() == torch.float32
    finally:
        precision.matmul_dtype.cache_clear()
