"""What readers of stored tensors have in common: copies that are none."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from speechstream.convert.stored import check_copy, header
from speechstream.errors import SpeechStreamError


def test_an_output_layer_that_is_no_copy_of_its_embedding_is_refused(tmp_path):
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_file({"a": a, "same": a, "other": a + 1, "half": a.astype(np.float16)}, tmp_path / "w")
    found = {t.name: t for t in header(tmp_path / "w")}
    check_copy(tmp_path, found["same"], found["a"])
    check_copy(tmp_path, None, found["a"])
    for name in ("other", "half"):
        with pytest.raises(SpeechStreamError, match="differs from its embedding"):
            check_copy(tmp_path, found[name], found["a"])
