"""English words that say where a sentence or a clause may end."""

from __future__ import annotations

from speechstream.text.rules import Rules

NEVER_END = frozenset(
    "mr mrs ms mx dr prof gen sen rep gov lt col sgt capt cpt cmdr rev hon fr pres supt adm maj messrs "
    "mme mlle mt vs e.g i.e cf viz approx ca resp incl excl cpl pvt det insp drs asst assoc ste amb atty w.r.t "
    "qty ref c rs acct mfg esp cont".split()
)
BEFORE_NUMBER = frozenset(
    "no nos art sec p pp ch fig figs vol vols pt eq ed ps matt exod lev deut isa jer ezek rom cor gal eph heb thess prov "
    "eccl psa ext ver".split()
)
MONTHS_AND_DAYS = frozenset(
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat "
    "sun".split()
)
MAY_END = (
    frozenset(
        "inc ltd co corp jr sr al st ave blvd rd ln hwy dept est bros sq apt ext min max gal ft lb lbs oz "
        "phd etc".split()
    )
    | MONTHS_AND_DAYS
)
STARTERS = frozenset(
    "the a an this that these those it he she we they i you there here his her its our their my your but and or so if "
    "when while after before although however meanwhile then now what who why how where which in on at for with from "
    "by as one some many most all each every not yes please let first second finally next another both since because "
    "until once do does did is are was were would can could should it's he's she's they're we're i'm".split()
)
CONJUNCTIONS = frozenset(
    "and but or so because which that who whom whose when while where if though although unless "
    "with without for to in on at from by as into after before than through about like".split()
)

STATES = frozenset(("CA", "MT", "MS"))  # those that are abbreviations in small letters too
ANSWERED = frozenset(
    "said say says saying answered answer replied reply told vote voted votes shouted cried yelled screamed whispered or and "
    "still definitely absolutely just simply".split()
)
ASKED = frozenset("me him her them us you".split())
AFTER_NUMBER = frozenset(("in",))

RULES = Rules(
    NEVER_END,
    BEFORE_NUMBER,
    MONTHS_AND_DAYS,
    MAY_END,
    STARTERS,
    CONJUNCTIONS,
    STATES,
    ANSWERED,
    ASKED,
    AFTER_NUMBER,
)
