"""`speechstream voices`: who can speak."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from speechstream.cli import tell
from speechstream.errors import SpeechStreamError


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
        except (OSError, ValueError, KeyError, TypeError, SpeechStreamError) as error:
            tell(f"{path} is no usable voice: {error}")
    return 0


def described(path: Path) -> Iterator[tuple[str, str, str]]:
    """Speaker ("" for the only one), language and description, read without loading the networks."""
    index = path / "bundle.json"
    if index.is_file():
        document = json.loads(index.read_text(encoding="utf-8"))
        if document.get("task") != "tts":
            raise ValueError(f"it is a bundle for {document.get('task')}")
        config = document["config"]
        for speaker in config["speakers"]:
            yield speaker["name"], config.get("language", "en-US"), speaker.get("description", "")
        return
    file = path / "config.json" if path.is_dir() else path.with_name(path.name + ".json")
    config = json.loads(file.read_text(encoding="utf-8"))
    language = (config.get("language", {}).get("code") or config["espeak"]["voice"]).replace(
        "_", "-"
    )
    about = f"Piper {config.get('audio', {}).get('quality', '')}".strip()
    speakers = config.get("speaker_id_map") or {}
    for name in sorted(speakers, key=lambda n: speakers[n]) or [""]:
        yield name, language, about
