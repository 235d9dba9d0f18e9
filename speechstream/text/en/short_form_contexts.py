"""Abbreviations with a full stop that stand for one word or another by what is before and behind them: diff., Ch., del., val.

`read(token, before, rest)` goes through the rows of an abbreviation, in which an empty pattern fits everything.
"""

from __future__ import annotations

import re

from speechstream.text.en import numbers

COUNT = rf"(?:{'|'.join(sorted(numbers.NAMES))})"
NAME = r"[A-Z\u00c0-\u00de][a-z\u00df-\u00ff]"
TITLE = r"(?:Sheriff|Dir|Sec|Gov|PM|Prime|Mayor|Chief|Commissioner|Minister|Editor|Head|Manager)\b"
DATE = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"

# An abbreviation, what the word before it and what follows its full stop must match, and what it stands for.
ROWS = r"""
cts | COUNT | (?!(?:under|of)\b) | cents
diff | | (?:eq|calc|geom|gear|lock|pressure|diagnos|dx\b|oil|equation|calculus|topology|operator) | differential
diff | (?:with|and|,|plus|wbc|cbc|point|goal|score|time) | [(,;.)]|$|and\b|[-+\u2212]?\d | differential
diff | | [-+\u2212=~<>]|\d|(?:is|was|of|in|between|btwn|betw|b/w|to)\b|[A-Z]\d|[A-Z](?![A-Za-z]) | difference
diff | (?:the|this|that|price|no|any|a) | (?:is|was|of|in|between)\b|$|[,;)] | difference
diff | | [a-z] | different
Ch | | (?!(?:One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten)\b)(?![IVXLC]+\b)NAME | chateau
Dom | | Rep | dominican
Dom | | NAME | domaine
rev | | (?:miss|missed|beat|growth|est|guidance|up|down|rose|fell|grew|share|sharing|per|streams?|target|forecast|run|by|was|is|from|outlook|multiple)\b | revenue
rev | | (?!(?:and|or|the|it|up|to|in|of|a|by|&)\b)[a-z] | revised
v | | \d+\.\d | version
del | (?:day|days|free|standard|express|est|estimated|next|incl|including|home|local|fast|of|for|exp|expected|std) | | delivery
del | | (?:date|time|charges?|fees?|by|on|within|address|incl)\b | delivery
conf | | (?:call|calls|room|rooms|[Rr]m\b|Room|Call|ctr|center|centre|hall|agenda|fee|paper|proceedings)\b | conference
conf | | (?:no|nr|code|num|number|email)\b|# | confirmation
val | money | | valuation
val | (?:market|book|par|face|nominal|resale|cash|fair|assessed|est|estimated|max|min|default|street|mean) | | value
pop | | [~\u2248<>]|\d|est\b | population
pop | (?:total|city|world|est|estimated|us|urban|the) | (?!music|song|group|star|art|culture)(?:of|is|was|density|growth)\b | population
vis | | [<>]?\s?\d|(?:good|poor|unlimited|unrestricted|reduced)\b | visibility
sem | (?:fall|spring|summer|winter|first|second|third|this|last|next|each|per|one|two|final) | | semester
sem | | \d|[IVX]+\b | semester
sc | | \d|[ivx]+\b|[IVX]+\b | scene
ex | | [A-Z](?![A-Za-z.]) | exhibit
dep | (?:min|minimum|security|refundable|damage|month's|months|plus|and) | | deposit
dep | | = | deposit
Dep | | TITLE | deputy
Dep | | (?!DATE)NAME\w+(?!\w| (?:\d|at\b|from\b)) | deputy
resp | | (?:rate|failure|infections?|distress|syndrome|therap\w+|illness|tract|arrest)\b | respiratory
resp | | | respectively
adj | | (?:EBITDA|EBIT|EPS|R[2\u00b2]|earnings|profit|net|operating|gross|margin|close|for|income|odds|OR\b|HR\b|p\b) | adjusted
adj | | (?!\$)[a-z(,;] | adjective
neg | (?:price|rent|salary|obo|rate|pounds|dollars|euros|rupees|fee) | | negotiable
neg | (?:covid|test|tested|strep|rh|hiv|flu|is|was|came|result|results|back|culture|cultures) | | negative
neg | | (?:for|test|result|cultures?|margins?|feedback|impact|effects?|cash)\b | negative
pos | | (?:for|test|result|cultures?|margins?|feedback|impact|effects?|cash)\b | positive
pos | (?:covid|tested|strep|rh|hiv|flu|came|result|results|culture|cultures) | | positive
disc | COUNT | | discount
disc | percent | | discount
bal | | (?:due|of|is|was|fwd|forward|sheet|owed|owing|transfer|\$|[-+]?\d|[$\u20ac\u00a3]) | balance
bal | (?:account|acct|remaining|outstanding|opening|closing|the|current|your|avail|available) | | balance
pd | | (?:in|by|on|via|to|for)\b|\d | paid
chg | | [-+\u2212]?\d | change
stmt | | | statement
incl | (?:is|are|was|were|not|be|been|all|fees?|tax|taxes|breakfast|meals?|shipping|delivery|utilities|parking|batteries|tip|fi|wifi|vat|gst|v a t|linens|service) | (?![A-Z\d$]) | included
incl | | (?:in|with)\b|[;)(!]|$ | included
excl | (?:is|are|was|were|not|be|been|all|fees?|tax|taxes|breakfast|meals?|shipping|delivery|utilities|parking|batteries|tip|vat|gst|service) | (?![A-Z\d$]) | excluded
excl | | (?:from)\b|[;)(!]|$ | excluded
feat | | NAME | featuring
incl | not | | included
bus | | days?\b|hours\b|hrs\b | business
sub | | (?:\d|[a-z]+ (?:\w+ )?for\b) | substitute
bd | COUNT | [,/&(]|\d | bedroom
conv | (?:our|your|my|the|last|this|earlier|a|per) | (?!rate|rates|oven)(?:\S|$) | conversation
conv | | oven\b | convection
att | (?:find|see|the|please|pls|as|is|are) | | attached
Const | (?:the|state|federal|u s|our) | (?!NAME) | constitution
est | (?:beat|missed|miss|topped|vs|versus|consensus|above|below|street|analyst|exceeded|cost|rough|an|my|our|the|budget) | (?:of|for|was|is|were|from|by|on)\b|$|[,;)] | estimate
opt | | (?:garnish|extras?|add)|[),;] | optional
pr | COUNT | (?:of\b|shoes|socks|gloves|pants|jeans|skis) | pair
prs | COUNT | | pairs
pc | COUNT | [a-z(,;)] | piece
gr | | [K\d] | grade
Is | (?:canary|virgin|falkland|solomon|cayman|marshall|faroe|channel|cook|thousand|shetland|orkney|balearic|aran|pacific|society|scilly|turks|caicos|mariana|aleutian|galapagos) | | islands
Eng | (?:senior|software|chief|lead|staff|principal|civil|data) | | engineer
eng | | (?:lit|dept|team|manager|mgr|lead)\b | engineering
Exec | | NAME|VP\b | executive
Spc | | NAME | specialist
Ens | | NAME | ensign
Cmdt | | NAME | commandant
Const | | NAME | constable
br | COUNT | [a-z/(,;&)]|\d | bedroom
ba | COUNT | | bath
prep | | time\b|\d|: | prep
inj | (?:knee|ankle|hamstring|groin|back|shoulder|elbow|wrist|foot|hand|calf|thigh|hip|head|neck|finger|quad|achilles) | | injury
sol | COUNT | | solution
conc | | (?:of|is|was)\b|\d | concentration
conc | | (?:HCl|H2SO4|HNO3|NaOH|acid|sulfuric|hydrochloric|nitric|NH) | concentrated
bbl | COUNT | | barrels
bbl | | | barrel
att | | :? ?(?:\d{1,3},\d{3}|\d{4}) | attendance
mag | | [-+\u2212]?\d | magnitude
med | COUNT | (?!school|students?|records?|exam|bills?)[a-z] | medium
med | | (?:bowl|pan|saucepan|skillet|pot|onion|potato|tomato|carrot|egg|apple|banana|lemon|shrimp|sized?)\w*\b | medium
gt | | -?(?:grand|aunt|uncle|niece|nephew) | great
ofc | | (?:hrs?|hours|phone|no|mgr|manager|bldg|ext|supplies|space)\b | office
Ofc | | NAME | officer
var | percent | | variable
ind | pre | | industrial
sz | | | size
cor | | of\b | corner
caps | COUNT | [a-z(] | capsules
cap | COUNT | [a-z(] | capsule
tabs | COUNT | [a-z(] | tablets
tab | COUNT | [a-z(] | tablet
opt | | \d | option
def | (?:the|both|that|this|by|against|for) | (?:pled|pleaded|was|is|has|had|moved|argued|claims|appeared|denied|filed|requests|objects|did|admitted|failed|waived|stated|were)\b | defendant
def | (?:i|we|you|they|he|she|it|is|are|will|would|it's|that's|i'm) | [a-z] | definitely
inj | COUNT | | injured
exp | | :\s?(?:\d|[A-Z]) | expires
exp | | (?:ratios?|acct|account|report|category)\b | expense
inc | (?:net|oper|operating|gross|fixed|pretax|taxable) | | income
div | | (?:of|yield|yld|per|payable|paid)\b|[$\u00a2\u00a3\u20ac]|\d | dividend
Lv | | NAME|[A-Z]{3}\b|\d{1,2}:\d\d | leaves
Th | (?:quiz|exam|due|on|every|each|next|last|class|test|meeting|wednesday|tuesday|monday) | | thursday
mvt | (?:first|second|third|\w+th|final|slow|last|opening) | | movement
Wd | (?:first|second|third|\w+th) | | ward
pet | | (?:for|to)\b | petition
occ | (?:stirring|stir|turning|basting|tossing|shaking|flipping) | | occasionally
bd | | of\b | board
est | | (?!in\b|by\b|since\b|as\b|and\b|circa\b|c\b|ca\b|member|fact)[a-z] | estimated
inn | COUNT | | innings
alt | | (?:route|text|name|key|date|email|phone|number|spelling)\b | alternate
adv | | (?:copy|notice|booking|payment|ticket|tickets|purchase|reg)\b | advance
bur | | of\b | bureau
cap | | (?:gains|exp|ex|expenditures?)\b | capital
cent | | (?:bank|heating|air)\b | central
ext | | (?:wall|walls|paint|door|doors|finish|lights?)\b | exterior
fed | | (?:rate|govt|gov't|tax|taxes|law|court|funds|agency|employee|judge)\b | federal
fig | (?:the|this|see|each|above|that|in) | [a-z] | figure
lit | | (?:review|dept|class|course|prof)\b | literature
mag | | (?:article|cover|story|issue)\b | magazine
mil | COUNT | [a-z] | million
mil | | (?:base|service|time|police|personnel|family|families|spouse)\b | military
nat | | (?:park|forest|bank|team|guard|museum|gas)\b | national
par | | \d | paragraph
pop | | (?:growth|density|size)\b | population
prob | (?:the|a|high|low|with|of) | (?:of|is|that|was)\b | probability
prob | | [a-z] | probably
pub | | (?:date|house|year)\b | publication
pub | | (?:record|school|health|library|transport|policy)\b | public
rec | | (?:center|centre|room|league|area|dept|sports?)\b | recreation
rel | | (?:humidity|risk|density|error)\b | relative
reg | | (?:price|size|hours|season|gas|unleaded)\b | regular
res | | (?:hall|life)\b | residence
sec | | (?:code|guard|deposit|check|clearance)\b | security
sep | | [a-z] | separate
vol | (?:the|trading|avg|average|total|high|low|daily) | (?:was|is|of|rose|fell|up|down)\b | volume
arr | (?:est|estimated|sched|expected|late|early) | | arrival
min | (?:sharp|flat) | | minor
maj | (?:sharp|flat) | | major
gen | | (?:manager|mgr|counsel|contractor|public|election|info|admission|store|partner|meeting)\b | general
pts | | (?:were|with|who|received|had|underwent|on|in the (?:control|placebo|treatment))\b | patients
"""
WORDS = {"COUNT": COUNT, "NAME": NAME, "TITLE": TITLE, "DATE": DATE}


def _compiled() -> dict[str, list[tuple[bool, re.Pattern | None, re.Pattern | None, str]]]:
    """The rows by their abbreviation in small letters; whether it must have a capital, and its two patterns."""
    found: dict[str, list[tuple[bool, re.Pattern | None, re.Pattern | None, str]]] = {}
    for line in ROWS.strip().split("\n"):
        token, before, rest, said = re.split(r" \|(?= |$)", line)
        for name, pattern in WORDS.items():
            before, rest = before.replace(name, pattern), rest.replace(name, pattern)
        row = (
            token[0].isupper(),
            re.compile(before.strip()) if before.strip() else None,
            re.compile(rest.strip()) if rest.strip() else None,
            said.strip(),
        )
        found.setdefault(token.lower(), []).append(row)
    return found


CONTEXTS = _compiled()


def read(token: str, before: str, rest: str) -> str:
    """What an abbreviation stands for, or "". before: the word said last, small; rest: what follows the full stop."""
    for capital, earlier, later, said in CONTEXTS.get(token.lower(), ()):
        if capital and not token[0].isupper() or token.isupper() and len(token) > 1:
            continue
        if (not earlier or earlier.fullmatch(before)) and (not later or later.match(rest)):
            return said
    return ""
