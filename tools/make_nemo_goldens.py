"""Write tests/fixtures/nemo: tiny random .nemo files made by NeMo itself, and what NeMo computes with them.

Needs `nemo_toolkit[asr]` (written with 3.0.0), which the package itself never does:

    python -m tools.make_nemo_goldens tests/fixtures/nemo

Each model gives NAME.nemo (two of them gzipped, as old releases are) and NAME.npz. In the npz, per look-ahead R
(frames) of a cache-aware model:
`offline_R` encoder output of the whole utterance with NeMo's mask, `short_R` the same of its first SHORT frames in a
padded batch, `streamed_R` the concatenated outputs of `cache_aware_stream_step` with `pad_and_drop_preencoded=False`.
NeMo's own streamed and offline outputs are compared on the way, and the differences printed.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from nemo.collections.asr import models
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from omegaconf import OmegaConf

TEXT = (
    "the quick brown fox jumps over the lazy dog while seven wizards vex a jolly queen and the river runs to the "
    "sea every morning before the sun is up she walks along the beach and counts the boats that come home "
)
SAMPLE_RATE = 16000
FRAMES, SHORT = (
    177,
    100,
)  # mel frames; 177 = 1 + 8 * 22: NeMo's streaming buffer drops a tail that does not fill a step


def audio() -> np.ndarray:
    """Deterministic speech-like noise: harmonics of a moving pitch under an envelope, and a little noise."""
    t = np.arange(FRAMES * SAMPLE_RATE // 100) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * t)) / SAMPLE_RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (
        0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * t)
    )
    noise = np.random.RandomState(0).standard_normal(len(t))
    return (0.1 * tone + 0.003 * noise).astype(np.float32)


def tokenizer(folder: Path, pieces: int) -> str:
    """A SentencePiece model of `pieces` entries; the identity normaliser keeps the file at a few hundred bytes."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 8),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        model_type="bpe",
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    names = [processor.id_to_piece(i) for i in range(1, pieces)]
    (folder / "vocab.txt").write_text("\n".join("##" + n if n[0] != "▁" else n[1:] for n in names))
    return str(folder)


def config(
    folder: Path,
    pieces: int,
    features: int,
    normalize: str,
    encoder: dict,
    loss: dict | None = None,
) -> dict:
    dim = encoder["d_model"]
    defaults = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": features,
        "feat_out": -1,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "causal_downsampling": True,
        "subsampling_conv_channels": 8,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "att_context_style": "chunked_limited",
        "xscaling": False,
        "untie_biases": True,
        "pos_emb_max_len": 500,
        "conv_kernel_size": 9,
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    }
    return {
        "sample_rate": SAMPLE_RATE,
        "compute_eval_loss": False,
        "model_defaults": {"enc_hidden": dim, "pred_hidden": 12, "joint_hidden": 20},
        "tokenizer": {"dir": tokenizer(folder, pieces), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": normalize,
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": features,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 0,
            "time_masks": 0,
            "freq_width": 4,
            "time_width": 0.05,
        },
        "encoder": defaults | encoder,
    }


def transducer(pieces: int, layers: int, activation: str, durations: list[int]) -> dict:
    decoding = {
        "strategy": "greedy_batch",
        "greedy": {"max_symbols": 10, "loop_labels": True, "use_cuda_graph_decoder": False},
    }
    if durations:
        decoding |= {"model_type": "tdt", "durations": durations}
    loss = {"loss_name": "default"}
    if durations:
        loss = {
            "loss_name": "tdt",
            "tdt_kwargs": {"durations": durations, "sigma": 0.02, "omega": 0.1},
        }
    return {
        "labels": [],
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "vocab_size": -1,
            "prednet": {
                "pred_hidden": 12,
                "pred_rnn_layers": layers,
                "t_max": None,
                "dropout": 0.1,
            },
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": 4,
            "num_classes": -1,
            "vocabulary": [],
            "num_extra_outputs": len(durations),
            "jointnet": {
                "joint_hidden": 20,
                "activation": activation,
                "dropout": 0.1,
                "encoder_hidden": None,
                "pred_hidden": 12,
            },
        },
        "decoding": decoding,
        "loss": loss,
    }


CTC_HEAD = {
    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
    "feat_in": None,
    "num_classes": -1,
    "vocabulary": [],
}


def build(name: str, folder: Path):
    """One model class, size and set of options each, chosen to cover what released checkpoints use."""
    if name == "hybrid":  # stt_en_fastconformer_hybrid_large_streaming_multi
        cfg = config(
            folder,
            40,
            16,
            "NA",
            {
                "d_model": 16,
                "n_heads": 4,
                "n_layers": 2,
                "att_context_size": [[14, 13], [14, 6], [14, 1], [14, 0]],
            },
        )
        cfg |= transducer(40, 1, "relu", [])
        cfg["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": CTC_HEAD,
            "decoding": {"strategy": "greedy"},
        }
        kind = models.EncDecHybridRNNTCTCBPEModel
    elif (
        name == "rnnt"
    ):  # nemotron-speech-streaming: no biases; and factor 4, two LSTM layers, shared biases
        cfg = config(
            folder,
            34,
            20,
            "NA",
            {
                "d_model": 18,
                "n_heads": 3,
                "n_layers": 2,
                "use_bias": False,
                "xscaling": True,
                "untie_biases": False,
                "subsampling_factor": 4,
                "conv_kernel_size": 5,
                "att_context_size": [[8, 3], [8, 0]],
            },
        )
        cfg |= transducer(34, 2, "tanh", [])
        kind = models.EncDecRNNTBPEModel
    elif name == "ctc":  # one look-ahead, batch norm
        cfg = config(
            folder,
            36,
            16,
            "NA",
            {
                "d_model": 16,
                "n_heads": 2,
                "n_layers": 2,
                "conv_norm_type": "batch_norm",
                "xscaling": True,
                "att_context_size": [6, 2],
            },
        )
        cfg |= {
            "ctc_reduction": "mean_batch",
            "skip_nan_grad": False,
            "decoder": CTC_HEAD,
            "decoding": {"strategy": "greedy"},
        }
        kind = models.EncDecCTCModelBPE
    else:  # parakeet-tdt: whole utterance as context, per-feature normalisation, durations
        cfg = config(
            folder,
            38,
            16,
            "per_feature",
            {
                "d_model": 16,
                "n_heads": 4,
                "n_layers": 2,
                "causal_downsampling": False,
                "conv_norm_type": "batch_norm",
                "conv_context_size": None,
                "att_context_style": "regular",
                "att_context_size": [-1, -1],
                "use_bias": False,
            },
        )
        cfg |= transducer(38, 1, "relu", [0, 1, 2, 3, 4])
        kind = models.EncDecRNNTBPEModel
    for head in (cfg.get("aux_ctc", {}).get("decoder"), cfg["decoder"]):
        if head and "feat_in" in head:
            head["feat_in"] = cfg["encoder"]["d_model"]
    if "joint" in cfg:
        cfg["joint"]["jointnet"]["encoder_hidden"] = cfg["encoder"]["d_model"]
    return kind(cfg=OmegaConf.create(cfg))


def randomise(model) -> None:
    """Move every parameter off its initial value, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = (
                0.15 if name.startswith("encoder") else 0.9
            )  # enough for varied tokens from a random network
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn(buffer.shape, generator=generator))
            if key.endswith("running_var"):
                buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
        if hasattr(model.decoder, "prediction"):
            model.decoder.prediction["embed"].weight[
                model.decoder.blank_idx
            ].zero_()  # NeMo's start symbol
            blank = 4.0 if model.joint.num_extra_outputs else 14.0  # some frames emit, some do not
            model.joint.joint_net[-1].bias[model.decoder.blank_idx] += blank


def streamed(model, mel: torch.Tensor, context: list[int], pad_and_drop: bool) -> np.ndarray:
    model.encoder.set_default_att_context_size(context)
    buffer = CacheAwareStreamingAudioBuffer(
        model=model, online_normalization=False, pad_and_drop_preencoded=pad_and_drop
    )
    buffer.append_processed_signal(mel, stream_id=-1)
    cache = model.encoder.get_initial_cache_state(batch_size=1)
    outputs = []
    for step, (chunk, lengths) in enumerate(iter(buffer)):
        drop = (
            0
            if step == 0 and not pad_and_drop
            else model.encoder.streaming_cfg.drop_extra_pre_encoded
        )
        y, n, *cache = model.encoder.cache_aware_stream_step(
            processed_signal=chunk,
            processed_signal_length=lengths,
            cache_last_channel=cache[0],
            cache_last_time=cache[1],
            cache_last_channel_len=cache[2],
            keep_all_outputs=buffer.is_buffer_empty(),
            drop_extra_pre_encoded=drop,
        )
        outputs.append(y[0, :, : int(n[0])].T.numpy())
    return np.concatenate(outputs)


def goldens(model) -> dict[str, np.ndarray]:
    out = {}
    wave = torch.from_numpy(audio())[None]
    mel, length = model.preprocessor(input_signal=wave, length=torch.tensor([wave.shape[1]]))
    mel = mel[:, :, : int(length[0])]
    out["mel"] = mel[0].T.numpy()  # (T, features)
    contexts = model.encoder.att_context_size_all
    heads = {
        "ctc": getattr(model, "ctc_decoder", None if hasattr(model, "joint") else model.decoder)
    }
    for context in contexts:
        model.encoder.set_default_att_context_size(context)
        tag = str(context[1])
        y, n = model.encoder(audio_signal=mel.repeat(2, 1, 1), length=torch.tensor([FRAMES, SHORT]))
        out[f"short_{tag}"] = y[1, :, : int(n[1])].T.numpy()
        y, n = y[:1, :, : int(n[0])], n[:1]
        out[f"offline_{tag}"] = y[0].T.numpy()
        if heads["ctc"] is not None:
            out[f"ctc_{tag}"] = heads["ctc"](encoder_output=y)[0].numpy()
        if hasattr(model, "joint"):
            targets = torch.tensor([[3, 7, 1, 12, 5]])
            g, _ = model.decoder.predict(targets, add_sos=True)
            out["targets"], out["predictor"] = targets[0].numpy(), g[0].numpy()
            f, p = model.joint.project_encoder(y.transpose(1, 2)), model.joint.project_prednet(g)
            model.joint.log_softmax = False
            out[f"joint_{tag}"] = model.joint.joint_after_projection(f[:, ::4], p[:, ::2])[
                0
            ].numpy()
            hypotheses = model.decoding.rnnt_decoder_predictions_tensor(
                y, n, return_hypotheses=True
            )
            out[f"greedy_{tag}"] = np.asarray(hypotheses[0].y_sequence).astype(np.int64)
        if context[1] >= 0:
            out[f"streamed_{tag}"] = streamed(model, mel, context, False)
            deployed = streamed(model, mel, context, True)
            offline = out[f"offline_{tag}"]
            print(
                f"look-ahead {tag}: NeMo against its own offline output: streamed "
                f"{np.abs(out[f'streamed_{tag}'] - offline).max():.1e}, with pad_and_drop_preencoded "
                f"{np.abs(deployed - offline[: len(deployed)]).max():.1e}"
            )
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in out.items()}


def main(target: Path) -> None:
    torch.set_num_threads(1)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("hybrid", "rnnt", "ctc", "tdt"):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model = build(name, Path(folder) / "tokenizer")
            randomise(model)
            model.eval().freeze()
            model.save_to(str(Path(folder) / "model.nemo"))
            data = (Path(folder) / "model.nemo").read_bytes()
            (target / f"{name}.nemo").write_bytes(
                gzip.compress(data, mtime=0) if name in ("ctc", "rnnt") else data
            )
            arrays = goldens(model)
        np.savez_compressed(target / f"{name}.npz", **arrays)
        for key, value in arrays.items():
            print(name, key, value.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/nemo"))
