"""sherpa-onnx computes the features of an exported model itself: what that means for models whose features are others."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch

from speechstream.convert.nemo import load_nemo
from speechstream.errors import SpeechStreamError
from speechstream.export.sherpa import BELOW, FLOOR, sherpa_graphs


@pytest.fixture(scope="module")
def hybrid(request):
    return load_nemo(request.path.parents[1] / "fixtures" / "nemo" / "hybrid.nemo")


@pytest.mark.parametrize("chunk", [1, 7])
def test_the_graph_takes_plain_logarithms(hybrid, chunk):
    """A model that was trained on (log - mean) / deviation, with a guard in its logarithm: the graph does that, as
    sherpa-onnx does not."""
    one = replace(hybrid, features=replace(hybrid.features, mean=-12.0, deviation=4.0))
    session = ort.InferenceSession(sherpa_graphs(one, chunk)["model"].SerializeToString())
    about = {
        k: int(v) for k, v in session.get_modelmeta().custom_metadata_map.items() if v.isdigit()
    }
    size, windows = about["window_size"], 6
    plain = (4 * np.random.default_rng(0).standard_normal((1, windows * size, 16)) - 12).astype(
        np.float32
    )
    caches = {
        "cache_last_channel": np.zeros(
            [1, *(about[f"cache_last_channel_dim{i}"] for i in (1, 2, 3))], np.float32
        ),
        "cache_last_time": np.zeros(
            [1, *(about[f"cache_last_time_dim{i}"] for i in (1, 2, 3))], np.float32
        ),
        "cache_last_channel_len": np.zeros(1, np.int64),
    }
    found = []
    for window in np.split(plain, windows, axis=1):
        logits, _, *new = session.run(
            None, {"audio_signal": window.transpose(0, 2, 1), "length": np.array([size]), **caches}
        )
        caches = dict(zip(caches, new))
        found.append(logits)
    guard = one.features.log_guard
    low = plain <= np.log(FLOOR) + 1e-3
    assert 0.1 < low.mean() < 0.9
    x = np.where(
        low, np.log(guard) + BELOW, np.log(np.exp(plain) + guard)
    )  # as our features are: log(energy + guard)
    x = torch.from_numpy((x[:, : windows * size - hybrid.model.encoder.lead] + 12) / 4).float()
    with torch.no_grad():
        expected = hybrid.model(x, lookahead=chunk - 1).numpy()
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"preemphasis": 0.0}, {"window": 320}, {"n_fft": 1024}, {"high": 7600.0}, {"low": 20.0}],
)
def test_other_features_are_refused(hybrid, change):
    with pytest.raises(SpeechStreamError, match=f"{next(iter(change))} .*expected"):
        sherpa_graphs(replace(hybrid, features=replace(hybrid.features, **change)))
