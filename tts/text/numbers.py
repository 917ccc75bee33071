"""Numbers in English words: amounts, years, dates, times, money, units, fractions, telephone numbers.

`say_numbers` goes through the patterns below in order, from those that know most about what a number means (a date, an
amount of money) to the bare number. The words for whole numbers come from num2words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from .english import MONTH, MONTHS

_Say = Callable[[re.Match[str]], str]

# A whole number or decimal; a comma only between groups of three.
_N = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\d\w])\.\d+)"
_NEG = r"(?<![\w.])(?<!\w-)[-+]?"
_LONGEST = 18  # digits: from here on a number is read digit by digit


def _words(n: int, to: str = "cardinal") -> str:
    from num2words import num2words  # seventy languages, which a text without numbers need not wait for

    return num2words(n, to=to)


@lru_cache(maxsize=4096)
def cardinal(n: int) -> str:
    """123 -> one hundred twenty-three."""
    words = _words(abs(n)).replace(",", "").replace(" and ", " ")
    return f"minus {words}" if n < 0 else words


def ordinal(n: int) -> str:
    """21 -> twenty-first."""
    return _words(n, to="ordinal").replace(",", "").replace(" and ", " ")


def digits(text: str) -> str:
    """007 -> zero zero seven; signs that are not digits are left out."""
    return " ".join(cardinal(int(char)) for char in text if char.isdigit())


def year(n: int) -> str:
    """1984 -> nineteen eighty-four; 1905 -> nineteen oh five; 2005 -> two thousand five."""
    century, rest = divmod(n, 100)
    if not 1000 < n < 10000 or (century % 10 == 0 and rest < 10):
        return cardinal(n)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


@lru_cache(maxsize=4096)
def number(text: str) -> str:
    """A number as written: `1,234.50`, `-3`, `.5`, `007`."""
    sign = {"-": "minus ", "+": "plus "}.get(text[:1], "")
    whole, _, decimals = text.lstrip("+-").replace(",", "").partition(".")
    if len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0"):
        words = digits(whole)
    else:
        words = cardinal(int(whole)) if whole else "zero" if decimals else ""
    if not whole:
        words = ""
    return sign + f"{words} point {digits(decimals)}".strip() if decimals else sign + words


def _count(text: str) -> str:
    """A bare whole number: one of four digits without a comma reads as a year does."""
    return year(int(text)) if len(text) == 4 and "1100" <= text <= "2099" else number(text)


# Dates


def _full_date(day: int, month: int, written_year: str | None, of: bool = False) -> str:
    when = f"the {ordinal(day)} of {MONTHS[month - 1]}" if of else f"{MONTHS[month - 1]} {ordinal(day)}"
    return when + (f", {_year_of_date(written_year)}" if written_year else "")


def _year_of_date(written: str) -> str:
    if len(written) == 2:
        written = ("20" if int(written) < 50 else "19") + written
    return year(int(written))


def _month_number(name: str) -> int:
    return [month[:3].lower() for month in MONTHS].index(name[:3].lower()) + 1


def _numeric_date(day_first: bool) -> _Say:
    def say(m: re.Match[str]) -> str:
        first, second = int(m[1]), int(m[3])
        day, month = (first, second) if day_first or m[2] == "." else (second, first)
        if month > 12:
            day, month = month, day
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return m[0]
        return _full_date(day, month, m[4])

    return say


def _iso_date(m: re.Match[str]) -> str:
    month, day = int(m[2]), int(m[3])
    return _full_date(day, month, m[1]) if 1 <= month <= 12 and 1 <= day <= 31 else m[0]


def _month_day(m: re.Match[str]) -> str:
    day = int(m[2])
    if not 1 <= day <= 31:
        return m[0]
    last = f" to {ordinal(int(m[3]))}" if m[3] else ""
    after = f", {_year_of_date(m[4])}" if m[4] else ""
    return f"{MONTHS[_month_number(m[1]) - 1]} {ordinal(day)}{last}{after}"


def _day_month(m: re.Match[str]) -> str:
    day = int(m[2])
    if not 1 <= day <= 31:
        return m[0]
    return _full_date(day, _month_number(m[3]), m[4], of=True)


def _month_year(m: re.Match[str]) -> str:
    return f"{MONTHS[_month_number(m[1]) - 1]} {year(int(m[2]))}"


# Times


def _clock(m: re.Match[str]) -> str:
    hour, minute, second, half = int(m[1]), int(m[2]), m[3], m[4]
    if hour > 24 or minute > 59:
        return f"{cardinal(hour)} to {cardinal(minute)}"
    words = cardinal(hour)
    if minute:
        words += f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif not half and not second:
        words += " o'clock" if 1 <= hour <= 12 else " hundred"
    if second:
        words += f" and {_counted(second.lstrip('0') or '0', 'second', 'seconds')}"
    return words + _half_of_day(half)


def _hour(m: re.Match[str]) -> str:
    return cardinal(int(m[1])) + _half_of_day(m[2])


def _half_of_day(letters: str | None) -> str:
    return f" {letters[0].upper()} M" if letters else ""


# Money

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₿": ("bitcoin", "bitcoins", "", ""),
}
_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "RUB": "₽", "KRW": "₩", "BTC": "₿"}
_COUNTRIES = {"US": "U S ", "A": "Australian ", "AU": "Australian ", "C": "Canadian ", "CA": "Canadian "}
_COUNTRIES |= {"NZ": "New Zealand ", "HK": "Hong Kong ", "S": "Singapore ", "": ""}
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion"}
_SCALES |= {"tn": "trillion"}
_SCALE = r"(?:\s?(thousand|million|billion|trillion|k|mn?|bn?|tn?)\b)?"


def _money(m: re.Match[str]) -> str:
    sign, country, symbol, amount, last, scale, noun = m.groups()
    words = _sum(f"{sign or ''}{amount}", symbol, scale, last, _COUNTRIES[(country or "").upper()])
    one, many = _CURRENCIES[symbol][:2]
    return (
        f"{words.removesuffix(many) + one if words.endswith(many) else words} " if noun else words
    )  # a ten dollar bill


def _money_after(m: re.Match[str]) -> str:
    amount, scale, symbol = m.groups()
    return _sum(amount, _CODES.get(symbol, symbol), scale, None, "")


def _money_code(m: re.Match[str]) -> str:
    return _sum(m[2], _CODES[m[1]], m[3], None, "")


def _sum(amount: str, symbol: str, scale: str | None, last: str | None, country: str) -> str:
    one, many, cent, cents = _CURRENCIES[symbol]
    range_end = f" to {number(last)}" if last else ""
    if scale:
        return f"{number(amount)}{range_end} {_SCALES.get(scale.lower(), scale.lower())} {country}{many}"
    whole, _, part = amount.partition(".")
    if range_end or (part and len(part) != 2) or (part and not cents):
        return f"{number(amount)}{range_end} {country}{many}"
    units = whole.replace(",", "").lstrip("+-")
    small = f"{cardinal(int(part))} {cent if int(part) == 1 else cents}" if part and int(part) else ""
    if small and not int(units or 0):
        return ("minus " if amount[0] == "-" else "") + small
    words = f"{number(whole)} {country}{one if units == '1' else many}"
    return f"{words} and {small}" if small else words


# Units

_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "μm": "micrometer", "nm": "nanometer",
    "mi": "mile", "yd": "yard", "ft": "foot|feet", "in": "inch|inches", "kg": "kilogram", "g": "gram",
    "mg": "milligram", "μg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce", "l": "liter", "L": "liter",
    "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "dl": "deciliter", "gal": "gallon", "ha": "hectare",
    "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "s": "second", "sec": "second",
    "secs": "second", "ms": "millisecond", "μs": "microsecond", "ns": "nanosecond", "Hz": "hertz|hertz",
    "kHz": "kilohertz|kilohertz", "MHz": "megahertz|megahertz", "GHz": "gigahertz|gigahertz", "B": "byte",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte",
    "kbps": "kilobit per second|kilobits per second", "Mbps": "megabit per second|megabits per second",
    "Gbps": "gigabit per second|gigabits per second", "W": "watt", "kW": "kilowatt", "MW": "megawatt",
    "GW": "gigawatt", "kWh": "kilowatt hour", "Wh": "watt hour", "V": "volt", "kV": "kilovolt", "mV": "millivolt",
    "A": "ampere", "mA": "milliampere", "mAh": "milliampere hour", "J": "joule", "kJ": "kilojoule",
    "kcal": "kilocalorie", "cal": "calorie", "N": "newton", "Pa": "pascal", "kPa": "kilopascal", "hPa": "hectopascal",
    "psi": "P S I|P S I", "dB": "decibel", "K": "kelvin|kelvin", "mph": "mile per hour|miles per hour",
    "kph": "kilometer per hour|kilometers per hour", "kmh": "kilometer per hour|kilometers per hour",
    "rpm": "revolution per minute|revolutions per minute", "fps": "frame per second|frames per second",
    "bpm": "beat per minute|beats per minute", "dpi": "dot per inch|dots per inch", "px": "pixel", "mol": "mole",
    "°C": "degree Celsius|degrees Celsius", "°F": "degree Fahrenheit|degrees Fahrenheit", "°": "degree",
    "°K": "kelvin|kelvin", "%": "percent|percent", "Ω": "ohm", "kΩ": "kilohm", "bps": "bit per second|bits per second",
    "x": "times|times", "×": "times|times", "Å": "angstrom", "lm": "lumen", "MP": "megapixel", "pt": "point",
    "sq ft": "square foot|square feet", "sq mi": "square mile", "sq m": "square meter", "sq km": "square kilometer",
    "cc": "cubic centimeter", "ppm": "part per million|parts per million", "pH": "P H|P H", "\"": "inch|inches",
}  # fmt: skip
# With a space between, these are words or letters more often than units ("5 in the morning", "room 5 A").
_TOUCHING = {"in", "A", "K", "x", "B", "N", "J", '"', "pt"}
_UNIT = "|".join(sorted((re.escape(u).replace(r"\ ", r"\.? ") for u in _UNITS), key=len, reverse=True))
_PER = r"(?:km|m|cm|mm|ft|kg|g|mg|lb|l|L|ml|mL|h|hr|min|s|sec|day|week|month|year|hour|minute|second|person|dl|gal)"


def _names(unit: str) -> tuple[str, str]:
    one, _, many = _UNITS[unit].partition("|")
    return one, many or one + "s"


def _measure(m: re.Match[str]) -> str:
    amount, last, gap, unit, power, per, stop = m.groups()
    unit = unit.replace(".", "")
    abbreviated = stop == ". "
    if (unit in _TOUCHING and gap and not (abbreviated or power or per)) or (unit == "K" and not gap):
        return m[0]
    if unit == '"' and m.string.count('"', 0, m.start()) % 2:  # it closes a quotation
        return m[0]
    one, many = _names(unit)
    if power:
        raised = _RAISED[power[-1]]
        one, many = raised + one, raised + many
    end = (last or amount).lstrip("+-")
    words = number(amount) + (f" to {number(last)}" if last else "") + " " + (one if end == "1" else many)
    if per:
        name = per.rstrip("^23²³")
        raised = _RAISED.get(per[-1], "")
        squared = name in ("s", "sec", "min", "h")  # per second squared, but per square meter
        name = _names(name)[0] if name in _UNITS else name
        words += f" per {name} {raised.strip()}d" if raised and squared else f" per {raised}{name}"
    # An abbreviation's full stop goes, a sentence's stays.
    return words + (" " if abbreviated else stop or "")


_RAISED = {"2": "square ", "²": "square ", "3": "cubic ", "³": "cubic "}


def _counted(amount: str, one: str, many: str) -> str:
    return f"{number(amount)} {one if amount == '1' else many}"


def _feet_and_inches(m: re.Match[str]) -> str:
    return f"{cardinal(int(m[1]))} {'foot' if m[1] == '1' else 'feet'} {number(m[2])}"


# Fractions

_DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_FRACTION_DENOMINATORS = {*range(2, 11), 12, 16, 20, 25, 32, 64, 100, 1000}


def _fraction(m: re.Match[str]) -> str:
    whole, top, bottom = m[1], int(m[2]), int(m[3])
    if bottom not in _FRACTION_DENOMINATORS or top >= bottom:
        words = f"{cardinal(top)} {'over' if whole else 'slash'} {cardinal(bottom)}"
    else:
        one, many = _DENOMINATORS.get(bottom, (ordinal(bottom), ordinal(bottom) + "s"))
        words = f"{cardinal(top)} {one if top == 1 else many}"
        if whole and top == 1:
            words = f"a {one}" if bottom in (2, 4) else words
    return f"{number(whole)} and {words}" if whole else words


# The rest


def _phone(m: re.Match[str]) -> str:
    groups = re.findall(r"\d+", m[0])
    return ("plus " if m[0].startswith("+") else "") + ", ".join(map(digits, groups))


def _decade(m: re.Match[str]) -> str:
    text = m[1]
    if len(text) == 4 and text[2:] != "00":
        words = year(int(text))
    elif len(text) == 4:
        words = cardinal(int(text)) if text[1] == "0" else f"{cardinal(int(text[:2]))} hundred"
    else:
        words = cardinal(int(text))
    return _plural(words)


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def _power_of(m: re.Match[str]) -> str:
    names = {"2": "squared", "3": "cubed"}
    base = number(m[1]) if m[1][-1].isdigit() else m[1]
    return f"{base} {names.get(m[2], f'to the power of {number(m[2])}')}"


def _scientific(m: re.Match[str]) -> str:
    return f"{number(m[1])} times ten to the power of {number(m[2].lstrip('+'))}"


def _dotted(m: re.Match[str]) -> str:
    return " point ".join(number(part) for part in m[0].split("."))


def _operation(m: re.Match[str]) -> str:
    names = {
        "+": "plus",
        "-": "minus",
        "*": "times",
        "×": "times",
        "÷": "divided by",
        "=": "equals",
        "/": "divided by",
    }
    names |= {
        "<": "is less than",
        ">": "is greater than",
        "≤": "is at most",
        "≥": "is at least",
        "≈": "is about",
    }
    names |= {"≠": "is not equal to", "±": "plus or minus", "x": "by", "−": "minus", "~": "is about"}
    return f" {names[m[1] or m[2]]} "


def _alphanumeric(m: re.Match[str]) -> str:
    """Numbers in a code: MP3, A4, COVID-19, B52, 3D."""
    spaced = re.sub(r"(?<=[^\W\d_])-?(?=\d)|(?<=\d)-?(?=[^\W\d_])", " ", m[0])
    said = re.sub(r"\d+", lambda n: number(n[0]) if len(n[0]) <= 4 else digits(n[0]), spaced)
    return _plural(said[:-2]) if re.search(r"\d'?s$", m[0]) else said


def _rules(day_first: bool) -> list[tuple[str, _Say, int]]:
    end = r"(?![\w/]|[.,]\d)"
    half = r"([AaPp])\.?\s?[Mm]\b(?:\.(?!\s*$|\s+[A-Z\"]))?"
    year4 = r"(1[0-9]\d\d|20\d\d)"
    return [
        (r"#\s?(?=\d)", lambda m: "number ", 0),
        (rf"\d{{{_LONGEST + 1},}}", lambda m: digits(m[0]), 0),
        (r"(?<![\d.-])(\d{4})-(\d\d)-(\d\d)(?=T\d|(?![\w-]))", _iso_date, 0),
        (r"(?<=[a-z])T(?=\d\d:\d\d)", lambda m: " at ", 0),
        (rf"(?<![\w/.-])(\d{{1,2}})([/.])(\d{{1,2}})\2((?:1[5-9]|20)\d\d|\d\d){end}", _numeric_date(day_first), 0),
        (
            rf"\b({MONTH})\s(\d{{1,2}})(?:st|nd|rd|th)?\b(?:\s?-\s?(\d{{1,2}})\b)?(?:,?\s{year4}\b)?(?![:%])",
            _month_day,
            0,
        ),
        (rf"(\b[Tt]he\s)?\b(\d{{1,2}})(?:st|nd|rd|th)?(?:\sof)?\s({MONTH})(?![a-z])(?:,?\s{year4}\b)?", _day_month, 0),
        (rf"\b({MONTH}),?\s{year4}\b", _month_year, 0),
        # Times: with minutes, then a bare hour with a.m. or p.m.
        (rf"(?<![\d:.,])(\d{{1,2}}):(\d\d)(?::(\d\d))?(?![\d:])(?:\s?{half})?", _clock, 0),
        (rf"(?<![\d:.,])(\d{{1,2}})\s?{half}", _hour, 0),
        (r"(?<![\w:.])(\d+):(\d+)(?![\w:])", lambda m: f"{number(m[1])} to {number(m[2])}", 0),
        (r"(?<=\b[A-Z]{2}\s)\d{5}(?:-\d{4})?(?![\w-])", lambda m: digits(m[0]), 0),  # a ZIP code
        # Telephone numbers before anything that would take their groups for something else.
        (r"(?<![\w.,-])(?:\+\d{1,3}[\s.-]?)?(?:\(\d{2,5}\)\s?|\b\d{3}[-.\s])\d{3}[-.\s]\d{4}(?![\w-])", _phone, 0),
        (r"(?<![\w.,-])1-\d{3}-\d{3}-\d{4}(?![\w-])|(?<![\w.,-])\d{3}-\d{4}(?![\w-])", _phone, 0),
        (r"(?<![\w.,-])\+\d{1,3}(?:[\s.-]?\(?\d{1,5}\)?){2,6}(?![\w-])", _phone, 0),
        # Money
        (
            rf"([-+])?(?:\b(US|AU?|CA?|NZ|HK|S))?([$€£¥₹₽₩₿])\s?({_N})(?:(?:-|\s-\s)[$€£¥]?({_N}))?{_SCALE}"
            r"(\s(?=(?:bill|note|coin|fee|fine|prize|ticket|gift|check|cheque|loan|tip)s?\b))?",
            _money,
            re.IGNORECASE,
        ),
        (rf"({_N}){_SCALE}\s?([€£¥₹₽₩₿]|(?:USD|EUR|GBP|JPY|INR|RUB|KRW|BTC)\b)", _money_after, 0),
        (rf"\b(USD|EUR|GBP|JPY|INR|RUB|KRW|BTC)\s?({_N}){_SCALE}", _money_code, 0),
        (rf"({_N})\s?¢", lambda m: _counted(m[1], "cent", "cents"), 0),
        # Decades, fractions, sizes
        (r"(?<!\w)'?(\d\d(?:\d0|0)?)'?s\b", lambda m: _decade(m) if m[1][-1] == "0" else m[0], 0),
        (rf"({_N})\^(-?\d+)", _power_of, 0),
        (r"(?<=\d)()([-/])(?=\d+\s?=)", _operation, 0),
        (r"\b24/7\b", lambda m: "twenty-four seven", 0),
        (r"\b9/11\b", lambda m: "nine eleven", 0),
        (r"(?<![\w/.])(?:(\d+)[\s-])?(\d{1,3})/(\d{1,4})(?![\w/]|\.\d)", _fraction, 0),
        (r"(?<![\w.])(\d)'\s?(\d{1,2})(?:\"|''|\b)(?!\w)", _feet_and_inches, 0),
        (rf"({_N})\s?[x×]\s?(?={_N})", lambda m: f"{number(m[1])} by ", 0),
        (rf"({_N})[eE]([-+]?\d+)\b", _scientific, 0),
        # A house and its letter, before units: 221B Baker Street
        (
            r"\b(\d{1,5})([A-Z])(?=\s(?:[A-Z][\w'-]*\s){1,3}"
            r"(?:Street|Road|Avenue|Lane|Drive|Court|Place|Square|Boulevard|Terrace|Way)\b)",
            lambda m: f"{number(m[1])} {m[2]}",
            0,
        ),
        (
            rf"({_NEG}{_N})(?:\s?(?:-|to)\s?({_N}))?(\s|-)?({_UNIT})(\^?[23²³])?(?:/({_PER}(?:\^?[23²³])?))?"
            r"(?![\w°^])(\.\s(?=[a-z])|\.(?=\s|$))?",
            _measure,
            0,
        ),
        (r"\b([^\W\d_])\^(-?\d+)", _power_of, 0),
        (r"(?<=\d)\s?([+*×÷=<>≤≥≈≠±])\s?(?=[-+]?[\d(])|(?<=\d)\s([-/x])\s(?=\d)", _operation, 0),
        (r"(?<![\w.])[vV](?=\d+(?:\.\d+)+(?!\w))", lambda m: "version ", 0),
        (r"(?<![\w.])\d+(?:\.\d+){2,}(?![\w.]*\d)", _dotted, 0),
        # Ordinals, ranges, codes, what is left
        (r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1].replace(",", ""))), re.IGNORECASE),
        (rf"(?<![\w-])({_N})\s?[-–]\s?({_N})(?![\w-])", lambda m: f"{_plain(m[1])} to {_plain(m[2])}", 0),
        (r"(?<!\w)(?:[^\W\d_]{1,6}-?\d{1,4}[^\W\d_]{0,3}|\d{1,4}[A-Z][^\W\d_]{0,2})(?![\w-])", _alphanumeric, 0),
        (r"(?<![\w.])\.(?=\d)", lambda m: "point ", 0),
        (r"(?:(?<=[\s(\"])|^)[-+](?=\d)", lambda m: "minus " if m[0] == "-" else "plus ", 0),
        (rf"(?<!\d)({_N})", lambda m: _spaced(m, _plain(m[1])), 0),
        (r"\d+", lambda m: _spaced(m, number(m[0])), 0),
    ]  # fmt: skip


def _spaced(m: re.Match[str], words: str) -> str:
    """Apart from letters that touched the number."""
    before, after = m.string[m.start() - 1 : m.start()], m.string[m.end() : m.end() + 1]
    return " " * before.isalnum() + words + " " * after.isalnum()


def _plain(text: str) -> str:
    return _count(text) if text.isdigit() else number(text)


@lru_cache(maxsize=2)
def _compiled(day_first: bool) -> list[tuple[re.Pattern[str], _Say]]:
    return [(re.compile(pattern, flags), say) for pattern, say, flags in _rules(day_first)]


def say_numbers(text: str, day_first: bool = False) -> str:
    """`text` with every digit said in words. day_first: 3/4 is the third of April (British), not March fourth."""
    if not any(char.isdigit() for char in text):
        return text
    for pattern, say in _compiled(day_first):
        text = pattern.sub(say, text)
    return text
