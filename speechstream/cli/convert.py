"""`speechstream convert`: a public checkpoint as a bundle."""

from __future__ import annotations

import argparse
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from speechstream.audio.features import SAMPLE_RATE
from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError

EXAMPLES = """examples:
  speechstream convert stt_en_fastconformer_hybrid_large_streaming_multi.nemo -o bundle/
  speechstream transcribe talk.flac --model bundle/
  speechstream convert SmolLM2-360M-Instruct-Q4_K_M.gguf -o brain/
  speechstream convert pocket-tts/ -o voice/ --weights int8
  speechstream say "Hello." --voice voice/
  speechstream convert csm-1b/ -o csm/ --weights int8
  speechstream convert CosyVoice2-0.5B/ -o cosy/ --prompt-wav me.wav --prompt-text "What I say in it."
  speechstream convert Qwen2.5-Omni-3B/ -o omni/ && speechstream talk --llm omni/
  speechstream convert moshiko/ -o moshi/ && speechstream talk --llm moshi/

Reading a checkpoint executes nothing that is in it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .nemo file of a FastConformer (CTC, RNN-T, TDT or hybrid), or the "
        "folder of its Hugging Face port (Parakeet, Nemotron streaming); the folder of a Voxtral Realtime "
        "(config.json, *.safetensors, tekken.json), of a Qwen2.5-Omni (with its spk_dict.pt), of a Qwen3-ASR, of a streaming "
        "Moonshine, or of a Moshi or Kyutai speech-to-text, in the layout of transformers or of Kyutai; a language model of the Llama family: a .gguf file, or a folder "
        "with config.json, *.safetensors and tokenizer.json; a pocket-tts: transformers' folder, with the codec's "
        "in it, and voices (latents or recordings) in voices/; a CSM in the layout of transformers, with recordings and their "
        "texts in voices/; or the folder of a CosyVoice 2 or 3",
    )
    add("-o", "--output", required=True, metavar="BUNDLE", help="the folder to write")
    add(
        "--weights",
        choices=("own", "fp32", "int8", "int8-blocks", "int4"),
        default="own",
        help="of a language model, a pocket-tts (which alone has int8-blocks), a CSM or a CosyVoice's language model; "
        "default: as the checkpoint has them",
    )
    add(
        "--kv-bits",
        type=int,
        choices=(32, 8),
        default=32,
        help="of a language model's keys and values: 8 take a quarter of the memory; default: 32",
    )
    add(
        "--shared-prefix",
        action="store_true",
        help="of a language model: many streams may go on from one prompt that is kept once",
    )
    add(
        "--queries",
        action="store_true",
        help="of a language model: what left its window can be retrieved, LanguageModel.load(..., window=512, retrieve=128)",
    )
    add(
        "--language",
        help="of a voice, a tag such as en-US, default: en; of what a Qwen3-ASR is to hear, default: it finds out",
    )
    add("--name", help="for the model's card; default: the checkpoint's name")
    add("--licence", default="that of the checkpoint", help="for the model's card")
    cosy = parser.add_argument_group("CosyVoice")
    add = cosy.add_argument
    add(
        "--prompt-wav",
        action="append",
        default=[],
        metavar="FILE",
        help="a recording of 0.5 to 30 s whose voice is to be spoken with; may be given again",
    )
    add(
        "--prompt-text",
        action="append",
        default=[],
        metavar="TEXT",
        help="what that recording says, one for each",
    )
    add(
        "--mode",
        choices=("sentences", "interleaved"),
        default="sentences",
        help="sentences: each clause by itself; interleaved: the whole text as one, spoken while it is written",
    )
    add("--steps", type=int, default=10, metavar="N", help="of the flow's solver; default: 10")
    add(
        "--look-back",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="that the flow sees before a block; its memory grows with them; default: 2",
    )
    add(
        "--sinks",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="of the voice's recording that the flow always sees; its memory grows with them; default: 2",
    )


def run(args: argparse.Namespace) -> int:
    source, target = Path(args.checkpoint), Path(args.output)
    if not source.exists():
        raise SpeechStreamError(f"{source}: no such file or folder")
    if not (source.is_file() or source.is_dir()):
        raise SpeechStreamError(f"{source} is neither a file nor a folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SpeechStreamError(
            f"{target} exists and is not an empty folder; give another --output"
        )
    existed = target.exists()
    try:
        return _convert(args, source, target)
    except BaseException:
        _clear(target, existed)
        raise


def _clear(target: Path, existed: bool) -> None:
    """What a conversion that failed has left in a folder that was empty, or was not there (existed False)."""
    if not target.is_dir():
        return
    for path in target.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not existed:
        target.rmdir()


def _convert(args: argparse.Namespace, source: Path, target: Path) -> int:
    if _is_opens2s(source):
        raise SpeechStreamError(
            f"{source} is an OpenS2S, whose codes are decoded by GLM-4-Voice's decoder, which is not supported"
        )
    if _is_voxtral(source):
        return _voxtral(args, source, target)
    if _model_type(source) == "qwen2_5_omni":
        return _omni(args, source, target)
    if _model_type(source) == "moonshine_streaming":
        return _moonshine(args, source, target)
    if _model_type(source) == "qwen3_asr":
        return _qwen_asr(args, source, target)
    if _model_type(source) == "csm":
        return _csm(args, source, target)
    if _is_kyutai(source):
        return _kyutai(args, source, target)
    if _is_moshi(source):
        return _moshi(args, source, target)
    if _is_llm(source):
        return _language_model(args, source, target)
    try:
        from speechstream.convert.cosyvoice import is_cosyvoice
        from speechstream.convert.nemo import load_nemo
        from speechstream.convert.parakeet import load_parakeet
        from speechstream.convert.pocket import is_pocket
        from speechstream.export.fastconformer import write_fastconformer
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting needs {error.name}: pip install speechstream[train]"
        ) from error
    if source.is_dir() and is_pocket(source):
        return _pocket(args, source, target)
    if source.is_dir() and is_cosyvoice(source):
        return _cosyvoice(args, source, target)
    try:
        one = load_parakeet(source) if source.is_dir() else load_nemo(source)
    except SpeechStreamError as error:
        if source.suffix == ".nemo":
            raise
        raise SpeechStreamError(
            f"{error}; 'speechstream convert --help' says what else can be converted"
        ) from error
    if one.features.sample_rate != SAMPLE_RATE:
        raise SpeechStreamError(
            f"{source} hears {one.features.sample_rate} Hz, and only models for {SAMPLE_RATE} Hz are "
            f"supported"
        )
    name = args.name or source.name.removesuffix(".nemo")
    b = write_fastconformer(
        one, target, {"name": name, "licence": args.licence, "converted_from": source.name}
    )
    e, heads = one.model.config.encoder, []
    if one.model.ctc is not None:
        heads.append("CTC")
    if one.model.joiner is not None:
        heads.append("TDT" if one.model.joiner.config.durations else "RNN-T")
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: {e.layers} layers of {e.dim}, {' and '.join(heads)}, "
        f"{len(one.tokens)} tokens"
    )
    ms = round(1000 * e.subsampling * one.features.hop / one.features.sample_rate)
    print(
        "streams in chunks of " + ", ".join(f"{ms * (r + 1)} ms" for r in e.lookaheads)
        if e.streaming
        else "hears whole utterances: for files, with --engine torch"
    )
    return 0


def _card(args: argparse.Namespace, source: Path) -> dict[str, Any]:
    return {
        "name": args.name or source.resolve().name,
        "licence": args.licence,
        "converted_from": source.name,
    }


def _is_voxtral(source: Path) -> bool:
    from speechstream.convert.voxtral import is_voxtral

    return is_voxtral(source)


def _voxtral(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.convert.voxtral import convert_voxtral
    from speechstream.nn.voxtral_config import VoxtralBundle

    b = convert_voxtral(source, target, _card(args, source))
    about = read(VoxtralBundle, b.config)
    c = about.network
    b, graphs = _with_graphs(b, c.parameters, "speechstream.export.voxtral")
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: an encoder of {c.encoder.layers} layers of {c.encoder.dim}, a language "
        f"model of {c.text.layers} of {c.text.dim}, {c.parameters / 1e6:.0f} million parameters"
    )
    delays = [about.token_ms * d for d in (about.delays[0], about.delays[-1], about.delay)]
    print(
        f"streams {delays[0]} to {delays[1]} ms behind the sound, a token each {about.token_ms} ms; files at {delays[2]} ms"
    )
    print(graphs)
    return 0


def _converter(kind: str) -> Any:
    """`convert_KIND` of `convert.KIND`, which needs torch."""
    try:
        return getattr(import_module(f"speechstream.convert.{kind}"), f"convert_{kind}")
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting needs {error.name}: pip install speechstream[train]"
        ) from error


def _model_type(source: Path) -> Any:
    """What a folder's config.json says that it is."""
    from speechstream.convert.stored import read_json

    try:
        config = read_json(source / "config.json")
    except SpeechStreamError:
        return None  # the reader that is chosen otherwise says why
    return config.get("model_type") if isinstance(config, dict) else None


def _is_opens2s(source: Path) -> bool:
    from speechstream.convert.stored import read_json

    try:
        config = read_json(source / "config.json")
    except SpeechStreamError:
        return False
    return isinstance(config, dict) and "interleave_strategy" in config


def _omni(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.nn.omni_config import OmniBundle

    b = _converter("omni")(source, target, _card(args, source))
    about = read(OmniBundle, b.config)
    c = about.network
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: a thinker of {c.thinker.layers} layers of {c.thinker.dim}, a talker of "
        f"{c.talker.lm.layers} of {c.talker.lm.dim}, {c.parameters / 1e6:.0f} million parameters"
    )
    print(
        f"hears {c.encoder.block / 100:g} s at a time, speaks as {', '.join(about.speakers)}; runs in torch: "
        f"speechstream talk --llm {target}"
    )
    return 0


def _moonshine(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.nn.moonshine_config import MoonshineBundle

    b = _converter("moonshine")(source, target, _card(args, source))
    c = read(MoonshineBundle, b.config).network
    b, graphs = _with_graphs(b, c.parameters, "speechstream.export.moonshine")
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: an encoder of {c.encoder.layers} layers of {c.encoder.dim} that looks "
        f"{20 * c.encoder.ahead} ms ahead, a decoder of {c.decoder.layers} of {c.decoder.dim}, "
        f"{c.parameters / 1e6:.0f} million parameters"
    )
    print(graphs)
    return 0


def _qwen_asr(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.nn.qwen_asr_config import QwenAsrBundle

    b = _converter("qwen_asr")(source, target, _card(args, source), args.language)
    about = read(QwenAsrBundle, b.config)
    c = about.network
    b, graphs = _with_graphs(b, c.parameters, "speechstream.export.qwen_asr")
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: an encoder of {c.encoder.layers} layers of {c.encoder.dim}, a language "
        f"model of {c.text.layers} of {c.text.dim}, {c.parameters / 1e6:.0f} million parameters"
    )
    print(
        f"hears {about.language or 'whatever language it finds'}, writes anew each {c.encoder.chunk / 100:g} to "
        f"{c.encoder.window / 100:g} s"
    )
    print(graphs)
    return 0


def _is_kyutai(source: Path) -> bool:
    try:
        from speechstream.convert.kyutai import is_kyutai
    except ModuleNotFoundError:  # which is said where all the others are looked at
        return False
    return is_kyutai(source)


def _kyutai(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.convert.kyutai import convert_kyutai
    from speechstream.nn.kyutai_config import KyutaiBundle

    b = convert_kyutai(source, target, _card(args, source))
    about = read(KyutaiBundle, b.config)
    c = about.network
    b, graphs = _with_graphs(b, c.parameters, "speechstream.export.kyutai")
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: Mimi's encoder, and a language model of {c.text.layers} layers of "
        f"{c.text.dim} over {c.levels} codes, {c.parameters / 1e6:.0f} million parameters"
    )
    heads = f", {c.pause_heads} heads for pauses" if c.pause_heads else ""
    print(
        f"streams {1000 * about.delay / c.codec.sample_rate:.0f} ms behind the sound, a token each "
        f"{1000 * about.token_s:.0f} ms{heads}"
    )
    print(graphs)
    return 0


def _is_moshi(source: Path) -> bool:
    try:
        from speechstream.convert.moshi import is_moshi
    except ModuleNotFoundError:  # which is said where all the others are looked at
        return False
    return is_moshi(source)


def _moshi(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.config import read
    from speechstream.nn.moshi_config import MoshiBundle

    b = _converter("moshi")(source, target, _card(args, source))
    about = read(MoshiBundle, b.config)
    c = about.network
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: Mimi, a language model of {c.text.layers} layers of {c.text.dim} over text and "
        f"2 x {c.levels} codes, a depth transformer of {c.depth.layers} of {c.depth.dim}, {c.parameters / 1e6:.0f} million "
        "parameters"
    )
    print(
        f"hears and speaks {1000 * about.frame_s:.0f} ms at a time and remembers {c.text.window * about.frame_s:.0f} s; "
        f"runs in torch: speechstream talk --llm {target}"
    )
    return 0


def _with_graphs(b: Bundle, parameters: int, exporter: str) -> tuple[Bundle, str]:
    """The bundle with ONNX graphs, where they can be written, and what to say of them. exporter: the module that writes them."""
    try:
        from speechstream.export.onnx import MOST_PARAMETERS

        add_graphs = import_module(exporter).add_graphs
    except ModuleNotFoundError as error:
        return b, (
            f"without ONNX graphs, for which {error.name} is needed (pip install speechstream[train]): "
            "run it with --engine torch"
        )
    if parameters > MOST_PARAMETERS:
        return b, (
            f"without ONNX graphs, which are written up to {MOST_PARAMETERS // 1_000_000} million parameters: "
            "run it with --engine torch"
        )
    return add_graphs(b), "with ONNX graphs: runs without torch"


def _is_llm(source: Path) -> bool:
    from speechstream.convert.llm import is_llm

    return is_llm(source)


def _refuse_blocks(weights: str) -> None:
    if weights == "int8-blocks":
        raise SpeechStreamError("--weights int8-blocks is of a pocket-tts; give int8 or int4")


def _language_model(args: argparse.Namespace, source: Path, target: Path) -> int:
    _refuse_blocks(args.weights)
    from speechstream.convert.llm import load_llm

    try:
        from speechstream.export.llm import write_llm
        from speechstream.nn.llm_config import KvConfig
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting a language model needs {error.name}: pip install speechstream[llm]"
        ) from error
    one = load_llm(source)
    licence = args.licence
    if one.licence and licence == "that of the checkpoint":
        licence = one.licence
    card = {"name": args.name or one.name, "licence": licence, "converted_from": source.name}
    kv, scales = KvConfig(args.kv_bits, shared=args.shared_prefix, queries=args.queries), None
    if kv.bits == 8:
        from speechstream.export.kv_scales import measured_scales

        scales = measured_scales(one, args.weights)
    try:
        b = write_llm(one, target, card, args.weights, kv, scales)
    except ValueError as error:
        raise SpeechStreamError(f"{source}: {error}") from error
    c = one.config
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: {c.layers} layers of {c.dim}, {c.parameters / 1e6:.0f} million "
        f"parameters, {c.vocab_size} tokens, {c.context} of context"
    )
    return 0


def _pocket(args: argparse.Namespace, source: Path, target: Path) -> int:
    from speechstream.convert.pocket import load_pocket
    from speechstream.export.pocket import write_pocket
    from speechstream.export.quantize import FORMS

    weights = FORMS["fp32" if args.weights == "own" else args.weights]
    one = load_pocket(source)
    card = {"name": args.name or one.name, "licence": args.licence, "converted_from": source.name}
    b = write_pocket(one, target, card, weights, args.language or "en")
    c, k = one.config.backbone, one.config.codec
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: {c.layers} layers of {c.dim}, {one.config.frame_rate:g} frames a second, "
        f"{k.sample_rate} Hz"
    )
    print("speakers: " + (", ".join(one.voices) or "none; put recordings or latents into voices/"))
    return 0


def _csm(args: argparse.Namespace, source: Path, target: Path) -> int:
    _refuse_blocks(args.weights)
    try:
        from speechstream.convert.csm import load_csm
        from speechstream.export.csm import write_csm
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"converting needs {error.name}: pip install speechstream[train]"
        ) from error
    one = load_csm(source)
    b = write_csm(one, target, _card(args, source), args.weights, args.language or "en")
    c = one.config
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: {c.backbone.layers} layers of {c.backbone.dim}, {c.depth.layers} of {c.depth.dim} "
        f"for {c.levels} levels, {c.frame_rate:g} frames a second, {c.sample_rate} Hz"
    )
    print(
        "speakers: "
        + (", ".join(one.voices) or "none; put recordings and their texts into voices/")
    )
    return 0


def _cosyvoice(args: argparse.Namespace, source: Path, target: Path) -> int:
    _refuse_blocks(args.weights)
    from speechstream.convert.cosyvoice import Options, Recording, load_cosyvoice
    from speechstream.export.cosyvoice import write_cosyvoice

    wavs, texts = args.prompt_wav, args.prompt_text
    if len(wavs) != len(texts):
        raise SpeechStreamError(
            f"each --prompt-wav needs a --prompt-text, what it says; got {len(wavs)} and {len(texts)}"
        )
    recordings = tuple(Recording(Path(w).stem, Path(w), t) for w, t in zip(wavs, texts))
    options = Options(args.look_back, args.sinks, args.steps, args.mode, args.language or "en")
    one = load_cosyvoice(source, options, recordings)
    card = {"name": args.name or one.name, "licence": args.licence, "converted_from": source.name}
    b = write_cosyvoice(one, target, card, args.weights)
    c = one.config
    print(
        f"{target}  {b.nbytes / 1e6:.1f} MB: CosyVoice {c.version}, a language model of {c.lm.network.layers} layers "
        f"of {c.lm.network.dim}, {c.sound.sample_rate} Hz"
    )
    print(
        f"the flow remembers {c.flow.stream_bytes() / 1e6:.0f} MB of a stream: {c.flow.evaluations} evaluations, "
        f"{args.look_back:g} s before a block and {args.sinks:g} s of the beginning"
    )
    print("speakers: " + ", ".join(c.speakers))
    if not any(len(v.tokens) for v in one.voices.values()):
        print("none of them is a recording's: give one with --prompt-wav and --prompt-text")
    return 0
