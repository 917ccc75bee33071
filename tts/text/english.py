"""Word lists of English that more than one step of the text's preparation asks."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of `text` as a set."""
    return frozenset(text.split())


# Abbreviations after whose full stop the sentence goes on. Lower case, without the last stop.
ABBREVIATIONS = words(
    """mr mrs ms mx dr prof st gen col lt sgt capt cmdr maj rev hon gov sen rep pres fr mt ft adm cpl pvt insp supt
    vs eg ie e.g i.e cf ca approx no nos vol vols fig figs ch eq pp p ed eds viz messrs mme mlle jan feb mar apr jun
    jul aug sep sept oct nov dec mon tue tues wed thu thurs fri apt incl"""
)
# Abbreviations that close a sentence often enough to look at what follows.
MAY_END = words(
    """jr sr inc ltd co corp bros dept est al ave blvd rd ln ct pl sq hwy pkwy sec min max ext a.m p.m u.s u.k u.n
    d.c ph.d b.a m.a b.sc m.sc"""
)
# Units that people abbreviate with a stop: "12 in. tall".
UNITS = words("in ft yd mi oz lb lbs gal hr hrs min mins sec secs")
# Words that, with a capital after a full stop, nearly always begin a sentence.
STARTERS = words(
    """The A An He She It They We You I This That These Those There In On At But And Or So If When While After
    Before As For From With His Her Its Their Our My Your What Who Where Why How Not No Yes Then Now However"""
)
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
# Abbreviated, as an alternation for a regular expression; the first three letters tell which.
MONTH = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?(?![a-z])|" + "|".join(MONTHS)
