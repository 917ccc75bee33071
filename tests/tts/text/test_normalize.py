"""Normalisation, sentence by sentence: what is written, and what must be said."""

import re
import time

import pytest
from myna.errors import InputError
from myna.tts.text.cleaning import clean
from myna.tts.text.lexicon import Lexicon
from myna.tts.text.normalize import normalize, prepare_text

NUMBERS = [
    ("I have 3 cats.", "I have three cats."),
    ("1,234,567 people", "one million two hundred thirty-four thousand five hundred sixty-seven people."),
    ("3.14 and .5", "three point one four and point five."),
    ("-3 and 5 - 2 = 3", "minus three and five minus two equals three."),
    ("agent 007", "agent zero zero seven."),
    ("12345678901234567890", "one two three four five six seven eight nine zero " * 2),
    ("Version 2.0.1 is out", "Version two point zero point one is out."),
    ("6.02e23", "six point zero two times ten to the power of twenty-three."),
    ("10^5 and x²", "ten to the power of five and x squared."),
    (
        "2+2=4, 10/2=5, 7-3=4",
        "two plus two equals four, ten divided by two equals five, seven minus three equals four.",
    ),
    ("pages 10-20", "pages ten to twenty."),
    ("won 3-2", "won three to two."),
    ("a 4-year-old", "a four-year-old."),
    ("MP3, A4, COVID-19, 3D, B52s", "M P three, A four, Covid nineteen, three D, B fifty-twos."),
    ("H2O", "H two O."),
    ("10x20 cm", "ten by twenty centimeters."),
    ("5k", "five k."),
    # years
    ("In 1984 it was.", "In nineteen eighty-four it was."),
    ("in 1905, 1900 and 2005", "in nineteen oh five, nineteen hundred and two thousand five."),
    ("2000 and 2024", "two thousand and twenty twenty-four."),
    ("1990-1995", "nineteen ninety to nineteen ninety-five."),
    ("the 1990s, the '80s and the 1800s", "the nineteen nineties, the eighties and the eighteen hundreds."),
    ("in her 30s", "in her thirties."),
    # ordinals and fractions
    ("1st, 22nd, 103rd", "first, twenty-second, one hundred third."),
    ("1/2 and 3/4 and 5/8", "one half and three quarters and five eighths."),
    ("2 1/2 cups", "two and a half cups."),
    ("½ of it, 1¾ cups", "one half of it, one and three quarters cups."),
    ("24/7", "twenty-four seven."),
]
MONEY = [
    ("$5", "five dollars."),
    ("$1", "one dollar."),
    ("$5.50", "five dollars and fifty cents."),
    ("$1.01", "one dollar and one cent."),
    ("$0.99", "ninety-nine cents."),
    ("$1,234", "one thousand two hundred thirty-four dollars."),
    ("$1.2 million", "one point two million dollars."),
    ("$3bn and £2m", "three billion dollars and two million pounds."),
    ("$5-10", "five to ten dollars."),
    ("-$5", "minus five dollars."),
    ("£20, 5€, ¥100", "twenty pounds, five euros, one hundred yen."),
    ("£1.50", "one pound and fifty pence."),
    ("EUR 5 or 5 USD", "five euros or five dollars."),
    ("20¢", "twenty cents."),
    ("a $10 bill", "a ten dollar bill."),
    ("US$5 and A$7", "five U S dollars and seven Australian dollars."),
]
DATES = [
    ("2024-03-15", "March fifteenth, twenty twenty-four."),
    ("on 3/4/2024", "on March fourth, twenty twenty-four."),
    ("on 15/3/2024", "on March fifteenth, twenty twenty-four."),
    ("15.03.2024", "March fifteenth, twenty twenty-four."),
    ("Mar. 15, 2024", "March fifteenth, twenty twenty-four."),
    ("March 3rd", "March third."),
    ("on 4 July 1776", "on the fourth of July, seventeen seventy-six."),
    ("the 4th of July", "the fourth of July."),
    ("June 2021", "June twenty twenty-one."),
    ("Dec 25", "December twenty-fifth."),
    ("Mon., Jan. 5", "Monday, January fifth."),
    ("13/13/2024", "thirteen slash thirteen slash twenty twenty-four."),
    # times
    ("at 12:30", "at twelve thirty."),
    ("at 5:00", "at five o'clock."),
    ("at 5:00 pm", "at five P M."),
    ("5pm or 5 p.m. today", "five P M or five P M today."),
    ("I met him at 5 p.m. He left.", "I met him at five P M. He left."),
    ("at 3:05 a.m.", "at three oh five A M."),
    ("14:00", "fourteen hundred."),
    ("10:30:01", "ten thirty and one second."),
    ("16:9", "sixteen to nine."),
]
UNITS = [
    ("5%", "five percent."),
    ("5-10%", "five to ten percent."),
    ("5km and 1 kg", "five kilometers and one kilogram."),
    ("10 m/s", "ten meters per second."),
    ("9.8 m/s²", "nine point eight meters per second squared."),
    ("60 mph", "sixty miles per hour."),
    (
        "20°C, -5 °C, 72°F",
        "twenty degrees Celsius, minus five degrees Celsius, seventy-two degrees Fahrenheit.",
    ),
    ("100 m²", "one hundred square meters."),
    ("80 kg/m³", "eighty kilograms per cubic meter."),
    ("3.5 GHz and 16 GB", "three point five gigahertz and sixteen gigabytes."),
    ("6'2\" tall", "six feet two tall."),
    ("5 in the morning", "five in the morning."),
    ("12 in. tall", "twelve inches tall."),
    ('he said "at 2" twice', 'he said "at two" twice.'),
]
ABBREVIATIONS = [
    ("Dr. Smith and Mr. Jones", "Doctor Smith and Mister Jones."),
    ("Mr. and Mrs. Jones", "Mister and Missus Jones."),
    ("5 Main St. The house", "five Main Street. The house."),
    ("St. Mary's church", "Saint Mary's church."),
    ("on King Dr. near Elm Ave.", "on King Drive near Elm Avenue."),
    ("cats, dogs, etc.", "cats, dogs, et cetera."),
    ("cats, etc. They left.", "cats, et cetera. They left."),
    ("e.g. this, i.e. that", "for example this, that is that."),
    ("cats vs. dogs", "cats versus dogs."),
    ("Apple Inc. was", "Apple Incorporated was."),
    ("Acme Corp. The end", "Acme Corporation. The end."),
    ("No. 5 and vol. II", "number five and volume two."),
    ("He said no. Then he left.", "He said no. Then he left."),
    ("Gen. Lee, Jr.", "General Lee, Junior."),
    ("The Hon. H. G. Bennet, Col. J. Ward", "The Honorable H G Bennet, Colonel J Ward."),
    ("the Rev. A. Smith", "the Reverend A Smith."),
    ("Messrs. Longman", "Messers Longman."),
    ("Look at that rep. He lifts.", "Look at that rep. He lifts."),
    ("J. R. R. Tolkien", "J R R Tolkien."),
    ("Plan B. Then we go.", "Plan B. Then we go."),
    ("the U.S. Army", "the U S Army."),
    ("I love the U.S. It is big.", "I love the U S. It is big."),
    ("a Ph.D. student", "a P H D student."),
    ("w/o sugar, w/ milk", "without sugar, with milk."),
    ("OK, ok, O.K.", "okay, okay, okay."),
    # roman numerals
    ("Henry VIII and Louis XIV", "Henry the eighth and Louis the fourteenth."),
    ("Elizabeth I was queen.", "Elizabeth the first was queen."),
    ("George I think so.", "George I think so."),
    ("Robert I Bouck", "Robert I Bouck."),
    ("World War II", "World War two."),
    ("Chapter IV", "Chapter four."),
    ("I am. Vitamin C is.", "I am. Vitamin C is."),
]
CAPITALS = [
    ("The FBI and the CIA's men", "The F B I and the C I A's men."),
    ("NASA and UNESCO", "Nasa and Unesco."),
    ("STOP it NOW", "stop it now."),
    ("HTML and a JPEG", "H T M L and a jay peg."),
    ("two DVDs", "two D V D's."),
    ("A B C", "A B C."),
    ("THIS IS ALL SHOUTED AND THE FBI KNOWS.", "this is all shouted and the F B I knows."),
    ("I DON'T know", "I don't know."),
    ("USA!", "U S A!"),
    ("XKCD, GRPC", "X K C D, G R P C."),
    ("MR. SMITH", "Mister smith."),
]
ADDRESSES = [
    ("john.doe_9@example.com", "john dot doe underscore nine at example dot com."),
    ("https://www.example.com/a-b", "W W W dot example dot com slash a dash B."),
    ("see example.org.", "see example dot org."),
    ("bbc.co.uk", "B B C dot co dot U K."),
    ("report.pdf", "report dot P D F."),
    ("#MakeItSo @user", "hashtag Make It So at user."),
    ("555-123-4567", "five five five, one two three, four five six seven."),
    ("+1 (555) 123-4567", "plus one, five five five, one two three, four five six seven."),
    ("221B Baker St., 12A High Road", "two hundred twenty-one B Baker Street, twelve A High Road."),
    ("New York, NY 10001", "New York, N Y one zero zero zero one."),
]
SIGNS = [
    ("R&D", "R and D."),
    ("salt & pepper", "salt and pepper."),
    ("me @ home", "me at home."),
    ("C++ and C#", "C plus plus and C sharp."),
    ("a + b = c", "a plus b equals c."),
    ("3 < 5", "three is less than five."),
    ("v2.3.4 and V1.5", "version two point three point four and version one point five."),
    ("track #5", "track number five."),
    ("AC/DC and/or", "A C slash D C and or."),
    ("π is", "pi is."),
    ("~10", "about ten."),
    ("it was (I think) good", "it was, I think, good."),
    ("Wait... what?!", "Wait… what?!"),
    ("no!!!", "no!"),
    ("He left -- fast", "He left — fast."),
    ("“curly” ‘quotes’", "\"curly\" 'quotes'."),
]
MARKUP = [
    ("<b>Bold</b> text", "Bold text."),
    ('<speak>Hello<break time="500ms"/>world</speak>', "Hello, world."),
    ("<p>One</p><p>Two</p>", "One.\nTwo."),
    ("<script>alert(1)</script>Hi", "Hi."),
    ("a &amp; b", "a and b."),
    ("**bold** and _it_ and `code`", "bold and it and code."),
    ("# Title\n\nText here.", "Title.\nText here."),
    ("- one\n- two", "one.\ntwo."),
    ("a [link](http://x.com) here", "a link here."),
    ("I ❤️ you 😀!", "I you!"),
    ("flag 🇩🇪 👩‍👩‍👧 end", "flag end."),
    ("zero\u200bwidth\u00ad \x07bell \u202ertl", "zerowidth bell rtl."),
    ("a \x1b[31mred\x1b[0m and\x1b]0;title\x07 bare \x1bM log", "a red and bare log."),
    ("ｆｕｌｌ　ｗｉｄｔｈ", "full width."),
    ("hard\nwrapped\r\nlines", "hard wrapped lines."),
    ("Z̸̡̧̢̛a̴l̷go", None),
]
TABLE = NUMBERS + MONEY + DATES + UNITS + ABBREVIATIONS + CAPITALS + ADDRESSES + SIGNS + MARKUP


@pytest.mark.parametrize(
    ("written", "said"), [row for row in TABLE if row[1]], ids=[row[0] for row in TABLE if row[1]]
)
def test_said(written, said):
    assert normalize(written) == (said.strip() + "." if said.endswith(" ") else said)


@pytest.mark.parametrize("written", [row[0] for row in TABLE])
def test_nothing_is_left_for_espeak_to_guess(written):
    """No digit, no sign that it would name in its own way; and what is said is said the same once more."""
    said = normalize(written)
    assert re.fullmatch(r"[A-Za-z\u00c0-\u024f\u0300-\u036f\s.,?!;:…—\"'-]+", said), said
    assert normalize(said).lower() == said.replace("\n", " ").lower()


def test_british_dates_have_the_day_first():
    assert normalize("3/4/2024", "en-gb") == "April third, twenty twenty-four."


def test_other_languages_are_cleaned_only():
    assert normalize("<b>Am 3. Mai</b> kostet es 5 € 😀", "de") == "Am 3. Mai kostet es 5 €."


def test_lexicon_words_pass_untouched():
    lexicon = Lexicon.of({"SQL": "sequel", "Dr.": "doctor", "3M": "three em"})
    assert normalize("SQL at 3M and XML", lexicon=lexicon) == "SQL at 3M and X M L."


@pytest.mark.parametrize(
    "text", ["", "   \n", "...", "?!", "😀🎉", "<b></b>", "—", "\x00\x01", "***", "<break/>", "\u200b"]
)
def test_nothing_to_say_is_one_line(text):
    with pytest.raises(InputError) as error:
        prepare_text(text)
    assert "\n" not in str(error.value)
    assert "at least one word" in str(error.value)


def test_prepared_sentences():
    text = "Dr. Smith paid $5. Did he? “Yes,” he said.\n\nThe end"
    assert prepare_text(text) == ["Doctor Smith paid five dollars.", "Did he?", '"Yes," he said.', "The end."]


HOSTILE = [
    "1" * 9,
    "1-",
    "a.",
    "<a ",
    "!?",
    "a@",
    "$1 ",
    "+1 ",
    "http://",
    "[a",
    "*a",
    " ",
    "\n ",
    '"',
    "A",
    "e\u0301",
    "Aa1",
    "1/2 ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_grows_with_the_length_and_not_faster(unit):
    """Processor time, and a bound far above what it takes, so that only a quadratic rule can fail."""
    text = (unit * (20_000 // len(unit) + 1)) + " end"
    start = time.process_time()
    assert prepare_text(text)
    assert time.process_time() - start < 3


def test_clean_keeps_letters_of_every_script():
    text = "Grüße, 你好 мир नमस्ते."
    assert clean(text) == text
