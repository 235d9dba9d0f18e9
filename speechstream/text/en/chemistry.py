"""Chemical formulas: by the letters of their elements."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers, tables as t

ELEMENT = "|".join(sorted(t.ELEMENTS, key=len, reverse=True))
ELEMENT_WORDS = frozenset("He In As At No Be Co La Ta Pa Mo Ho Am Os Po Re Ti Al Me".split())
COUNT = "[0-9\u2080-\u2089]"
GROUP_OF = rf"(?:{ELEMENT}){COUNT}{{0,2}}"
FORMULA = re.compile(
    rf"(?:{COUNT}{{0,2}}(?:{GROUP_OF}|\((?:{GROUP_OF})+\){COUNT}{{0,2}})+)(?:(?:{COUNT}|[\u00b2\u00b3])?(?:[+\u207a\u207b](?!\w)|-(?![\w-])))?(?![^\W_])"
)
FORMULA_PARTS = re.compile(rf"{ELEMENT}|{COUNT}+|[-+\u207a\u207b\u00b2\u00b3]")
ISOTOPE = re.compile(r"-(?:\d{1,3}(?![\w-])|ion\b)")
REACTION = re.compile("[\u2192\u21cc\u21c4]|->")
CHARGE = re.compile(r"(?:(?:[\u00b2\u00b3]|(?<=[A-Za-z])\d)?[+\u207a\u207b-])+$")
LOWERED = str.maketrans(
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u00b2\u00b3", "012345678923"
)


NAMES = dict(
    re.findall(
        r"(\w+) (\w+)",
        "H hydrogen He helium Li lithium Be beryllium B boron C carbon N nitrogen O oxygen F fluorine Na sodium Mg magnesium "
        "Al aluminum Si silicon P phosphorus S sulfur Cl chlorine Ar argon K potassium Ca calcium Cr chromium Mn manganese Fe iron "
        "Co cobalt Ni nickel Cu copper Zn zinc Ga gallium Se selenium Br bromine Kr krypton Rb rubidium Sr strontium Y yttrium "
        "Zr zirconium Mo molybdenum Tc technetium Ru ruthenium Pd palladium Ag silver Cd cadmium In indium Sn tin I iodine "
        "Xe xenon Cs cesium Ba barium La lanthanum Nd neodymium Sm samarium Lu lutetium W tungsten Re rhenium Os osmium "
        "Ir iridium Pt platinum Au gold Hg mercury Tl thallium Pb lead Bi bismuth Po polonium Rn radon Ra radium Ac actinium "
        "Th thorium Pa protactinium U uranium Np neptunium Pu plutonium Am americium Cm curium Cf californium",
    )
)
SYMBOL = re.compile(r"[A-Z][a-z]?(?![\w\u2080-\u2089])")


def isotope(text: str, at: int) -> tuple[str, int] | None:
    """The name of the element whose symbol stands alone behind its mass, and where it ends: ⁵⁶Fe."""
    m = SYMBOL.match(text, at)
    return (NAMES[m[0]], m.end()) if m and m[0] in NAMES else None


class Formulas:
    """The part of a reading (`speechstream.text.en.normalise`) that reads H2O, NaCl and Ca(OH)2."""

    def _formula(self, at: int) -> int:
        """H2O, NaCl, Ca(OH)2, Na+: symbols of elements by their letters; 0 where this is none."""
        text = self.text
        m = FORMULA.match(text, at)
        if not m or at and (text[at - 1].isalnum() or text[at - 1] in "'\u2019"):
            return 0
        body = CHARGE.sub("", m[0])
        symbols = re.findall(ELEMENT, body)
        named = {w.text.lower() for w in self.out[-3:]} & q.CODED
        if named or "".join(symbols) in t.SAID:
            return 0  # COP28
        alone = len(symbols) == 1
        if alone and not re.search(COUNT, body.lstrip("0123456789")):
            is_one = (
                self._marked_element(m, body)
                or body[0].isdigit()
                and bool(REACTION.search(self.text))
            )
        else:
            ion = m[0][-1] in "\u207a\u207b" and not body.islower()
            is_one = ion or self._compounded(body, symbols)
        if not is_one:
            return 0
        for part in FORMULA_PARTS.finditer(text, at, m.end()):
            self._formula_part(part)
        return m.end()

    def _marked_element(self, m: re.Match, body: str) -> bool:
        """Whether one element stands with a charge or a mass: Na+, Sr-90, Li-ion."""
        charged = m[0] != body or ISOTOPE.match(self.text, m.end())
        raised = m[0] != body and m[0][-1] in "\u207a\u207b"
        return bool(charged) and (raised or len(body) == 2 and body not in ELEMENT_WORDS)

    def _compounded(self, body: str, symbols: list[str]) -> bool:
        """Whether symbols with counts, or several of which some have two letters, are a compound."""
        letters = "".join(symbols)
        counted = re.search(rf"[A-Za-z)]{COUNT}", body)
        mixed = not letters.isupper() and len(symbols) > 1
        if re.fullmatch("[A-Z]+s", body) or not (counted or mixed):
            return False  # UFOs
        if not counted:
            organic = any(x in ("Me", "Et", "Ph") for x in symbols[1:])
            return not self.known(body) and not organic
        return len(letters) > 1 or len(re.findall(r"\d", body)) <= 1  # not H100

    def _formula_part(self, part: re.Match) -> None:
        written = part[0].translate(LOWERED)
        if written.isdigit():
            self._say(numbers.cardinal(written), *part.span())
        elif written in "+\u207a":
            self._say("plus", *part.span())
        elif written in "-\u207b":
            self._say("minus", *part.span())
        else:
            self._say(" ".join(written.upper()), *part.span())
