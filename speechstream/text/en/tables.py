"""What abbreviations, units, symbols and foreign letters are called: the tables of the normaliser."""

from __future__ import annotations

MONTHS = (
    "january february march april may june july august september october november december"
).split()
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTH_OF = (
    {name: name for name in MONTHS} | {name[:3]: name for name in MONTHS} | {"sept": "september"}
)

# Written with a full stop, whatever follows.
ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miz",
    "mx": "mix",
    "prof": "professor",
    "gen": "general",
    "sen": "senator",
    "rep": "representative",
    "gov": "governor",
    "lt": "lieutenant",
    "col": "colonel",
    "sgt": "sergeant",
    "capt": "captain",
    "cpt": "captain",
    "cmdr": "commander",
    "adm": "admiral",
    "maj": "major",
    "rev": "reverend",
    "hon": "honorable",
    "fr": "father",
    "pres": "president",
    "supt": "superintendent",
    "mt": "mount",
    "jr": "junior",
    "sr": "senior",
    "vs": "versus",
    "etc": "et cetera",
    "e.g": "for example",
    "i.e": "that is",
    "viz": "namely",
    "cf": "compare",
    "approx": "approximately",
    "dept": "department",
    "est": "established",
    "govt": "government",
    "inc": "incorporated",
    "ltd": "limited",
    "co": "company",
    "corp": "corporation",
    "bros": "brothers",
    "ave": "avenue",
    "blvd": "boulevard",
    "rd": "road",
    "ln": "lane",
    "hwy": "highway",
    "pkwy": "parkway",
    "apt": "apartment",
    "ext": "extension",
    "tel": "telephone",
    "assn": "association",
    "univ": "university",
    "min": "minutes",
    "max": "maximum",
    "avg": "average",
    "misc": "miscellaneous",
    "ca": "circa",
    "al": "al",
    "messrs": "messieurs",
    "mme": "madame",
    "a.m": "A M",
    "p.m": "P M",
    "a.k.a": "A K A",
    "ph.d": "P H D",
    "b.sc": "B S C",
    "m.sc": "M S C",
    "d.phil": "D fill",
    "mon": "monday",
    "tue": "tuesday",
    "tues": "tuesday",
    "wed": "wednesday",
    "thu": "thursday",
    "thur": "thursday",
    "thurs": "thursday",
    "fri": "friday",
    "sat": "saturday",
}
BEFORE_NUMBER = {
    "no": "number",
    "nos": "numbers",
    "vol": "volume",
    "vols": "volumes",
    "fig": "figure",
    "figs": "figures",
    "p": "page",
    "pp": "pages",
    "ch": "chapter",
    "sec": "section",
    "art": "article",
    "pt": "part",
    "eq": "equation",
    "ed": "edition",
}
WITHOUT_STOP = {
    "mr": "mister",
    "mrs": "missus",
    "vs": "versus",
    "etc": "et cetera",
    "w/": "with",
    "w/o": "without",
    "b/c": "because",
    "dr": "doctor",
    "prof": "professor",
    "approx": "approximately",
}

UNITS = {  # symbol: singular name
    "km": "kilometer",
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "\u00b5m": "micrometer",
    "nm": "nanometer",
    "mi": "mile",
    "ft": "foot",
    "yd": "yard",
    "yds": "yard",
    "kg": "kilogram",
    "g": "gram",
    "mg": "milligram",
    "\u00b5g": "microgram",
    "lb": "pound",
    "lbs": "pound",
    "oz": "ounce",
    "L": "liter",
    "l": "liter",
    "ml": "milliliter",
    "mL": "milliliter",
    "cl": "centiliter",
    "gal": "gallon",
    "km\u00b2": "square kilometer",
    "m\u00b2": "square meter",
    "cm\u00b2": "square centimeter",
    "m\u00b3": "cubic meter",
    "cm\u00b3": "cubic centimeter",
    "ha": "hectare",
    "sq ft": "square foot",
    "mph": "mile per hour",
    "kph": "kilometer per hour",
    "kmh": "kilometer per hour",
    "\u00b0C": "degree celsius",
    "\u00b0F": "degree fahrenheit",
    "\u00b0": "degree",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
    "W": "watt",
    "kW": "kilowatt",
    "MW": "megawatt",
    "GW": "gigawatt",
    "kWh": "kilowatt hour",
    "V": "volt",
    "kV": "kilovolt",
    "mA": "milliamp",
    "mAh": "milliamp hour",
    "J": "joule",
    "kJ": "kilojoule",
    "kcal": "kilocalorie",
    "cal": "calorie",
    "N": "newton",
    "Pa": "pascal",
    "kPa": "kilopascal",
    "hPa": "hectopascal",
    "bar": "bar",
    "psi": "P S I",
    "dB": "decibel",
    "kB": "kilobyte",
    "KB": "kilobyte",
    "MB": "megabyte",
    "GB": "gigabyte",
    "TB": "terabyte",
    "PB": "petabyte",
    "Kbps": "kilobit per second",
    "kbps": "kilobit per second",
    "Mbps": "megabit per second",
    "Gbps": "gigabit per second",
    "px": "pixel",
    "fps": "frame per second",
    "rpm": "R P M",
    "bpm": "beat per minute",
    "ms": "millisecond",
    "\u00b5s": "microsecond",
    "ns": "nanosecond",
    "s": "second",
    "sec": "second",
    "secs": "second",
    "min": "minute",
    "mins": "minute",
    "h": "hour",
    "hr": "hour",
    "hrs": "hour",
    "\u03a9": "ohm",
    "k\u03a9": "kilohm",
    "mol": "mole",
    "ppm": "part per million",
    "AU": "astronomical unit",
    "tsp": "teaspoon",
    "tbsp": "tablespoon",
}
ATTACHED_UNITS = {"in": "inch", "yr": "year", "yrs": "year"}  # no space before them
NOT_SPACED = frozenset(("N", "J", "l", "AU", "bar"))  # units only where the number touches them
PER = {
    "hour": "hour",
    "hr": "hour",
    "h": "hour",
    "month": "month",
    "mo": "month",
    "year": "year",
    "yr": "year",
    "day": "day",
    "week": "week",
    "wk": "week",
    "min": "minute",
    "minute": "minute",
    "s": "second",
    "sec": "second",
    "person": "person",
    "kg": "kilogram",
    "lb": "pound",
    "gal": "gallon",
    "L": "liter",
    "km": "kilometer",
    "mi": "mile",
    "unit": "unit",
    "user": "user",
    "night": "night",
    "m\u00b2": "square meter",
    "m\u00b3": "cubic meter",
}

CURRENCIES = {  # symbol: (unit, hundredth)
    "$": ("dollar", "cent"),
    "US$": ("dollar", "cent"),
    "USD": ("dollar", "cent"),
    "A$": ("australian dollar", "cent"),
    "C$": ("canadian dollar", "cent"),
    "\u00a3": ("pound", "penny"),
    "GBP": ("pound", "penny"),
    "\u20ac": ("euro", "cent"),
    "EUR": ("euro", "cent"),
    "\u00a5": ("yen", ""),
    "JPY": ("yen", ""),
    "\u20b9": ("rupee", "paisa"),
    "INR": ("rupee", "paisa"),
    "CHF": ("swiss franc", "rappen"),
    "CNY": ("yuan", "fen"),
    "\u20a9": ("won", ""),
    "\u20bf": ("bitcoin", ""),
    "\u00a2": ("cent", ""),
}
MAGNITUDES = {
    "k": "thousand",
    "K": "thousand",
    "m": "million",
    "M": "million",
    "mn": "million",
    "B": "billion",
    "b": "billion",
    "bn": "billion",
    "T": "trillion",
    "tn": "trillion",
    "hundred": "hundred",
    "thousand": "thousand",
    "million": "million",
    "billion": "billion",
    "trillion": "trillion",
}

SYMBOLS = {
    "&": "and",
    "@": "at",
    "+": "plus",
    "=": "equals",
    "\u00d7": "times",
    "\u00f7": "divided by",
    "\u00b1": "plus or minus",
    "\u2248": "approximately",
    "\u2260": "is not equal to",
    "\u2264": "less than or equal to",
    "\u2265": "greater than or equal to",
    "\u221e": "infinity",
    "\u221a": "the square root of",
    "\u2211": "the sum of",
    "\u222b": "the integral of",
    "\u2202": "partial",
    "\u2206": "delta",
    "\u2192": "to",
    "\u21d2": "implies",
    "\u2208": "in",
    "\u2229": "intersection",
    "\u222a": "union",
    "\u2200": "for all",
    "\u2203": "there exists",
    "\u00b0": "degrees",
    "%": "percent",
    "\u2030": "per mille",
    "\u00a7": "section",
    "\u00b6": "paragraph",
    "\u00a9": "copyright",
    "\u2116": "number",
    "\u2103": "degrees celsius",
    "\u2109": "degrees fahrenheit",
    "\u2212": "minus",
    "\u00b2": "squared",
    "\u00b3": "cubed",
    "\u2020": "dagger",
}
SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-"
)
VULGAR = {
    "\u00bd": (1, 2),
    "\u00bc": (1, 4),
    "\u00be": (3, 4),
    "\u2153": (1, 3),
    "\u2154": (2, 3),
    "\u2155": (1, 5),
    "\u2156": (2, 5),
    "\u2157": (3, 5),
    "\u2158": (4, 5),
    "\u2159": (1, 6),
    "\u215a": (5, 6),
    "\u215b": (1, 8),
    "\u215c": (3, 8),
    "\u215d": (5, 8),
    "\u215e": (7, 8),
    "\u2150": (1, 7),
    "\u2151": (1, 9),
}

SPELLED = frozenset(
    "US USA UK UN EU AI IT ID TV PC CD DVD DJ VIP CEO CFO CTO COO DIY FAQ ATM GPS HR PR PE QA UI UX "
    "OS IP URL API CPU GPU USB HTML HTTP SQL SSL LA DC NY AM PM BBC CNN NBC ABC CBS FBI CIA NSA IRS "
    "NHS HIV DNA RNA MRI ICU ER EMT LGBT NBA NFL NHL MLB UFC IBM HP AT GE GM BMW KFC LOL OMG BTW FYI "
    "TBD RSVP IQ PS SOS MP PHD MBA BA MA BSC PHP CSS XML AWS SUV RV UFO VR AR IPO GDP CSV PDF LLM "
    "NLP TTS ASR OCR RPG AC OJ CA TX MS EST PST GMT UTC WHO".split()
)
SAID = frozenset(
    "NASA NATO AIDS COVID UNESCO UNICEF OPEC RAM ROM SIM PIN JPEG GIF SCUBA RADAR LASER FEMA NAFTA SWAT "
    "YOLO IMAX POTUS SCOTUS NASDAQ NASCAR NAFTA ASCII FIFA UEFA WIFI IKEA LEGO CAPTCHA SARS MERS OSHA "
    "SAT HIPAA DARPA LAN WAN MIDI BIOS GUI NORAD TESLA BASIC COBOL RAID CERN ASEAN GATT NIMBY".split()
)
EMPHATIC = frozenset(
    "not and the all new yes no or any you can but now one two must never ever only out stop go get do "
    "was is are his her him she he we my your our too so very big bad good top end day way off on up "
    "if how why has had for from with".split()
)
KINGS = frozenset(
    "henry louis elizabeth george charles james edward richard william mary john paul pius benedict francis "
    "leo gregory alexander napoleon philip peter nicholas ivan catherine frederick otto victor ramses "
    "rameses albert alfonso carl christian clement constantine edmund ferdinand frederic gustav harald "
    "innocent isabella juan julius karl leopold ludwig margaret maximilian olav robert sixtus stephen "
    "theodore urban wilhelm xerxes darius ptolemy thutmose amenhotep celestine boniface malcolm".split()
)
TITLES = frozenset("king queen pope emperor empress tsar czar kaiser prince pharaoh sultan".split())
TLDS = "com org net edu gov mil int io ai dev app co uk de fr es it nl ch at ca au jp cn in br ru eu us info biz me tv ly".split()

GREEK = dict(
    zip(
        "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc\u03bd\u03be\u03bf\u03c0\u03c1\u03c3\u03c4\u03c5\u03c6\u03c7\u03c8\u03c9",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mew new xi omicron pi rho sigma tau "
        "upsilon phi chi psi omega".split(),
    )
)
GREEK_SOUNDS = dict(
    zip(
        "\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc\u03bd\u03be\u03bf\u03c0\u03c1\u03c3\u03c2\u03c4\u03c5\u03c6\u03c7\u03c8\u03c9",
        "a v g d e z i th i k l m n x o p r s s t y f h ps o".split(),
    )
)
CYRILLIC = dict(
    zip(
        "\u0430\u0431\u0432\u0433\u0434\u0435\u0451\u0436\u0437\u0438\u0439\u043a\u043b\u043c\u043d\u043e\u043f\u0440\u0441\u0442\u0443\u0444\u0445\u0446\u0447\u0448\u0449\u044b\u044d\u044e\u044f\u0456\u0457\u0454\u0491",
        "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch y e yu ya i yi ye g".split(),
    )
) | {"\u044a": "", "\u044c": ""}
LATIN = {
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u00f8": "o",
    "\u0142": "l",
    "\u0111": "d",
    "\u00f0": "th",
    "\u00fe": "th",
    "\u0131": "i",
    "\u0127": "h",
    "\u014b": "ng",
}

EMOJI_NAMES = {
    "\u2764": "red heart",
    "\U0001f44d": "thumbs up",
    "\U0001f44e": "thumbs down",
    "\U0001f602": "laughing with tears",
    "\U0001f60a": "smiling face",
    "\u263a": "smiling face",
    "\U0001f525": "fire",
    "\U0001f389": "party popper",
    "\U0001f64f": "folded hands",
    "\u2705": "check mark",
    "\u2714": "check mark",
    "\u274c": "cross mark",
    "\u2b50": "star",
    "\U0001f680": "rocket",
    "\U0001f4af": "one hundred points",
    "\U0001f923": "rolling on the floor laughing",
    "\U0001f62d": "crying face",
    "\U0001f642": "smiling face",
    "\U0001f600": "grinning face",
    "\u26a0": "warning sign",
}
