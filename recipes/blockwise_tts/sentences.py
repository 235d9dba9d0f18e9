"""Sentences to train on: what people write with numbers, dates, names, questions, in many lengths.

`written` fills templates from word lists, always the same for one seed; `transcripts` reads the texts of a manifest.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

FIRST = (
    "Anna Robert Maria James Linda Peter Susan David Laura Kevin Emily Daniel Sarah Thomas Julia Andrew Olivia "
    "Henry Sophie Marcus Grace Victor Helen Oscar Nora Simon Clara Philip Rosa Martin"
).split()
LAST = (
    "Miller Johnson Garcia Brown Wilson Taylor Anderson Clark Lewis Walker Young Allen Wright Hill Green Adams "
    "Baker Nelson Carter Mitchell Roberts Turner Phillips Campbell Parker Evans Edwards Collins"
).split()
PLACES = (
    "London Chicago Toronto Sydney Dublin Berlin Madrid Seattle Denver Atlanta Austin Vienna Oslo Lisbon Geneva "
    "Boston Houston Detroit Nairobi Tokyo Mumbai Cairo Athens Prague Warsaw"
).split()
THINGS = (
    "the old bicycle, a wooden table, the kitchen window, her new camera, a cup of tea, the blue folder, the "
    "last ticket, a pair of shoes, the garden gate, his phone, the broken lamp, a bag of oranges, the front "
    "door, my umbrella, a jar of honey, the music box, our suitcase, the yellow paint, a small radio, the "
    "measuring tape"
).split(", ")
DOES = (
    "bought, sold, found, borrowed, forgot, repaired, showed us, asked for, carried, dropped, looked at, threw "
    "away, measured, painted, brought back"
).split(", ")
WHEN = (
    "yesterday, last week, in the morning, after lunch, on Monday, at the weekend, this evening, before dawn, two "
    "days ago, during the storm, in the spring, a year later, just now, at noon, every other day"
).split(", ")
WHY = (
    "because it was raining, although nobody had asked, so that everyone could see it, while the others were "
    "asleep, before the shop closed, if I remember correctly, as soon as the train arrived, which surprised us "
    "all, and then went home, without saying a word, but it was too late, since there was time"
).split(", ")
ADJECTIVES = (
    "quiet strange narrow bright heavy gentle sudden careful broken golden empty distant rough smooth "
    "cheerful bitter hollow rapid thick shallow fierce humble"
).split()
NOUNS = (
    "river, engine, village, orchestra, question, harbour, teacher, forest, machine, journey, shadow, kitchen, "
    "picture, mountain, letter, voyage, island, pleasure, treasure, usual thing, garage, choice, child, church, "
    "bridge, judge, measure, vision, youth, thought, path, weather"
).split(", ")
MONTHS = (
    "January February March April May June July August September October November December".split()
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
UNITS = "kg, km, miles, hours, minutes, degrees, litres, feet, percent, pages, euros, people, GB, cm".split(
    ", "
)
LETTERS = "the BBC, the FBI, the UN, the USB port, an MP, the CEO, a PhD, the ATM, the DNA, the XML file".split(
    ", "
)
EXCLAIM = (
    "Oh no, not again! Wait a moment! What a lovely surprise! Look out! Thank you so much! Yes! No! Of course! "
    "Good night! Hello! Well done! I'm so sorry! Never mind! Excuse me! Here you are! See you tomorrow!"
).split("! ")


def written(count: int, seed: int = 0) -> list[str]:
    """`count` different sentences from templates."""
    rng, out = random.Random(seed), {}
    while len(out) < count:
        out.setdefault(_sentence(rng))
    return list(out)


def _sentence(r: random.Random) -> str:
    pick = r.choice
    name, last, place, thing = pick(FIRST), pick(LAST), pick(PLACES), pick(THINGS)
    day, month, when, why = pick(DAYS), pick(MONTHS), pick(WHEN), pick(WHY)
    n, big, year = r.randint(2, 120), r.randint(200, 90000), r.randint(1700, 2040)
    a, b, noun, other = pick(ADJECTIVES), pick(ADJECTIVES), pick(NOUNS), pick(NOUNS)
    return pick(
        (
            lambda: f"{name} {pick(DOES)} {thing} {when}.",
            lambda: f"{name} {last} {pick(DOES)} {thing} {when}, {why}.",
            lambda: f"{when[0].upper()}{when[1:]}, {name} {pick(DOES)} {thing} {why}.",
            lambda: f"The {a} {noun} was {b}, but the {other} was not.",
            lambda: f"There was a {a} {noun} near the {b} {other}.",
            lambda: f"Where did {name} put {thing}?",
            lambda: f"Did {name} see the {a} {noun} {when}?",
            lambda: f"Why is the {noun} so {a}, and who told you about the {other}?",
            lambda: f"How many {pick(UNITS)} are there in {place}?",
            lambda: f"It was {n} {pick(UNITS)} from {place} to {pick(PLACES)}.",
            lambda: f"They counted {big:,} of them in {year}.",
            lambda: f"The answer is {n}.{r.randint(0, 99)}, not {n + 1}.",
            lambda: f"On {day}, {month} {r.randint(1, 30)}, {year}, {name} moved to {place}.",
            lambda: (
                f"The {pick(('first', 'second', 'third', '4th', '12th', '21st', '33rd'))} {noun} opened in {year}."
            ),
            lambda: (
                f"At {r.randint(1, 12)}:{r.randint(0, 59):02d} {pick(('a.m.', 'p.m.'))} the {noun} stopped."
            ),
            lambda: (
                f"It costs ${r.randint(1, 400)}.{r.randint(0, 99):02d}, or {n}% more than {when}."
            ),
            lambda: (
                f"{pick(('Mr.', 'Mrs.', 'Dr.', 'Prof.'))} {last} works for {pick(LETTERS)} in {place}."
            ),
            lambda: f"{pick(EXCLAIM).rstrip('!')}!",
            lambda: f"{pick(('Yes', 'No', 'Well', 'Okay', 'Sure', 'Right', 'Listen'))}, {name}.",
            lambda: f"I think that the {noun} is {a}; {name} thinks that it is {b}.",
            lambda: (
                f"If the {noun} is {a}, then {name} and {pick(FIRST)} will go to {place} {when}, {why}."
            ),
            lambda: f'"The {noun}," said {name}, "is as {a} as the {other}."',
            lambda: (
                f"{name} doesn't like the {a} {noun}, {why}, and {pick(FIRST)} won't {pick(('buy', 'see', 'take'))} it."
            ),
            lambda: f"{n}, {n + 1}, {n + 2}, and so on.",
            lambda: f"Chapter {r.randint(1, 40)}: the {a} {noun}.",
            lambda: f"The {noun} of {place} \u2014 {a} and {b} \u2014 has {big} {pick(UNITS)}.",
            lambda: f"Please call {r.randint(200, 999)} {r.randint(1000, 9999)} {when}.",
            lambda: f"You would rather have {thing}, wouldn't you?",
        )
    )()


def transcripts(manifest: Path, keep: str = "") -> list[str]:
    """Texts of a JSON-lines manifest whose `source` contains `keep`; capitals are taken down, and what ends without a
    mark is given a full stop."""
    out = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = " ".join((row.get("text") or "").split())
        if keep not in row.get("source", "") or not re.search("[A-Za-z]", text):
            continue
        if text.isupper():
            text = text.lower()
        text = re.sub(r"\bi\b", "I", text)
        text = text[0].upper() + text[1:]
        out.setdefault(text if text[-1] in ".!?" else text.rstrip(",;:-") + ".")
    return list(out)
