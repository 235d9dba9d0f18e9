"""English words that say where a sentence or a clause may end."""

from __future__ import annotations

from speechstream.text.en.short_form_contexts import CONTEXTS
from speechstream.text.en.short_form_tables import ALWAYS
from speechstream.text.rules import Rules

NEVER_END = frozenset(
    "feat ald comm'r jos benj saml danl edw richd fredk br mr mrs ms mx dr prof gen sen rep gov lt col sgt capt cpt cmdr rev hon fr pres supt adm maj messrs "
    "mme mlle mt vs e.g i.e cf viz mot compl approx ca resp incl excl cpl pvt det insp drs asst assoc ste amb atty w.r.t "
    "qty ref c rs acct accts sched exc pfc wm chas jas thos robt eff mfg esp cont attn dir msgr mlle brig profs sts rt treas univ mts fwd viz ctrl lbl pls sens govs gens lts sgts capts attys dbl sgl mkt div".split()
)
BEFORE_NUMBER = frozenset(
    "iss plat trk opt agg disp amend amdt ep eps lv lvl lem cor alg ham oth lr il aen hdt thuc theog no nos chs vv ll nn fn fns bk bks thm eqs prob probs suppl avail col conf inv sfr cat ex art sec p pp ch fig figs vol vols pt eq ed ps matt exod lev deut isa jer ezek rom cor gal eph heb thess prov "
    "eccl psa ext ver pg pgs lat chap chaps bio chem econ psych phys app exh exhs para paras neh zech rte jct rm bldg fl hwy sch op elev dep arr yr wk dist ste apt b d r mvt".split()
)
BOOKS_OF_TWO = frozenset("sam tim chron pet jn kgs cor thess".split())  # behind 1, 2 or 3
MONTHS_AND_DAYS = frozenset(
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed weds thu thur thurs fri sat "
    "sun".split()
)
MAY_END = (
    frozenset(
        "inc ltd co corp jr sr al st ave blvd rd ln hwy dept est bros sq apt ext min max gal ft lb lbs oz "
        "phd etc bldg rm rte jct dist elev dep arr ret edn".split()
    )
    | MONTHS_AND_DAYS
)
BEFORE_NAME = frozenset("conf lv ofc ch dom dep exec spc ens cmdt const".split())  # with a capital
BEFORE_SMALL = frozenset(  # a small letter or a digit goes on, a capital begins a sentence
    "pk pck cyl spd stry psgr resched addr addrs occ bd inn inns inj pet wd th cor caps cap tabs tab def bbl att mag gt ofc var sz betw attd attch precip accum gals ctn ctns pkts pmts pymt dia dlvr dlvy rcpt shpg whse stmt stmts bkgd furn immed pref mss anon illus "
    "abd soln vacc choc veg refrig qtys addl add'l addn cmte cttee ctee equip mtl matl mat'l mech elec maint wksp instr hndbk govts diff "
    "conf val pop vis sem sc adj neg pos disc bal pd chg opt pr prs pc gr ba prep inj sol conc del rwy v "
    "rev agg cts vit fav sat rep educ agric transp mgt svc svcs constr bdrm bdrms stn mktg vly mtn mtns crk comms eq yld mkt util utils nr idx reg pct acctg freq coeff params tsp tbsp tbsps tsps oz lb lbs qt qts pt pts gal ft yd yds mi hr hrs min mins sec secs yr yrs wk wks mo mos temp temps "
    "med lg avg misc orig govt appt appts mtg mtgs fl cu sq op ed eds trans para inst assoc int pkg pkgs pkt abbr ctr wt ht "
    "lic dir exp regt ea terr cres gdns expy fwy tpke dkt amend amends amt cdr cert diam encl grp pmt subj vocab susp rds rpt hols p pp ch sh dz mgr vers "
    "mfr intl natl univ dist dep arr elev rm bldg rte jct prev lib tel ct dz doz app cl pct max incl excl est "
    "chap chaps nat intro admin apt ste hwy qtr qtrs reb ast mvt sch rd ave".split()
)
HALVES = frozenset(("a.m", "p.m"))
AFTER_TIME = frozenset(  # capitals that still belong to a time of day
    "eastern pacific central mountain greenwich local british central monday tuesday wednesday thursday friday saturday sunday "
    "mon tue tues wed weds thu thur thurs fri sat sun january february march april may june july august september october november "
    "december jan feb mar apr jun jul aug sep sept oct nov dec beijing london paris tokyo moscow".split()
)
NUMBER_OF = frozenset(
    "tel ref phone serial part order model account acct id po p.o invoice registration reg flight item case contact telephone "
    "fax passport batch policy licence license tracking reference catalog new old my your his her our their whose home work cell "
    "mobile same right wrong main".split()
)
STARTERS = frozenset(
    "the a an this that these those it he she we they i you there here his her its our their my your but and or so if "
    "when while after before although however meanwhile then now what who why how where which in on at for with from "
    "by as one some many most all each every not yes please let first second finally next another both since because "
    "don doesn didn won isn aren wasn weren couldn wouldn shouldn hasn haven hadn "
    "until once do does did is are was were would can could should it's he's she's they're we're i'm".split()
)
CONJUNCTIONS = frozenset(
    "and but or so because which that who whom whose when while where if though although unless "
    "with without for to in on at from by as into after before than through about like".split()
)

STATES = frozenset(  # those that are abbreviations or words in small letters too
    "CA MT MS Ala Ariz Ark Calif Colo Conn Del Fla Ga Ill Ind Kan Ky La Mass Md Mich Minn Miss Kans Mo Mont Neb Nebr Nev Okla Ont Ore "
    "Pa Penn Que Tenn Tex Va Vt Wash Wis Wyo".split()
)
ANSWERED = frozenset(
    "said say says saying answered answer replied reply told vote voted votes shouted cried yelled screamed whispered or and "
    "still definitely absolutely just simply".split()
)
ASKED = frozenset("me him her them us you".split())
AFTER_NUMBER = frozenset(("in",))
BY_SOMEONE = frozenset(("ed", "eds", "trans"))
EDITION = frozenset(
    "rev revised new special critical second first third fourth fifth american standard".split()
)
BEFORE_CODE = frozenset(("dep", "arr"))
ONLY_CAPITAL = frozenset(("cat", "ex"))
FACTORIALS = frozenset("nkmNrpq")
COUNTED = frozenset(
    "il od aen met ann ecl georg nic symp apol hdt thuc pol evid supp app f p ct ed rptr proc reg rul chem phys natl med lett soc rev".split()
)
PHRASED = frozenset(  # of courts and journals: go on before another of them
    "appl biol clin invest exp psychol trans ann int econ mod astrophys mon res enl summ hom od hes hdt verg ov cic caes tac suet lucr juv plut arist eth nic il aen met georg ecl ann pol symp fed civ crim evid supp app bankr r f s l p n ct ed rptr cal bus prof treas rev proc pub rep cir dist so am chem soc natl acad "
    "sci engl phys br j lett q math biol a n.e n.w s.e s.w def pl mot mem opp lim tr dep const trial restat".split()
)

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
    BEFORE_SMALL | frozenset(ALWAYS) | frozenset(CONTEXTS),
    HALVES,
    AFTER_TIME,
    NUMBER_OF,
    BOOKS_OF_TWO,
    BY_SOMEONE,
    EDITION,
    BEFORE_CODE,
    ONLY_CAPITAL,
    FACTORIALS,
    PHRASED,
    COUNTED,
    BEFORE_NAME,
)
