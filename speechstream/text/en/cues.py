"""Words from which the kind of a number, an abbreviation or a group of capitals is told: sets in small letters."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Numbers that are read by their digits, whole or in twos.
DIALLED = _set("call dial phone telephone text ring")
CODED = _set(
    "code codes pin pins passcode password otp zip zipcode postcode postal account ssn serial iban imei tracking "
    "confirmation booking routing license licence plate fax extension ext access combination puk passphrase sin npi cvv squawk squawking swift bic passport coupon promo voucher upc asin imsi"
)
NUMBERED_LONG = _set(
    "id ids reference ref order ticket invoice case card policy claim receipt docket badge"
)
GROUPED = _set(
    "room rooms highway interstate route boeing flight error http status model bus suite apartment apt gate "
    "heading bearing cessna piper gulfstream embraer rtx gtx rfc xbox airbus porsche peugeot ferrari nokia mercedes channel fahrenheit hwy exit platform building locker cabin"
)
RELEASED = _set(
    "version python release ios ipados watchos android macos chapter section cuda ubuntu debian fedora java node kernel "
    "pytorch tensorflow django rails ruby php postgres numpy"
)
PLACES = _set(
    "window counter desk booth stall bin shelf aisle pier locker gateway room suite apartment apt unit seat gate flat section type figure fig table chapter part appendix exhibit "
    "form line platform building class article grade phase schedule annex level row track route bus flight sector zone "
    "block bay dock lot floor exit pi hall terminal pier wing rule chapter building"
)
LETTERED_AFTER = {
    "K": _set(
        "run race runner runners marathon video tv tvs monitor display resolution screen film footage hdr"
    ),
    "T": _set("mri scanner magnet field"),
    "M": _set("tape"),
}
STREETS = (
    "St|Street|Rd|Road|Ave|Avenue|Ln|Lane|Dr|Drive|Blvd|Boulevard|Way|Court|Ct|Place|Pl|Square|Sq"
)

# Books that have chapters and verses.
BOOKS = _set(
    "genesis exodus leviticus numbers deuteronomy joshua judges ruth samuel kings chronicles ezra nehemiah esther job "
    "psalm psalms proverbs ecclesiastes isaiah jeremiah lamentations ezekiel daniel hosea joel amos obadiah jonah micah "
    "nahum habakkuk zephaniah haggai zechariah malachi matthew mark luke john acts romans corinthians galatians "
    "ephesians philippians colossians thessalonians timothy titus philemon hebrews james peter jude revelation "
    "surah sura quran qur'an koran nephi"
)
BOOKS_SHORT = {
    "gen": "genesis",
    "kgs": "kings",
    "chr": "chronicles",
    "ex": "exodus",
    "exod": "exodus",
    "lev": "leviticus",
    "num": "numbers",
    "deut": "deuteronomy",
    "josh": "joshua",
    "judg": "judges",
    "sam": "samuel",
    "chron": "chronicles",
    "neh": "nehemiah",
    "ps": "psalm",
    "prov": "proverbs",
    "eccl": "ecclesiastes",
    "isa": "isaiah",
    "jer": "jeremiah",
    "lam": "lamentations",
    "ezek": "ezekiel",
    "dan": "daniel",
    "hos": "hosea",
    "mic": "micah",
    "zech": "zechariah",
    "mal": "malachi",
    "matt": "matthew",
    "mt": "matthew",
    "mk": "mark",
    "lk": "luke",
    "jn": "john",
    "rom": "romans",
    "cor": "corinthians",
    "gal": "galatians",
    "eph": "ephesians",
    "phil": "philippians",
    "col": "colossians",
    "thess": "thessalonians",
    "tim": "timothy",
    "heb": "hebrews",
    "jas": "james",
    "pet": "peter",
    "rev": "revelation",
}

# Times.
BEFORE_DECADE = _set(
    "the his her their my your our its early late mid mid- these those early- late- low high upper lower"
)
TIMED = _set(
    "ago later left remaining timer timeout timeouts break walk drive delay delays call meeting video videos read session "
    "interval intervals window deadline cooldown nap pause wait clip"
)
TIMED_BEFORE = _set(
    "in for after every within took takes take lasted lasts last wait waits waited sleep sleeps than about around under "
    "over least most only timeout was is per exactly just another first next"
)
AFTER_HALF = _set(
    "a an the my his her our your their price time day dozen hour mile past asleep empty full"
)

# Units that are also letters, words or names.
NOT_SPACED = _set("l bar d D")
NOT_TOUCHING = _set("A K T t ly ha rad lm cd B kn pt qt")
NOT_TOUCHING |= _set("kr ac bu")
CAREFUL = _set("A K N J T C F t d pt in b B")
DIRECTED = _set("N W")  # or points of the compass
INCHED = _set("by x wide long high tall deep thick diameter")
AFTER_UNIT = _set(
    "of at in and or to per with for from on is was are were by over under above below up down long wide high tall deep "
    "thick apart away each total max min more less fewer left old ago later than the a"
)
UNIT_NOUNS = {
    "A": _set("fuse breaker charger circuit current load plug socket"),
    "T": _set("mri scanner magnet field"),
    "t": _set("truck lorry"),
}

# Capitals.
ORDINARY = _set(
    "sat it us who am at la er ar ma as do go he if in is me my no of on or pa so to up we id ok all are"
)
SHORT_WORDS = _set(
    "fed met led won ban bid hat cop cap rip vow van jet rob sue tip ton top try vet war web wed wit yet cost bet ad ads pig "
    "rob cab cub cue dam den dip dot dug era eve fog fur gap gas gem gin gum gut ham hay hen hip hug hut ink inn jam jar jaw jet "
    "jog lab lap leg lid lip mob mop mug nap nod nun oak oar ore owl pad pan pat paw pea peg pie pin pit pop pot pub rat rib rim "
    "rob rod rub rug rum sad sap saw sin sip sir ski sob spa spy sub sum tab tag tan tap tar tin toe tow tub tug vow wax web wig zoo "
    "age ago aid aim air all and any are arm art ask bad bag bar bed big box boy bus but buy can car cat cry cup cut day did "
    "die dig dim dog dry due ear eat egg end eye fan far fat few fit fix fly for fun gas get god got gun guy had has hat her "
    "hey him his hit hot how ice ill its job joy key kid lay let lie log lot low mad man map may men mix mom mud net new nor "
    "not now nut odd off oil old one our out own pay pen pet pop pot put ran raw red rid row run sad say sea see set sex she "
    "shy sit six who how  sky son sun tax tea ten the tie tip toe too top toy try two use via war was way wet why win won yes yet you "
    "am an as at be by do go he if in is it me my no of on or so to up us we"
)
TRIPLED = {
    "IEEE": "I triple E",
    "NAACP": "N double A C P",
    "NCAA": "N C double A",
    "AAA": "triple A",
    "WWI": "world war one",
    "WWII": "world war two",
    "WW1": "world war one",
    "WW2": "world war two",
    "WW3": "world war three",
    "WWIII": "world war three",
}
GIVEN = _set(
    "john james robert michael william david richard joseph thomas charles christopher daniel matthew anthony mark donald "
    "steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob gary nicholas eric "
    "jonathan stephen larry justin scott brandon benjamin samuel gregory frank alexander raymond patrick jack henry walter "
    "arthur peter harold douglas albert carl roger lawrence ralph philip eugene louis harry howard fred martin earl jr "
    "sammy hank loudon davis cornelius trey"
)
NUMBERED = _set(
    "part chapter act volume type phase rocky article fantasy episode book section title class appendix unit scene movement concerto quartet suite nocturne partita etude count level "
    "stage grade world war auto wars world's bowl apollo schedule annex figure table exhibit lesson module topic tier zone "
    "page pages volume volumes clause division category mark olympiad psalm canto sonata symphony opus no vatican council group factor issue nerve complex lead quadrant theorem lemma proposition amendment protocol gta exercise problem lane cohort region district ward option plan domain subtype photosystem collagen interferon angiotensin arm amend amendment wrestlemania panel mk rule lesson trial round pillar segment"
)
GIVEN_NAMES = GIVEN | _set(
    "mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty sandra margaret ashley kimberly "
    "emily donna michelle carol amanda melissa deborah stephanie rebecca sharon laura cynthia dorothy amy kathleen angela "
    "shirley emma brenda pamela nicole anna samantha katherine christine helen debra rachel carolyn janet maria catherine "
    "heather diane olivia julie joyce victoria ruth virginia lauren kelly christina joan evelyn judith andrea hannah megan "
    "cheryl jacqueline martha gloria teresa ann sara madison jean kathryn alice julia grace judy sophia marie jane bob bill tom "
    "jim joe mike dave steve dan sam tim ben max alex chris matt nick tony rick ron ken ray al ed ted rob jeff greg priya "
    "raj amit wei li mei chen juan carlos jose luis miguel ana fatima ahmed mohammed ali omar ian sean liam noah ethan lucas"
)
TYPED = _set("schedule type phase stage class level grade tier group division")
ORDINAL_BEFORE = _set(
    "century centuries olympiad olympics congress legion corps dynasty army millennium"
)

# Names of ranges: days, months and the like on both sides of a dash.
WEEKDAYS_SHORT = {
    "mon": "monday",
    "tue": "tuesday",
    "tues": "tuesday",
    "wed": "wednesday",
    "weds": "wednesday",
    "thu": "thursday",
    "thur": "thursday",
    "thurs": "thursday",
    "fri": "friday",
    "sat": "saturday",
    "sun": "sunday",
}
BEFORE_MONTH = _set("to in by since from until till of last next early late mid this every")
DANGLING = _set(
    "the a an my your his her its our their of in at for with from by on to and or but that which is are was were as than "
    "this these those be been very more into over about"
)
NAMED_TIMES = _set("noon midnight dawn dusk now present today")
COUNTED = _set(
    "miles beats meters metres feet gallons kilometers kilometres grams dollars cents words calls requests tokens frames "
    "steps calories visits times people units hours days pages queries users drops cups cycles rounds events items orders "
    "cells copies particles molecules counts ions colonies platelets posts messages minutes breaths liters litres pounds tons bits bytes"
)
INTERJECTIONS = _set("hi hello hey yes no oh well ok okay so and but now please sure thanks")

# Words of small letters that are said by their letters, and endings of file names.
SPELLED_SMALL = _set(
    "ty cc bcc gm gn hbu wbu af ily hmu lmfao eod gtg nsfw sfw cctv ev evs ui ux ls wc mv rm doi apg rpg ln idk imo imho tbh cd btw brb ttyl wdym smh omw omg aet aq idc icymi ootd lmao iykyk ngl nvm irl fwiw afaik iirc tba tbd ftw wfh fyi id "
    "rsa dsa utf aka html css pdf csv gpt llm llms url urls api apis usb ssh http https sql xml php tts asr cpu gpu pdfs ssd vpn faq"
)
FILE_LETTERS = _set(
    "md py js ts rs gz cfg ini txt jpg jpeg png pdf csv tsv html htm css xml php cpp hpp cc mp mov avi wav svg sql xls "
    "xlsx docx pptx ppt exe dll rb rtf ttf db sh tgz bz xz jsx tsx ipynb env conf log tmp bak"
) - _set("log env conf tmp bak jpeg ini")
EXTENSIONS = _set(
    "md py js ts rs gz cfg ini txt jpg jpeg png gif pdf csv tsv html htm css xml php cpp hpp mp3 mp4 mov avi wav svg sql xls "
    "xlsx docx doc pptx ppt exe dll rb rtf ttf db sh tgz zip tar json yaml yml toml lock log bin iso apk dmg deb rpm jar java "
    "kt swift go ipynb onnx npz npy pth bak tmp conf env"
)
