"""What a reader of Markdown says of its own accord, by language. A language without words here hears nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from speechstream.text.spans import Formula

_FORMULAS = {"en": "speechstream.text.en.tex:spoken"}


@dataclass(frozen=True)
class Notes:
    """Sentences and openings. `footnote` has a place for the number."""

    code: str = ""
    formula: str = ""
    footnote: str = ""
    to_do: str = ""
    done: str = ""


_NOTES = {
    "en": Notes("Code block left out", "formula", "Footnote {}: ", "To do:", "Done:"),
    "de": Notes("Code ausgelassen", "Formel", "Fu\u00dfnote {}: ", "Zu tun:", "Erledigt:"),
    "fr": Notes("Bloc de code omis", "formule", "Note {} : ", "\u00c0 faire :", "Fait :"),
    "es": Notes("C\u00f3digo omitido", "f\u00f3rmula", "Nota {}: ", "Por hacer:", "Hecho:"),
    "it": Notes("Codice omesso", "formula", "Nota {}: ", "Da fare:", "Fatto:"),
    "pt": Notes("C\u00f3digo omitido", "f\u00f3rmula", "Nota {}: ", "A fazer:", "Feito:"),
    "nl": Notes("Code weggelaten", "formule", "Voetnoot {}: ", "Te doen:", "Gedaan:"),
}


def notes_of(language: str) -> Notes:
    """The notes of a language tag, such as "en-US"."""
    return _NOTES.get(_primary(language), Notes())


def formula_of(language: str) -> Formula:
    """How formulas are said in a language."""
    name = _FORMULAS.get(_primary(language))
    note = notes_of(language).formula
    if name is None:
        return lambda tex: note
    module, _, function = name.partition(":")
    spoken = getattr(import_module(module), function)
    return lambda tex: spoken(tex) or note


def _primary(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()
