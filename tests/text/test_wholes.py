"""Letters and numbers that are read as a whole, by what stands around them."""

import pytest

from tools.evaluate_text import Ours


@pytest.fixture(scope="module")
def say():
    ours = Ours()
    return lambda text: " ".join(t for t in ours(text) if t != ",")


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("A 12-pk. of soda", "a twelve pack of soda"),
        ("A 4-dr. sedan with a 6-cyl. engine", "a four door sedan with a six cylinder engine"),
        ("They opened a 529 plan.", "they opened a five twenty nine plan"),
        ("Gifts to a 501(c)(3) count.", "gifts to a five oh one c three count"),
        ("She called 911 at once.", "she called nine one one at once"),
        ("He called 911 people.", "he called nine hundred eleven people"),
        ("Track parcel 7731 4409.", "track parcel seven seven three one four four zero nine"),
        ("From 1999 2004 is near.", "from nineteen ninety nine two thousand four is near"),
        ("Enter 339 074 now.", "enter three three nine zero seven four now"),
        ("Open 9a-5p daily.", "open nine a m to five p m daily"),
        ("18/10 steel", "eighteen ten steel"),
        ("0:08 left", "eight seconds left"),
        ("A 2BR/1.5BA flat", "a two bedroom one and a half bath flat"),
        ("Dinosaurs died 66 Ma.", "dinosaurs died sixty six million years ago"),
    ],
)
def test_numbers_that_are_names(say, written, spoken):
    assert say(written) == spoken


@pytest.mark.parametrize(
    "written, spoken",
    [
        ("Class meets Tue/Thu.", "class meets tuesday and thursday"),
        ("The donor has O- blood.", "the donor has o negative blood"),
        ("He got an A- in art.", "he got an a minus in art"),
        ("I cc'd him.", "i c c'd him"),
        ("Pay w/in ten days.", "pay within ten days"),
        ("a song feat. Drake", "a song featuring drake"),
        ("Bake at 350 deg. F now.", "bake at three hundred fifty degrees fahrenheit now"),
        ("M-F 8-6", "monday to friday eight to six"),
        ("Police in Gary, IN are here.", "police in gary indiana are here"),
        ("Use == to compare.", "use double equals to compare"),
        ("Tell me the no. of guests.", "tell me the number of guests"),
        ("The card charges 5% APR.", "the card charges five percent a p r"),
        ("The Saturn V flew.", "the saturn five flew"),
        ("DNA of 300 bp was cut.", "d n a of three hundred base pairs was cut"),
        ("Tax is incl. in it.", "tax is included in it"),
        ("a $.05 dividend", "a five cent dividend"),
        (
            "He signed a four year, $98M deal.",
            "he signed a four year ninety eight million dollar deal",
        ),
        ("The name is userName.", "the name is user name"),
    ],
)
def test_letters_with_marks(say, written, spoken):
    assert say(written) == spoken
