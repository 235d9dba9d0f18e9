"""A random causal Whisper, so small that tests of streams are fast, and sounds for it."""

import json
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from safetensors.numpy import save_file

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.asr.whisper.cache import Values
from speechstream.asr.whisper.ctc import CtcDecoder
from speechstream.asr.whisper.family import WhisperFamily
from speechstream.asr.whisper.gate import GatedDecoder
from speechstream.asr.whisper.onnx import OnnxNetworks
from speechstream.asr.whisper.torch import TorchNetworks
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import LogMel
from speechstream.audio.resample import Resampler
from speechstream.export.quantize import INT8, quantize_graph
from speechstream.export.whisper import export_whisper
from speechstream.export.whisper_encoder import encoder_graph
from speechstream.nn.whisper import Whisper, WhisperConfig

REPO = Path(__file__).parents[1]
MODEL = REPO / "speechstream" / "models" / "causal-whisper-base"
CONFIG = WhisperConfig(
    n_mels=8,
    dim=128,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    vocab_size=200,
    text_context=448,
    positions=150,
    left_context=40,
    ctc_vocab_size=65,
    ctc_dim=128,
    ctc_blocks=1,
    gate_dim=64,
    alignment_heads=((0, 1), (1, 0)),
)


def make_tiny(folder):
    """A folder with a random model: graphs in fp32 and (under int8) in eight bits, its vocabularies, its network."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = Whisper(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    gate = model.gate  # opens where half of the attention has passed
    gate.looked.weight[:, 0] = gate.out.weight[0].sign()
    gate.out.bias.fill_(-0.46 * gate.out.weight.abs().sum())
    (folder / "int8").mkdir()
    for name, graph in export_whisper(model).items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
        small = encoder_graph(model, INT8) if name == "encoder" else quantize_graph(graph)
        (folder / "int8" / f"{name}.onnx").write_bytes(small.SerializeToString())
    pieces = [("\u0120" if i % 3 == 0 else "") + chr(97 + i % 26) + str(i) for i in range(190)] + [
        "<x>"
    ] * 10
    last = {f"gate.{n}": p.detach().numpy() for n, p in model.gate.named_parameters()}
    for place in (folder, folder / "int8"):
        save_file(last, place / "model.safetensors")
    (folder / "vocabulary.json").write_text(
        json.dumps({"pieces": pieces, "end": 190, "prompt": [191, 192]})
    )
    table = {("▁" if i % 2 else "") + f"p{i}": i for i in range(65)}
    (folder / "ctc.json").write_text(json.dumps({"model": {"vocab": table}}))
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder


class Greedyless(AttentionDecoder):
    """A random network never says that it has finished: twelve tokens are enough for a test."""

    def loops(self, tokens, token):
        return len(tokens) % 12 == 11 or super().loops(tokens, token)


def recognizer(folder, kind="int8", decoder="attention"):
    if kind == "torch":
        model = Whisper(CONFIG)
        model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        engine = TorchNetworks(model)
    else:
        engine = OnnxNetworks(folder / "int8" if kind == "int8" else folder)
    reader = (
        Greedyless(Vocabulary(folder / "vocabulary.json"))
        if decoder == "attention"
        else GatedDecoder(Vocabulary(folder / "vocabulary.json"), engine.joint)
        if decoder == "transducer"
        else CtcDecoder(folder / "ctc.json", beam=4 if decoder == "beam" else 1)
    )
    family = WhisperFamily(Values(engine), reader, LogMel(CONFIG.n_mels), 480, 160)
    rules = EndpointRules(silence_s=0.3, longest_s=3.0)
    return Recognizer(family, rules, {"name": "tiny"}, digest="tiny")


def read_speech(fixtures_dir):
    read = [
        sf.read(fixtures_dir / f"austen_{n}.flac", dtype="float32")
        for n in ("0880", "0870", "0890")
    ]
    return np.concatenate([samples for samples, _ in read]), read[0][1]


def sounds(speech, streams, seconds, seed=0):
    """Stretches of speech, some with silence within, at three rates, as (samples, rate, latency)."""
    rng, out = np.random.default_rng(seed), []
    for i in range(streams):
        rate = (speech[1], 8000, 44100)[i % 5 % 3]
        samples = Resampler(speech[1], rate)(speech[0][: int(speech[1] * 12)])
        n = int(seconds * rate * rng.uniform(0.5, 1))
        at = int(rng.integers(0, len(samples) - n))
        x = samples[at : at + n].copy()
        if i % 3 == 0:
            x[n // 3 : n // 3 + rate // 2] = 0
        out.append((x, rate, (80, 160, 320, 640)[i % 4]))
    return out


def alone(asr, sound):
    x, rate, latency = sound
    with asr.stream(latency, rate) as stream:
        return stream.push(x) + stream.finish()


def arrive(pool, clips, seed, most_s=0.3, budget_s=None, change=None):
    """Random opening times, block sizes and steps; all events of each clip."""
    rng = np.random.default_rng(seed)
    sids, at, events = {}, [0] * len(clips), [[] for _ in clips]
    todo = list(range(len(clips)))
    while todo or len(pool):
        for i in list(todo):
            x, rate, latency = clips[i]
            if i not in sids:
                if rng.random() < 0.4:
                    sids[i] = pool.open(latency, rate)
            elif sids[i] not in pool:
                todo.remove(i)
            elif rng.random() < 0.8:
                n = int(rng.integers(0, most_s * rate))
                pool.push(sids[i], x[at[i] : at[i] + n])
                at[i] += n
                if at[i] >= len(x):
                    pool.finish(sids[i])
                    todo.remove(i)
        if change:
            change(sids)
        owner = {sid: i for i, sid in sids.items()}
        for sid, said in pool.step(budget_s).items():
            events[owner[sid]] += said
    return events
