"""Abbreviations, initials, roman numerals and words in capitals, in English."""

from __future__ import annotations

import re
from functools import lru_cache

from .english import MONTHS, STARTERS, words
from .numbers import cardinal, ordinal

# Before a name; with or without the stop.
_TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Mx": "Mix", "Dr": "Doctor", "Prof": "Professor", "St": "Saint",
    "Messrs": "Messers", "Mme": "Madame", "Mlle": "Mademoiselle",
}  # fmt: skip
# Before a name; only with the stop.
_RANKS = {
    "Gen": "General", "Col": "Colonel", "Lt": "Lieutenant", "Sgt": "Sergeant", "Capt": "Captain", "Cmdr": "Commander",
    "Maj": "Major", "Rev": "Reverend", "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator",
    "Rep": "Representative", "Pres": "President", "Fr": "Father", "Mt": "Mount", "Ft": "Fort", "Supt": "Superintendent",
    "Adm": "Admiral", "Cpl": "Corporal", "Pvt": "Private", "Sr": "Sister", "Br": "Brother", "Insp": "Inspector",
}  # fmt: skip
# After a name or a number of a street.
_STREETS = {
    "St": "Street", "Dr": "Drive", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Ln": "Lane", "Ct": "Court",
    "Pl": "Place", "Sq": "Square", "Hwy": "Highway", "Pkwy": "Parkway", "Apt": "Apartment",
}  # fmt: skip
# Before a number.
_COUNTED = {
    "no": "number", "nos": "numbers", "vol": "volume", "vols": "volumes", "fig": "figure", "figs": "figures",
    "p": "page", "pp": "pages", "ch": "chapter", "sec": "section", "eq": "equation", "art": "article",
    "ext": "extension", "ver": "version", "rm": "room", "apt": "apartment", "op": "opus", "ca": "circa", "c": "circa",
    "tel": "telephone",
}  # fmt: skip
# Anywhere, with the stop (in any case).
_ANYWHERE = {
    "e.g": "for example", "eg": "for example", "i.e": "that is", "ie": "that is", "etc": "et cetera", "vs": "versus",
    "cf": "compare", "approx": "approximately", "dept": "department", "est": "established", "inc": "Incorporated",
    "ltd": "Limited", "co": "Company", "corp": "Corporation", "bros": "Brothers", "jr": "Junior", "sr": "Senior",
    "al": "al", "viz": "namely", "misc": "miscellaneous", "ave": "Avenue", "blvd": "Boulevard", "rd": "Road",
    "max": "maximum", "min": "minimum", "govt": "government", "assn": "association", "univ": "university",
    "tel": "telephone", "ed": "edition", "eds": "editors", "incl": "including", "encl": "enclosed", "n.b": "note well",
    "p.s": "P S", "a.k.a": "A K A", "r.i.p": "R I P", "ph.d": "P H D", "esq": "Esquire",
}  # fmt: skip
# Without a stop, or with signs.
_PLAIN = [
    (r"\bvs?\b(?=\s+[A-Z])|\bvs\b", "versus"),
    (r"(?<!\w)w/o(?!\w)", "without"),
    (r"(?<!\w)w/\s?(?=\w)", "with "),
    (r"(?<!\w)b/c(?!\w)", "because"),
    (r"(?<!\w)c/o(?!\w)", "care of"),
    (r"\b[Nn]/[Aa]\b", "not applicable"),
    (r"\bPh\.?D\b\.?", "P H D"),
    (r"\betc\b(?!\.)", "et cetera"),
    (r"\baka\b", "A K A"),
    (r"(?<=\b[A-Z])\.(?=\d)", " "),
    (r"\b(?:O\.K\.(?!\s*$)|O\.?K\b|ok\b)", "okay"),
]
_DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday"}
_DAYS |= {"Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"}

# Capitals said as a word.
_ACRONYMS = words(
    """NASA NATO UNESCO UNICEF OPEC FIFA UEFA AIDS LASER RADAR SONAR SCUBA RAM ROM PIN SIM GIF LAN WAN SWAT SARS
    COVID NAFTA BAFTA FEMA DARPA ASCII BIOS SAT ACT MIDI PETA IKEA LEGO VISA WASP ZIP CAD VAT RAID TED ROFL YOLO
    NIMBY CERN OSHA GUI TASER EPCOT ISIS"""
)
# Capitals said letter by letter, those that look like words among them; they stay so when a whole text is in capitals.
_INITIALISMS = words(
    """AI API ATM BBC BBQ BMW BMX CBS CD CDC CEO CFO CIA CNN CPR CPU CT CTO CV DIY DJ DNA DVD EU FAQ FBI GDP GMT
    GOP GPS GPU HBO HIV HQ HR HTML HTTP IBM ID IMF IP IQ IRA IRS IT KFC KGB LA LCD LED LGBT LLC LLM LOL MBA MIT MLB
    MRI MTV NBA NBC NCAA NFL NGO NHL NHS NSA NYC NYPD OCD OMG PC PDF PHD PM PR PTSD QA RIP RNA RSVP SOS SQL SUV TBA
    TNT TV UAE UFO UI UK UN URL US USA USB USDA USSR UTC UV UX VIP VPN WTO WWW XML ASAP EPA IOU ABC AOL ADHD AKA AC
    DC EMI ESPN IOS IPO ISO UCLA USC USAF ICU ER"""
)
# Of those, which are also plain words: in a text in capitals they are the word.
_ALSO_WORDS = words("IT US LED LA RIP ID")
_SAID_OTHERWISE = {
    "JPEG": "jay peg",
    "JPG": "jay peg",
    "MPEG": "em peg",
    "IEEE": "I triple E",
    "WIFI": "wifi",
}
_SAID_OTHERWISE |= {
    "NOAA": "Noah",
    "NAACP": "N double A C P",
    "AAA": "triple A",
    "OK": "okay",
    "DR": "Doctor",
    "MR": "Mister",
    "MRS": "Missus",
    "SQLITE": "S Q light",
}
# Short words that people put in capitals to stress them; others of up to three letters are spelled.
_STRESSED = words(
    """A I AM AN AS AT BE BY DO GO HE IF IN IS ME MY NO OF OH ON OR SO TO UP WE HI HA AH ADD AGE AGO ALL AND ANY
    ARE ART ASK BAD BAG BED BIG BOY BUT BUY CAN CAR CAT CUT DAD DAY DID DIE DOG DRY EAR EAT END EYE FAR FEW FLY FOR
    FUN GET GOD GOT GUN HAD HAS HER HEY HIM HIS HIT HOT HOW HUH ITS JOB JOY KEY KID LAW LET LIE LOT LOW MAD MAN MAY
    MEN MOM NEW NOT NOW ODD OFF OLD ONE OUR OUT OWN PAY PUT RED RUN SAD SAW SAY SEA SEE SET SHE SIR SIT SIX
    SKY SON SUN TEA TEN THE TOO TOP TRY TWO USE WAR WAS WAY WET WHO WHY WIN WON WOW YES YET YOU"""
)
_VOWELS = "AEIOUY"
# What English words may begin and end with; a run of consonants that is neither marks letters to be spelled.
_ONSETS = words(
    """B BL BR C CH CHR CL CR D DR DW F FL FR G GH GL GN GR H J K KL KN KR L M N P PH PL PR PS QU R RH S SC SCH SCR
    SH SHR SK SL SM SN SP SPH SPL SPR SQU ST STR SW T TH THR TR TW V W WH WR X Y Z"""
)
_CODAS = words(
    """B C CH CHT CK CKS CT CTS D DS DTH F FF FFS FT FTS G GH GHT GHTS GS H K KS L LB LCH LD LDS LF LK LKS LL LLS
    LM LMS LP LPS LS LT LTH LTS LVE M MB MBS MN MP MPS MPT MS N NC NCH ND NDS NG NGS NGTH NK NKS NN NS NT NTH NTS P
    PH PP PS PT PTH PTS R RB RC RCH RD RDS RF RG RK RKS RL RLD RLS RM RMS RN RNS RP RPS RR RS RST RT RTH RTS S SH SK
    SKS SM SMS SP SS ST STS T TCH TH THS TS TT TTS W WD WK WL WN WNS WS X XT Y Z ZZ"""
)

_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_ROMAN = r"(?:M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))"
# A letter after these is a name of its own, not somebody's initial.
_LETTERED = words(
    """vitamin plan grade type group section class hepatitis option team appendix room figure table exhibit part
    block gate terminal platform line point item case level size model letter row column side drive"""
)
_REGNAL = """Henry Louis Charles George William Elizabeth Edward Richard James John Paul Pius Benedict
Francis Nicholas Alexander Catherine Peter Philip Frederick Napoleon Leo Gregory Innocent Clement Ferdinand
Alfonso Carlos Felipe Juan Gustav Christian Haakon Olaf Olav Harald Ramses Ramesses Ptolemy Darius Xerxes Robert
David Malcolm Stephen Otto Wilhelm Friedrich Ivan Leopold Albert Mehmed Murad Selim Constantine Theodosius
Justinian Urban Boniface Celestine Sixtus Julius Adrian Margaret Beatrix Mary Anne Victor Emmanuel Umberto Pedro
Joseph Franz Maximilian Sigismund Ludwig Augustus Thutmose Amenhotep Seti Artaxerxes Philippe Henri Isabella
Joan Theodore Michael Baldwin Bohemond"""
_NUMBERED = """Chapter Part Act Scene Volume Vol Book Section War Phase Type Class Level Stage Article Appendix
Figure Table Title Episode Season Season Bowl Fantasy Unit Grade Category Round Division Group Mark Rocky Model
Apollo Gemini Saturn Quest Schedule Canto Psalm Lesson Block Zone Area Region Tier Sonata Symphony Opus"""
# "George I think so", "Robert I Bouck": the pronoun or an initial, not the first of his name.
_NOT_PRONOUN = (
    rf"(?![IVX]\s+(?!(?:{'|'.join(sorted(STARTERS))})\b)[A-Z][a-z])"
    r"(?!I(?:'|\s+(?:am|have|think|know|will|want|need|love|like|see|say|can|do|don't|must"
    r"|should|may|might|believe|guess|hope|mean|feel|just|never|also|really)\b))"
)


def expand_abbreviations(text: str) -> str:
    """Dr. Smith -> Doctor Smith. A full stop that also ended the sentence stays."""
    for pattern, replacement in _abbreviation_rules():
        text = pattern.sub(replacement, text)
    return text


@lru_cache(maxsize=1)
def _abbreviation_rules():
    def ends(m: re.Match[str]) -> str:
        """The stop to put back when the abbreviation closed the sentence."""
        after = re.match(r"\s+[\"'(]*([A-Z][a-z']*)|\s*[\"')\]]*\s*$", m.string[m.end() : m.end() + 40])
        return "." if after and (after[1] is None or after[1] in STARTERS) else ""

    def street(m: re.Match[str]) -> str:
        return f"{m[1]} {_STREETS[m[2]]}" + (ends(m) if m[3] else "")

    def title(m: re.Match[str]) -> str:
        return _TITLES[m[1].capitalize()] + " " * (not m.string[m.end()].isspace())

    def before_noon(m: re.Match[str]) -> str:
        return m[1].upper() + " M" + (ends(m) if m[0][-1] == "." else "")

    def counted(m: re.Match[str]) -> str:
        return _COUNTED[m[1].lower()] + " "

    def anywhere(m: re.Match[str]) -> str:
        stop = ends(m)
        if m[1].lower() == "etc" and re.match(r"\s+[A-Z]", m.string[m.end() : m.end() + 3]):
            stop = "."
        return _ANYWHERE[m[1].lower()] + stop

    def initials(m: re.Match[str]) -> str:
        letters = m[0].replace(".", "").replace(" ", "")
        return " ".join(letters.upper()) + (ends(m) if m[0].endswith(".") else "")

    def before_name(m: re.Match[str]) -> str:
        word = m[1] or ""
        if word.lower() in _LETTERED or (
            len(word) == 1 and word.isupper()
        ):  # "plan B. Next", "five P M. Then"
            return m[0]
        return f"{word} " * bool(word) + " ".join(re.findall("[A-Z]", m[2])) + " "

    not_starter = rf"(?!(?:{'|'.join(sorted(STARTERS))})\b)"
    street_name = r"[A-Z][a-z]+|\d+(?:st|nd|rd|th)|[A-Z]"
    alternation = lambda names: "|".join(sorted(map(re.escape, names), key=len, reverse=True))  # noqa: E731
    days = alternation(_DAYS)
    titles = alternation([*_TITLES, *map(str.upper, _TITLES)])
    months = {month[:3]: month for month in MONTHS}
    return [
        (re.compile(rf"\b({street_name})\s(St|Dr)\b(?:(\.)|(?!\.))(?!\s+{not_starter}[A-Z][a-z])"), street),
        (re.compile(rf"\b({street_name})\s({alternation(set(_STREETS) - {'St', 'Dr'})})\b(\.)?"), street),
        (re.compile(rf"\b({titles})\b(?:\.\s?(?=[A-Z])|\.(?=\sand\s)|(?=\s+[A-Z]))"), title),
        (
            re.compile(rf"\b({alternation(_RANKS)})\.(?=\s+(?:{not_starter}[A-Z][\w']|[A-Z]\.))"),
            lambda m: _RANKS[m[1]],
        ),
        (re.compile(rf"\b({alternation(_COUNTED)})\.\s*(?=\d|[IVXLC]+\b)", re.I), counted),
        (re.compile(r"\b(Nos?|pp?)\s(?=\d)"), counted),
        (re.compile(rf"\b({alternation(months)}|Sept)\.(?=\s|,|$)"), lambda m: months[m[1][:3]] + ends(m)),
        (re.compile(rf"\b({days})\.?(?=,?\s+(?:{'|'.join(MONTHS)}|\d))"), lambda m: _DAYS[m[1]]),
        (re.compile(rf"\b(?!Sat|Sun)({days})\.(?=[\s,])"), lambda m: _DAYS[m[1]]),
        (re.compile(rf"(?<![\w.])({alternation(_ANYWHERE)})\.(?!\w)", re.I), anywhere),
        (re.compile(r"(?<![\w.])([ap])\.\s?m\b\.?", re.I), before_noon),
        *((re.compile(pattern), replacement) for pattern, replacement in _PLAIN),
        (re.compile(r"(?<![\w.'])(?:(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b\.?)?|(?:[A-Z]{1,2}\.){2,})"), initials),
        (re.compile(rf"(?:\b(\w+)\s)?(?<![\w.'])((?:[A-HJ-Z]\.\s?)+)(?={not_starter}[A-Z][\w'])"), before_name),
    ]  # fmt: skip


def expand_roman(text: str) -> str:
    """Henry VIII -> Henry the eighth; World War II -> World War two. Only after a capitalised word."""
    if not any(letter in text for letter in "IVX"):
        return text
    for pattern, say in _roman_rules():
        text = pattern.sub(lambda m, say=say: f"{m[1]} {say(_roman(m[2]))}" if m[2] else m[0], text)
    return text


@lru_cache(maxsize=1)
def _roman_rules():
    regnal, numbered = "|".join(_REGNAL.split()), "|".join(_NUMBERED.split())
    the = lambda n: "the " + ordinal(n)  # noqa: E731
    return [
        (re.compile(rf"\b({regnal})\s({_NOT_PRONOUN}(?=[IVX]){_ROMAN})\b(?!\.\w)"), the),
        (re.compile(rf"\b({numbered}|{numbered.lower()})\s({_NOT_PRONOUN}(?=[IVXLC]){_ROMAN})\b(?!['’])"), cardinal),
        # After any other name only numerals of two letters or more, which are not a word or an initial.
        (re.compile(r"\b([A-Z][a-z]+)\s(II|III|IV|VI|VII|VIII|IX|XI|XII|XIII|XIV|XV|XVI|XX)\b"), cardinal),
    ]  # fmt: skip


def _roman(text: str) -> int:
    total = 0
    for char, following in zip(text, text[1:] + " ", strict=True):
        value = _ROMAN_VALUES[char]
        total += -value if _ROMAN_VALUES.get(following, 0) > value else value
    return total


def is_shouted(text: str) -> bool:
    """Whether `text` is in capitals throughout: three words of it or a long one."""
    capitals = re.findall(r"\b[A-Z]{2,}\b", text)
    letters = [char for char in text if char.isalpha()]
    many = len(capitals) >= 3 or any(len(word) > 5 for word in capitals)
    return many and sum(map(str.isupper, letters)) > 0.8 * len(letters)


def expand_capitals(text: str, shouted: bool = False) -> str:
    """FBI -> F B I, NASA -> Nasa, STOP -> stop; in a shouted text everything but known initials is a word."""
    text = re.sub(r"\b([A-Z])([A-Z]*'(?:T|LL|RE|VE|M|D))\b", _contraction, text)
    pattern = r"(?<![^\W\d_])[A-Z]{2,}(?![^\W\d_])(?:'(?:s|S|ed|d)\b)?|\b[A-Z]{2,}s\b"
    return re.sub(pattern, lambda m: _say_capitals(m[0], shouted), text)


def _contraction(m: re.Match[str]) -> str:
    return (m[1] if m[1] == "I" else m[1].lower()) + m[2].lower()


def _say_capitals(token: str, shouted: bool) -> str:
    word, apostrophe, ending = token.partition("'")
    if not apostrophe and word[-1] == "s":
        word, ending = word[:-1], "s"
    if len(word) == 1:
        return token
    if word in _SAID_OTHERWISE:
        return _SAID_OTHERWISE[word] + (apostrophe + ending if apostrophe else ending)
    if _is_spelled(word, shouted):
        return " ".join(word) + (f"'{ending.lower()}" if ending else "")
    said = word.capitalize() if word in _ACRONYMS else word.lower()
    return said + (apostrophe + ending.lower() if apostrophe else ending)


def _is_spelled(word: str, shouted: bool) -> bool:
    if word in _INITIALISMS:
        return not (shouted and word in _ALSO_WORDS)
    if word in _ACRONYMS or word in _STRESSED:
        return False
    return (len(word) <= 3 and not shouted) or not _is_pronounceable(word)


def _is_pronounceable(word: str) -> bool:
    """Whether an English word could be spelled so: it has a vowel, begins and ends as English words do."""
    consonants = re.split(f"[{_VOWELS}]+", word)
    if len(consonants) == 1:
        return False
    first, *middle, last = consonants
    if word[0] == "Y" and len(consonants) > 2:
        first = ""
    return (
        (not first or first in _ONSETS or first == "Q")
        and (not last or last in _CODAS)
        and all(len(part) <= 4 for part in middle)
        and not re.search(r"([A-Z])\1\1", word)
    )
