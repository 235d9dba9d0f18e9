"""Argument parsing and configuration files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def read_config(path: Path, **overrides: Any) -> dict[str, Any]:
    """A YAML configuration; an override that is None leaves the file's value."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config | {name: value for name, value in overrides.items() if value is not None}
