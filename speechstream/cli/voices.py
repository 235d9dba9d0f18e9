"""`speechstream voices`: who can speak."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from speechstream.cli import tell
from speechstream.config import Section, read, read_value
from speechstream.errors import SpeechStreamError
from speechstream.tts.blockwise.acoustic import VoiceConfig
from speechstream.tts.pocket.network import ARCHITECTURE as POCKET


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "voice", nargs="?", metavar="VOICE", help="the speakers of this voice: a name or a path"
    )
    parser.epilog = (
        "Voices are installed by putting them into a folder: see 'speechstream say --help'."
    )


def run(args: argparse.Namespace) -> int:
    from speechstream import bundle
    from speechstream.tts.synthesizer import Synthesizer, installed_voices

    if args.voice is not None:
        for info in Synthesizer.load(args.voice).speakers:
            print(f"{info.name}  {info.language}  {info.description}".rstrip())
        return 0
    for name, path in [("", bundle.embedded("tts")), *installed_voices().items()]:
        try:
            for speaker, language, about in described(path):
                label = "#".join(filter(None, (name, speaker)))
                print(f"{label:24}  {language:6}  {about}".rstrip())
        except (OSError, ValueError, SpeechStreamError) as error:
            tell(f"{path} is no usable voice: {error}")
    return 0


def described(path: Path) -> Iterator[tuple[str, str, str]]:
    """Speaker ("" for the only one), language and description, read without loading the networks."""
    index = path / "bundle.json"
    if index.is_file():
        document = Section(json.loads(index.read_text(encoding="utf-8")))
        if document.raw("task") != "tts":
            raise ValueError(f"it is a bundle for {document.raw('task')}")
        if document.raw("architecture") == POCKET:
            config = document.section("config")
            for name in read_value(tuple[str, ...], config.raw("speakers"), "speakers"):
                yield name, config.text("language"), POCKET
            return
        voice = read(VoiceConfig, document.raw("config"), "config")
        for speaker in voice.speakers:
            yield speaker.name, speaker.language or voice.language, speaker.description
        return
    file = path / "config.json" if path.is_dir() else path.with_name(path.name + ".json")
    piper = Section(json.loads(file.read_text(encoding="utf-8")))
    code = piper.section("language").text("code", "") or piper.section("espeak").text("voice")
    language = code.replace("_", "-")
    about = f"Piper {piper.section('audio').text('quality', '')}".strip()
    speakers = read_value(dict[str, int], piper.raw("speaker_id_map") or {}, "speaker_id_map")
    for name in sorted(speakers, key=lambda n: speakers[n]) or [""]:
        yield name, language, about
