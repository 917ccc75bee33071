"""A user's lexicon: both formats, what matches, and one line for everything that is wrong."""

import json

import pytest
from myna.errors import InputError
from myna.tts.text.lexicon import Lexicon


@pytest.fixture
def written(tmp_path):
    def write(text, name="words.tsv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_tsv(written):
    lexicon = Lexicon.load(written("# names\nMyna\t/mˈaɪnə/\n\nSQL\tsequel\nNew York\tnoo yawk\r\n"))
    assert lexicon["Myna"].ipa == "mˈaɪnə"
    assert lexicon["SQL"].respelling == "sequel"
    assert [m[0] for m in lexicon.find("Myna in New  York, not Mynas.")] == ["Myna", "New  York"]


def test_json(written):
    lexicon = Lexicon.load(written(json.dumps({"Myna": "mˈaɪnə", "gif": "jif"}), "words.json"))
    assert lexicon["GIF"].respelling == "jif"
    assert lexicon["Myna"].ipa == "mˈaɪnə"


def test_a_capital_matches_as_written_only():
    lexicon = Lexicon.of({"Polish": "poʊlɪʃ", "live": "lyve"})
    assert [m[0] for m in lexicon.find("Polish polish Live LIVE")] == ["Polish", "Live", "LIVE"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Myna\n", "line 1"),
        ("a\tb\nword\tone\ttwo\n", "line 2"),
        ("a\tb\n# c\nword\t\n", "line 3"),
        ("a\tb\n\tword\n", "line 2"),
        ("a\t/h語/\n", "line 1"),
        ("a\tb\na\tc\n", "line 2"),
        ("a\t...\n", "line 1"),
        ("a\t//\n", "line 1"),
        ("?\tword\n", "line 1"),
        ('{"a": "b",\n"c": 3}', "line 2"),
        ('{"a": "b",\n"c" "d"}', "line 2"),
        ('{"a": "b",\n\n"ü": ""}', "line 3"),
        ('["a"]', "line 1"),
        ('{"a": {"b": "c"}}', "line 1"),
    ],
)
def test_errors_name_the_line(written, text, line):
    with pytest.raises(InputError) as error:
        Lexicon.load(written(text))
    message = str(error.value)
    assert line in message
    assert "\n" not in message
    assert "expected" in message or "remove" in message


def test_files_that_cannot_be_read(written, tmp_path):
    with pytest.raises(InputError, match="cannot read the lexicon"):
        Lexicon.load(tmp_path / "nowhere.tsv")
    with pytest.raises(InputError, match="UTF-8"):
        Lexicon.load(written(b"\xff\xfe\x00a"))


def test_an_empty_lexicon_finds_nothing(written):
    assert list(Lexicon.load(written("")).find("any text")) == []
    assert list(Lexicon().find("any text")) == []
