"""Abbreviations of several words that are read as one phrase: rules of courts and law reports, and marks of charts.

A phrase is found where its first letter stands, and the longest is taken. A clause does not end inside of one (`endings.py`).
"""

from __future__ import annotations

import re

WRITTEN = {
    "Fed. R. Civ. P.": "federal rule of civil procedure",
    "Fed. R. Crim. P.": "federal rule of criminal procedure",
    "Fed. R. App. P.": "federal rule of appellate procedure",
    "Fed. R. Bankr. P.": "federal rule of bankruptcy procedure",
    "Fed. R. Evid.": "federal rule of evidence",
    "Fed. Reg.": "federal register",
    "Fed. Appx.": "federal appendix",
    "F. App'x": "federal appendix",
    "F. Supp. 2d": "F supp second",
    "F. Supp. 3d": "F supp third",
    "F. Supp.": "F supp",
    "F.2d": "F second",
    "F.3d": "F third",
    "F.4th": "F fourth",
    "S. Ct.": "supreme court",
    "L. Ed. 2d": "lawyers edition second",
    "L. Ed.": "lawyers edition",
    "P.2d": "P second",
    "P.3d": "P third",
    "A.2d": "A second",
    "A.3d": "A third",
    "N.E.2d": "N E second",
    "N.E.3d": "N E third",
    "N.W.2d": "N W second",
    "S.E.2d": "S E second",
    "S.W.2d": "S W second",
    "S.W.3d": "S W third",
    "So. 2d": "southern second",
    "So. 3d": "southern third",
    "Cal. App. 4th": "cal app fourth",
    "Cal. App. 5th": "cal app fifth",
    "Cal. Rptr.": "cal reporter",
    "Civ. Code": "civil code",
    "Pen. Code": "penal code",
    "Gov. Code": "government code",
    "Bus. & Prof. Code": "business and professions code",
    "Treas. Reg.": "treasury regulation",
    "Rev. Proc.": "revenue procedure",
    "Rev. Rul.": "revenue ruling",
    "Pub. L. No.": "public law number",
    "Crim. App.": "criminal appeals",
    "Cir. Ct.": "circuit court",
    "Dist. Ct.": "district court",
    "L. Rev.": "law review",
    "Summ. J.": "summary judgment",
    "Mot. for Summ. J.": "motion for summary judgment",
    "Mot. to Dismiss": "motion to dismiss",
    "Mot. to Compel": "motion to compel",
    "Mot. in Lim.": "motion in limine",
    "Mot.": "motion",
    "Pl.'s": "plaintiff's",
    "Pls.'": "plaintiffs'",
    "Def.'s": "defendant's",
    "Defs.'": "defendants'",
    "Def. Mot.": "defendant's motion",
    "Pl. Mot.": "plaintiff's motion",
    "Mem. of Law": "memorandum of law",
    "Mem. Op.": "memorandum opinion",
    "Mem. in Supp.": "memorandum in support",
    "Mem. in Opp'n": "memorandum in opposition",
    "Opp'n": "opposition",
    "Reply Br.": "reply brief",
    "Am. Compl.": "amended complaint",
    "Compl.": "complaint",
    "aff'd": "affirmed",
    "rev'd": "reversed",
    "reh'g": "rehearing",
    "cert. denied": "cert denied",
    "cert. granted": "cert granted",
    "Trial Tr.": "trial transcript",
    "Dep. Tr.": "deposition transcript",
    "Hr'g Tr.": "hearing transcript",
    "U.S. Const.": "U S constitution",
    "Const. amend.": "constitution amendment",
    "Restat.": "restatement",
    "slip op.": "slip opinion",
    "WI-FI": "wi fi",
    "H.R. Rep.": "house report",
    "S. Rep.": "senate report",
    "et seq.": "et seek",
    "U. S. A.": "U S A",
    "U. S.": "U S",
    "U. K.": "U K",
    "N. Y.": "N Y",
    "Ph. D.": "P H D",
    "b. i. d.": "B I D",
    "Lt. Gen.": "lieutenant general",
    "Lt. Cmdr.": "lieutenant commander",
    "Atty. Gen.": "attorney general",
    "Att'y Gen.": "attorney general",
    "Sec. Gen.": "secretary general",
    "J. Am. Chem. Soc.": "journal of the american chemical society",
    "Proc. Natl. Acad. Sci.": "proceedings of the national academy of sciences",
    "N. Engl. J. Med.": "new england journal of medicine",
    "Phys. Rev. Lett.": "physical review letters",
    "Phys. Rev.": "physical review",
    "Am. J.": "american journal",
    "Br. J.": "british journal",
    "J. Phys.": "journal of physics",
    "J. Chem.": "journal of chemistry",
}
BY_LETTER: dict[str, re.Pattern] = {
    first: re.compile(
        "("
        + "|".join(re.escape(w) for w in sorted(WRITTEN, key=len, reverse=True) if w[0] == first)
        + r")(?!\w)"
    )
    for first in {w[0] for w in WRITTEN}
}


def match(text: str, at: int) -> tuple[str, int] | None:
    """The words of the phrase that begins at `at`, and where it ends."""
    pattern = BY_LETTER.get(text[at])
    m = pattern.match(text, at) if pattern else None
    return (WRITTEN[m[1]], m.end()) if m else None
