"""A unit through the pipeline, in this process."""

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from myna.preparation.readers import read_folder
from myna.preparation.records import Recording
from myna.preparation.unit import Pipeline, UnitResult, plan

RATE = 16000


def run(folder, options, recogniser):
    listing = read_folder(folder, "auto", options.source)
    (unit,) = plan(folder, listing.recordings, options)
    file = io.BytesIO()
    made = Pipeline(folder, options, recogniser).run(unit, file)
    return made, file.getvalue()


def test_pieces_have_their_facts_and_their_sound(folder, options, script):
    made, data = run(folder, options, script(**{"4": "four seconds"})(options))
    pieces = {piece.path: piece for piece in made.pieces}
    assert set(pieces) == {"a/one.wav", "a/two.flac", "b/three.ogg", "b/four.wav"}
    two = pieces["a/two.flac"]
    assert (two.text, two.text_from, two.language, two.logprob) == ("four seconds", "heard", "en", -0.25)
    assert two.key == "test_a_two-0000"
    for piece in made.pieces:
        wav, rate = soundfile.read(io.BytesIO(data[piece.offset : piece.offset + piece.size]))
        assert rate == piece.rate == 16000
        assert len(wav) / rate == pytest.approx(piece.duration, abs=1e-3)
        assert piece.loudness + piece.gain_db == pytest.approx(-23, abs=0.02)
    assert {(one.path, one.reason) for one in made.dropped} == {
        ("silence.wav", "no speech"),
        ("c/bad.wav", "unreadable"),
        ("c/five.wav", "text disagrees"),
    }
    assert not any(str(folder) in one.detail for one in made.dropped)
    assert made.seconds == pytest.approx(2 + 4 + 3 + 6 + 5 + 3, abs=0.1)


def test_a_given_text_that_agrees_is_kept(folder, options, script):
    made, _ = run(folder, options, script(**{"5": "Words of FIVE!"})(options))
    (five,) = [piece for piece in made.pieces if piece.path == "c/five.wav"]
    assert (five.text, five.text_from, five.cer, five.rate) == ("words of five", "given", 0.0, 8000)


def test_without_a_model_texts_are_believed_and_the_rest_has_none(folder, options):
    made, _ = run(folder, replace(options, model=None), None)
    texts = {piece.path: (piece.text, piece.text_from) for piece in made.pieces}
    assert texts["c/five.wav"] == ("words of five", "given")
    assert texts["a/one.wav"] == (None, None)


def test_a_long_recording_with_one_text_is_cut_and_checked(tmp_path, save, speech, options, script):
    pause = np.zeros(2 * RATE, np.float32)
    parts = [speech[: 2 * RATE], speech[:RATE], pause, speech[: 5 * RATE], pause, speech[: 6 * RATE]]
    save(tmp_path / "in" / "long.wav", np.concatenate([*parts, pause, speech[: 4 * RATE], pause * 1]))
    text = "The first of them. The second is longer, is it not? And here is the third. Never said at all."
    (tmp_path / "in" / "long.txt").write_text(text)
    heard = {
        "3": "the first of them",
        "5": "the second is longer is it not",
        "6": "and here's the third",
        "4": "hm",
    }
    made, _ = run(tmp_path / "in", replace(options, max_seconds=10.0), script(**heard)(options))
    assert [(piece.text, piece.text_from) for piece in made.pieces] == [
        ("The first of them.", "given"),
        ("The second is longer, is it not?", "given"),
    ]
    assert made.pieces[0].cer == 0
    # The words that were not heard stand in one of the last two, and nothing is left for the other.
    assert [one.reason for one in made.dropped] == ["text disagrees"] * 2


def test_a_long_text_that_cannot_be_placed_is_not_guessed(tmp_path, save, speech, options):
    pause = np.zeros(2 * RATE, np.float32)
    save(tmp_path / "in" / "long.wav", np.concatenate([speech, pause, speech]))
    (tmp_path / "in" / "long.txt").write_text("a text of both")
    made, _ = run(tmp_path / "in", replace(options, model=None, max_seconds=10.0), None)
    assert made.pieces == []
    assert {one.reason for one in made.dropped} == {"text not placed"}


def test_a_file_that_breaks_in_its_middle_gives_nothing(tmp_path, save, speech, options, script):
    save(tmp_path / "in" / "whole.flac", np.concatenate([speech] * 4))
    data = (tmp_path / "in" / "whole.flac").read_bytes()
    (tmp_path / "in" / "cut.flac").write_bytes(data[: len(data) // 2])
    made, _ = run(tmp_path / "in", options, script()(options))
    assert {piece.path for piece in made.pieces} == {"whole.flac"}
    assert [(one.path, one.reason) for one in made.dropped if one.start is None] == [
        ("cut.flac", "unreadable")
    ]


@pytest.mark.parametrize(
    ("changes", "reason"), [({"languages": ("de",)}, "language"), ({"min_logprob": -0.1}, "unsure")]
)
def test_pieces_are_dropped_for_the_reasons_asked_for(folder, options, script, changes, reason):
    made, _ = run(folder, replace(options, **changes), script()(options))
    assert made.pieces == []
    assert reason in {one.reason for one in made.dropped}


@pytest.mark.parametrize("kind", ["one sample", "nan", "eight channels"])
def test_odd_files(tmp_path, save, speech, options, script, kind):
    wav = {
        "one sample": np.ones(1),
        "nan": np.full(RATE, np.nan),
        "eight channels": np.stack([speech] * 8, 1),
    }[kind]
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "odd.wav", wav, RATE, subtype="FLOAT")
    made, _ = run(tmp_path / "in", options, script()(options))
    assert len(made.pieces) == (kind == "eight channels")
    assert [one.reason for one in made.dropped] == {"one sample": ["no speech"], "nan": ["unreadable"]}.get(
        kind, []
    )


def test_results_survive_the_journal(folder, options, script):
    made, _ = run(folder, options, script()(options))
    again = UnitResult.from_json(made.to_json())
    assert again.pieces == made.pieces
    assert again.dropped == made.dropped


def test_units_are_a_matter_of_the_recordings_alone(tmp_path, options):
    recordings = [Recording(f"{i:03d}.wav", f"k{i}") for i in range(2 * options.unit_files + 1)]
    for one in recordings:
        (tmp_path / one.path).write_bytes(b"x" * 10)
    units = list(plan(tmp_path, recordings, options))
    assert [len(unit.recordings) for unit in units] == [16, 16, 1]
    assert [unit.key for unit in units] == [unit.key for unit in plan(tmp_path, recordings, options)]
    changed = [unit.key for unit in plan(tmp_path, recordings, replace(options, max_cer=0.5))]
    assert not set(changed) & {unit.key for unit in units}
    (tmp_path / "032.wav").write_bytes(b"y" * 11)
    assert [unit.key for unit in plan(tmp_path, recordings, options)][:2] == [unit.key for unit in units][:2]
    assert [unit.key for unit in plan(tmp_path, recordings, options)][2] != units[2].key


def test_video_and_what_else_needs_ffmpeg(tmp_path, save, speech, options, script):
    import subprocess

    from myna.preparation import decode

    program = decode._ffmpeg()
    if program is None:
        pytest.skip("there is no ffmpeg")
    save(tmp_path / "in" / "speech.wav", speech)
    made = subprocess.run(
        [
            program,
            "-v",
            "error",
            "-i",
            str(tmp_path / "in" / "speech.wav"),
            str(tmp_path / "in" / "speech.m4a"),
        ]
    )
    if made.returncode:
        pytest.skip("ffmpeg cannot write m4a")
    (tmp_path / "in" / "speech.wav").unlink()
    (tmp_path / "in" / "not.mp4").write_bytes(b"no video")
    result, _ = run(tmp_path / "in", options, script()(options))
    assert [piece.path for piece in result.pieces] == ["speech.m4a"]
    assert [(one.path, one.reason) for one in result.dropped] == [("not.mp4", "unreadable")]


def test_without_ffmpeg_it_is_named(tmp_path, options, script, monkeypatch):
    monkeypatch.setattr("myna.preparation.decode._ffmpeg", lambda: None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "talk.m4a").write_bytes(b"")
    made, _ = run(tmp_path / "in", options, script()(options))
    assert "ffmpeg" in made.dropped[0].detail
