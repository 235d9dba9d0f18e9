"""Whisper's networks in onnxruntime: one session a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, EncoderState, Joint
from speechstream.errors import SpeechStreamError
from speechstream.runtime.session import giving_back, open_session

# The decoder's past is padded on the left to a multiple of this many rows. onnxruntime sums a softmax in blocks of 64:
# with the padding every row is summed alike whatever it shares a batch with, so a stream in a batch equals the stream
# alone to the bit (a difference in the last place would be magnified by the rounding of activations to eight bits).
PAST_ROWS = 64
MAX_LEFT = 1 << 15  # frames of the encoder's cache: eleven minutes
LONG_FRAMES = 256  # of a chunk, 5 s: beyond, the memory that it took is given back
SCORES = 64  # and of the encoder's cache so much is read that a row of scores has a multiple of this length
ALONE_FRAMES = (
    64  # of a first chunk: beyond, no cache is read at all, and nothing else is in its batch
)


class OnnxNetworks:
    """`encoder.onnx` and `decoder.onnx` of a bundle, and `ctc.onnx` where the encoder's graph does not end with that head."""

    name = "onnx"

    def __init__(self, folder: str | Path, threads: int = 1, device: str = "cpu"):
        self.encoder = open_session(Path(folder) / "encoder.onnx", threads, device)
        # a product with a factor misses the way that onnxruntime has for a single row, a token's attention
        self.decoder = open_session(
            Path(folder) / "decoder.onnx", threads, device, ("MatMulScaleFusion",)
        )
        self.outputs = [o.name for o in self.encoder.get_outputs()]
        self.trims = "keep" in {i.name for i in self.encoder.get_inputs()}
        self.ctc = None
        if "features" in self.outputs:
            self.ctc = open_session(Path(folder) / "ctc.onnx", threads, device)
        self.reach = MAX_LEFT  # frames that the CTC head hears beyond those it is asked about
        try:
            self.joint = _joint(Path(folder) / "model.safetensors")
            self._encoder_like = _zeros(self.encoder, EncoderState)
            self._decoder_like = _zeros(self.decoder, DecoderState)
            self.left = int(self.encoder.get_modelmeta().custom_metadata_map.get("left", 0))
            if self.left > MAX_LEFT:
                raise ValueError(f"a cache of {self.left} frames")
            if self.ctc is not None:
                _check_head(self.encoder, self.ctc)
                about = self.ctc.get_modelmeta().custom_metadata_map
                self.reach = int(about.get("reach", MAX_LEFT))
        except (ValueError, IndexError, MemoryError, safetensors.SafetensorError) as error:
            raise SpeechStreamError(
                f"the model in {folder} is damaged: its graphs and weights do not fit together "
                f"({(str(error) or type(error).__name__).splitlines()[0][:200]})"
            ) from error
        if not self.left or "rows" not in {i.name for i in self.decoder.get_inputs()}:
            raise SpeechStreamError(
                f"the graphs in {folder} were exported by another version of speechstream; export "
                "the model again"
            )
        for name in ("keys", "values"):
            like = self._encoder_like[name]
            self._encoder_like[name] = np.zeros(
                (*like.shape[:3], self.left, like.shape[4]), like.dtype
            )

    def encoder_state(self, batch: int = 1) -> EncoderState:
        return EncoderState(**{n: np.repeat(a, batch, 0) for n, a in self._encoder_like.items()})

    def filled(self, frames: int) -> slice:
        return slice(0, min(frames, self.left))

    def encode(
        self, mel: np.ndarray, state: EncoderState, keep: int | None = None, ctc: bool = True
    ) -> tuple[Encoded, EncoderState]:
        own = EncoderState(state.mel, state.keys.copy(), state.values.copy(), state.frames)
        return self.encode_in_place(mel, own, keep, ctc)

    def encode_in_place(
        self, mel: np.ndarray, state: EncoderState, keep: int | None = None, ctc: bool = True
    ) -> tuple[Encoded, EncoderState]:
        """The cache is a ring: a frame lies in its number modulo the length."""
        c = (mel.shape[2] - 1) // 2
        kept = c if keep is None else min(keep, c)
        used = self._used(c, int(state.frames.max()))
        feed = {
            "mel": mel,
            "state.mel": state.mel,
            **_layers("state.keys", state.keys[:, :, :, :used]),
            **_layers("state.values", state.values[:, :, :, :used]),
            "state.frames": state.frames,
        }
        if self.trims:
            heard = min(kept + self.reach, c) if ctc else kept
            feed |= {"keep": np.array([kept]), "heard": np.array([heard])}
        memory = giving_back() if c > LONG_FRAMES else None
        said = dict(zip(self.outputs, _run(self.encoder, feed, memory)))
        if ctc and self.ctc is not None:
            (said["ctc"],) = _run(self.ctc, {"features": said["features"]}, memory)
        encoded = Encoded(
            said["memory_keys"][:, :, :, :kept],
            said["memory_values"][:, :, :, :kept],
            said["ctc"][:, : kept // 2] if ctc else None,
            said["gate"][:, : kept // 2] if "gate" in said else None,
        )
        for ring, name in ((state.keys, "chunk.keys"), (state.values, "chunk.values")):
            self._write(ring, _by_layer(said, name, ring.shape[1]), state.frames, kept)
        history = np.concatenate([state.mel, mel[:, :, : 2 * kept]], axis=2)[:, :, -2:]
        return encoded, EncoderState(history, state.keys, state.values, state.frames + kept)

    def _used(self, c: int, frames: int) -> int:
        """How many rows of the cache a chunk of c frames reads."""
        if not frames and c > ALONE_FRAMES:
            return 0
        total = -(-(c + max(frames, 1)) // SCORES) * SCORES
        return min(total - c, self.left)

    def _write(
        self, ring: np.ndarray, new: list[np.ndarray], before: np.ndarray, kept: int
    ) -> None:
        """Put the first `kept` rows of a chunk (B, H, c, Dh), layer by layer, where those of `before` (B,) frames end."""
        n = min(kept, self.left)
        for b, frames in enumerate(before.tolist()):
            at = (frames + kept - n) % self.left
            first = min(n, self.left - at)  # what does not fit behind goes to the front
            for layer, rows in zip(ring[b], new):
                layer[:, at : at + first] = rows[b, :, kept - n : kept - n + first]
                if first < n:
                    layer[:, : n - first] = rows[b, :, kept - n + first : kept]

    def decoder_state(self, batch: int = 1) -> DecoderState:
        return DecoderState(**{n: np.repeat(a, batch, 0) for n, a in self._decoder_like.items()})

    def decode(self, tokens, keys, values, mask, state, first=0):
        pad = -state.keys.shape[3] % PAST_ROWS
        *said, new_keys, new_values = _run(
            self.decoder,
            {
                "tokens": tokens,
                "rows": np.arange(first, tokens.shape[1]),
                **_layers("memory_keys", keys),
                **_layers("memory_values", values),
                "mask": mask,
                **_layers("state.keys", _padded(state.keys, pad)),
                **_layers("state.values", _padded(state.values, pad)),
                "state.tokens": state.tokens,
            },
        )
        return Decoded(*said), DecoderState(
            np.concatenate([state.keys, new_keys], 3),
            np.concatenate([state.values, new_values], 3),
            state.tokens + tokens.shape[1],
        )


def _run(graph, feed: dict[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
    try:
        return graph.run(None, feed, options)
    except Exception as error:  # of a graph that is not the one its bundle speaks of; see `session`
        raise SpeechStreamError(
            f"the model's graphs cannot be run: {str(error).splitlines()[0][:200]}"
        ) from error


def _check_head(encoder: Any, head: Any) -> None:
    """Raise ValueError unless the head reads what the encoder gives."""
    given = next(o.shape for o in encoder.get_outputs() if o.name == "features")
    taken = {i.name: i.shape for i in head.get_inputs()}
    said = [o.name for o in head.get_outputs()]
    if list(taken) != ["features"] or said != ["ctc"]:
        raise ValueError(f"ctc.onnx takes {', '.join(taken)} and gives {', '.join(said)}")
    if taken["features"][-1] != given[-1]:
        raise ValueError(
            f"ctc.onnx reads features of {taken['features'][-1]}, the encoder gives {given[-1]}"
        )


def _joint(path: Path) -> Joint | None:
    """The gate's last layers from a bundle's weights; None where it has no gate."""
    if not path.is_file():
        return None
    with safetensors.safe_open(path, framework="numpy") as f:
        if "gate.out.weight" not in f.keys():
            return None
        attention, out, bias = (
            f.get_tensor(f"gate.{name}").astype(np.float32)
            for name in ("looked.weight", "out.weight", "out.bias")
        )
    return Joint(attention.T, out[0], float(bias[0]))


def _layers(name: str, a: np.ndarray) -> dict[str, np.ndarray]:
    """(B, layers, ...) as one input for each layer; of a single stream they are views, which onnxruntime reads in place."""
    return {f"{name}.{i}": a[:, i] for i in range(a.shape[1])}


def _by_layer(said: dict[str, np.ndarray], name: str, layers: int) -> list[np.ndarray]:
    """An output for each layer; older graphs give them as one, (B, layers, ...)."""
    if name in said:
        return list(said[name].swapaxes(0, 1))
    return [said[f"{name}.{i}"] for i in range(layers)]


def _padded(a: np.ndarray, rows: int) -> np.ndarray:
    """The past (B, layers, H, S, Dh) with so many rows of zeros before it; stored layer by layer, as a graph takes it."""
    B, layers, H, S, Dh = a.shape
    out = np.zeros((layers, B, H, rows + S, Dh), a.dtype).swapaxes(0, 1)
    out[:, :, :, rows:] = a
    return out


def _zeros(graph, kind) -> dict[str, np.ndarray]:
    """An empty state for one stream, its shapes read from the graph; dynamic lengths start at zero."""
    shapes = {i.name: i for i in graph.get_inputs()}
    out = {}
    for name in kind.__dataclass_fields__:
        layers = sum(n.startswith(f"state.{name}.") for n in shapes)
        node = shapes.get(f"state.{name}.0" if layers else f"state.{name}")
        if node is None:
            raise SpeechStreamError(
                f"the graph has no input 'state.{name}': it was exported for another runner"
            )
        shape = [n if isinstance(n, int) else 0 for n in node.shape[1:]]
        shape = [1, layers, *shape] if layers else [1, *shape]
        out[name] = np.zeros(shape, np.int64 if "int64" in node.type else np.float32)
    return out
