"""`speechstream serve`: recognition and synthesis for the clients of others, over HTTP and WebSockets."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import secrets
from typing import Any

from speechstream.cli import tell
from speechstream.cli.prior import add_prior, prior_bundle
from speechstream.errors import SpeechStreamError

MOST_WORKERS = 64
KEYS_VARIABLE = "SPEECHSTREAM_KEYS"
NEEDED = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")

EXAMPLES = """examples:
  speechstream serve                                    for this machine, without a key
  speechstream serve --host 0.0.0.0                     for others, with a key that is printed
  speechstream serve --host 0.0.0.0 --key "$KEY" --certificate cert.pem --private-key key.pem
  speechstream serve --workers 4                        on more cores; one that dies loses nobody's words
  speechstream serve --workers 8 --ray                  on a Ray cluster
  speechstream serve --llm http://127.0.0.1:11434/v1 --llm-model qwen2.5:1.5b
  speechstream serve --llm omni/                        a converted model that hears and speaks
  curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@talk.flac -F model=whisper-1
  curl http://127.0.0.1:8000/v1/audio/speech -H "Content-Type: application/json" \\
       -d '{"input": "Hello.", "voice": "alloy", "model": "tts-1"}' -o hello.mp3
Keys are also taken from $SPEECHSTREAM_KEYS, with commas between them: there no other user sees them.
The key of --llm is taken from $OPENAI_API_KEY.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    add("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    add("--key", action="append", default=[], metavar="KEY", help="a key that opens it; repeatable")
    add("--no-key", action="store_true", help="open to everybody who can connect")
    add(
        "--origin",
        action="append",
        default=[],
        metavar="URL",
        help="let web pages of this origin use it; repeatable; * is all",
    )
    add("--wyoming", type=int, metavar="PORT", help="speak Wyoming (Home Assistant) on this port")
    add("--model", metavar="PATH", help="the recogniser's bundle; default: the embedded one")
    add_prior(parser)
    add("--voice", metavar="VOICE", help="a voice's bundle, a Piper voice, or an installed one")
    add(
        "--llm",
        metavar="URL|PATH",
        help="who answers in conversations: an OpenAI-compatible endpoint, or the bundle of a model that hears and speaks",
    )
    add("--llm-model", default="", metavar="NAME", help="which of its models")
    add("--alias", action="append", default=[], metavar="NAME", help="another name of the models")
    add(
        "--engine",
        choices=("onnx", "torch"),
        default="onnx",
        help="what runs the recogniser; default: onnx",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that run the networks, with the models each; default: 1, the server's own",
    )
    add(
        "--ray",
        action="store_true",
        help="the workers run on a Ray cluster: that of RAY_ADDRESS, or one on this machine; "
        "default of --workers: 2",
    )
    add("--sessions", type=int, metavar="N", help="connections and requests at once; default: 32")
    add("--recordings", type=int, metavar="N", help="recordings heard at once; default: 8")
    add("--upload-mb", type=int, metavar="MB", help="largest upload; default: 512")
    add("--certificate", metavar="PATH", help="PEM file for TLS")
    add("--private-key", metavar="PATH", help="its key")
    add(
        "--proxies",
        default="127.0.0.1,::1",
        metavar="ADDRESSES",
        help="whose X-Forwarded headers are believed; default: 127.0.0.1,::1",
    )
    add("--root-path", default="", metavar="PATH", help="under which a proxy shows the server")
    add("--log-format", choices=("text", "json"), default="text", help="default: text")
    add("-q", "--quiet", action="store_true", help="no line for each request, only errors")


def run(args: argparse.Namespace) -> int:
    needed = NEEDED if args.wyoming is None else (*NEEDED, "wyoming")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SpeechStreamError(
            f"the server needs {', '.join(missing)}: pip install speechstream[serve]"
        )
    from speechstream.serve.engine import Engine
    from speechstream.serve.ports import listening
    from speechstream.serve.server import check_tls, log, run as serve

    if args.workers is None:
        args.workers = 2 if args.ray else 1
    if not args.ray <= args.workers <= MOST_WORKERS:
        raise SpeechStreamError(
            f"--workers is {int(args.ray)} to {MOST_WORKERS}, got {args.workers}"
        )
    settings, key = settings_of(args)
    limits = limits_of(args)
    check_tls(settings)
    # before the models: what cannot be is told at once
    sock, wyoming = listening(settings.host, settings.port), None
    if args.wyoming is not None:
        wyoming = listening(settings.host, args.wyoming, "--wyoming")
    log(args.log_format == "json", logging.WARNING if args.quiet else logging.INFO)
    recognizer, synthesizer = load(args)
    workers = workers_of(args, recognizer, synthesizer)

    def ready() -> None:
        port = sock.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        tell(f"serving on {settings.scheme}://{host}:{port}/v1; Ctrl-C ends it")
        if wyoming is not None:
            tell(f"Wyoming on {host}:{wyoming.getsockname()[1]}")
            if not settings.local:
                tell("Wyoming has no keys: whoever reaches its port may use it")
        if key is not None:
            tell(f"the key, new with each start unless --key or ${KEYS_VARIABLE} gives one: {key}")
        if not settings.local and settings.certificate is None:
            tell(
                "sound and keys go over the network in clear; give TLS files, or put a proxy before it"
            )

    engine = Engine(recognizer, synthesizer, limits, workers)
    return serve(engine, settings, sock, wyoming, ready)


def settings_of(args: argparse.Namespace) -> tuple[Any, str | None]:
    """The settings, and the key where one was made up."""
    from speechstream.serve.settings import Settings, is_loopback

    given = [k.strip() for k in os.environ.get(KEYS_VARIABLE, "").split(",") if k.strip()]
    keys, made = [*args.key, *given], None
    if args.no_key and keys:
        raise SpeechStreamError("--no-key was given, and a key as well; give one of them")
    if not keys and not args.no_key and not is_loopback(args.host):
        made = secrets.token_urlsafe(24)
        keys = [made]
    settings = Settings(
        args.host,
        args.port,
        tuple(keys),
        tuple(args.origin),
        tuple(args.alias),
        args.certificate,
        args.private_key,
        args.proxies,
        args.root_path,
        agent_of(args),
    )
    return settings, made


def agent_of(args: argparse.Namespace) -> Any:
    """What makes the agents of conversations, None for the bot that answers by rule."""
    from speechstream.cli.spoken import is_spoken_bundle, load_spoken
    from speechstream.duplex.agent import ChatCompletions

    if args.llm is None:
        if args.llm_model:
            raise SpeechStreamError(
                "--llm-model needs --llm, the address of the endpoint that has it"
            )
        return None
    if is_spoken_bundle(args.llm):
        if args.llm_model:
            raise SpeechStreamError("--llm-model needs an endpoint; --llm gives a bundle")
        agent = load_spoken(args.llm, args.device)  # one model, any number of conversations
        return lambda: agent
    try:
        ChatCompletions(args.llm, args.llm_model)
    except ValueError as error:
        raise SpeechStreamError(str(error)) from error
    return lambda: ChatCompletions(args.llm, args.llm_model)


def limits_of(args: argparse.Namespace) -> Any:
    from speechstream.serve.engine import Limits

    changed = {"sessions": args.sessions, "files": args.recordings}
    if args.upload_mb is not None:
        changed["upload_bytes"] = args.upload_mb << 20
    try:
        return Limits(**{name: value for name, value in changed.items() if value is not None})
    except ValueError as error:
        raise SpeechStreamError(str(error)) from error


def workers_of(args: argparse.Namespace, recognizer: Any, synthesizer: Any) -> Any:
    """The worker processes, None where this one runs the networks."""
    from speechstream.serve.workers.front import Workers
    from speechstream.serve.workers.places import Loading

    if not remote(args):
        return None
    level = logging.WARNING if args.quiet else logging.INFO
    as_json = args.log_format == "json"
    loading = Loading(
        args.model, args.voice, args.engine, args.device, as_json, level, prior_bundle(args.prior)
    )
    place = None
    if args.ray:
        from speechstream.serve.workers.ray_actors import Cluster

        place = Cluster()
    return Workers(args.workers, loading, [recognizer.digest, synthesizer.voice.digest], place)


def remote(args: argparse.Namespace) -> bool:
    """Whether the networks run elsewhere than in this process."""
    return bool(args.ray or args.workers >= 2)


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The models; where only workers run them, without their weights."""
    from speechstream.asr.recognizer import Recognizer
    from speechstream.runtime.pool import beginning
    from speechstream.runtime.session import check_device
    from speechstream.tts.synthesizer import Synthesizer

    prior = prior_bundle(args.prior)
    options: dict[str, Any] = {} if prior is None else {"prior": prior}

    def loaded(device: str) -> tuple[Any, Any]:
        recognizer = Recognizer.load(args.model, engine=args.engine, device=device, **options)
        return recognizer, Synthesizer.load(args.voice, device=device)

    if remote(args) and args.engine == "onnx":
        check_device(args.device)
        try:
            asr, tts = loaded("meta")
            beginning(asr.core(next(iter(asr.latencies), None)))
            beginning(tts.core())
            return asr, tts
        except (SpeechStreamError, ValueError):
            pass  # a network is run to load it, or to open a stream; or the models cannot be loaded at all
    try:
        return loaded(args.device)
    except ValueError as error:  # a prior that this recogniser cannot take
        raise SpeechStreamError(str(error)) from error
