"""`myna say --model tortoise`, from published files of small networks with random weights to marked sound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.data.audio import read_audio, write_audio
from myna.data.wav import to_int16
from myna.marks.tags import is_synthetic
from myna.tts.tortoise import speaker as engine
from myna.tts.tortoise.presets import SAMPLERS

SPEECH = Path(__file__).parents[1] / "assets" / "speech.wav"
AGREED = "the speaker agreed on 3 May"
SHORT = ("--candidates", 2, "--steps", 3)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def converted(published, work, myna):
    """The networks in the cache, as `myna models convert` writes them."""
    done = myna("models", "convert", published, work.parent / "cache" / "tortoise")
    assert done.code == 0, done
    return work


def test_ultra_fast_from_text_to_a_marked_file(converted, myna, monkeypatch):
    marked: list[np.ndarray] = []

    class Recorder(engine.WatermarkStream):
        def push(self, samples):
            marked.append(super().push(samples))
            return marked[-1]

    init = engine.TortoiseSpeaker.__init__
    monkeypatch.setattr(
        engine.TortoiseSpeaker,
        "__init__",
        lambda self, *a, **k: init(self, *a, **{**k, "watermark": Recorder}),
    )
    said = ("say", "Hello there. How are you?", "--model", "tortoise", "--preset", "ultra_fast")
    done = myna(*said, "--voice", SPEECH, "--consent", AGREED, "-o", "out.wav")
    assert done.code == 0, done
    audio = read_audio("out.wav")
    assert audio.sample_rate == 24_000
    # All that the file holds has come out of the watermark.
    assert np.array_equal(to_int16(audio.samples[0]), to_int16(np.concatenate(marked)))
    with soundfile.SoundFile("out.wav") as file:
        assert is_synthetic({"comment": file.comment})
        assert file.comment.endswith("Voice: speech")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler, converted, myna):
    said = ("say", "Hello.", "--model", "tortoise", "--voice", "random", "--sampler", sampler, *SHORT)
    done = myna(*said, "-o", "out.wav", "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert report["n_samples"] == read_audio("out.wav").samples.shape[1] > 0
    assert report["preset"] == "fast"


def test_a_folder_of_published_files_needs_no_conversion(published, work, myna):
    done = myna("say", "Hello.", "--model", published, "--voice", "random", *SHORT, "-o", "out.wav")
    assert done.code == 0, done
    streamed = ("say", "Hello.", "--model", published, "--voice", "random", "--preset", "streaming")
    assert myna(*streamed, "-o", "streamed.wav").code == 0


def test_candidates_are_kept_with_their_scores(converted, myna):
    said = (
        "say",
        "Hello. Again.",
        "--model",
        "tortoise",
        "--voice",
        "random",
        "--candidates",
        4,
        "--steps",
        2,
    )
    done = myna(*said, "-o", "out.wav", "--keep-candidates", "kept", "--json")
    assert done.code == 0, done
    candidates = json.loads(done.out)["candidates"]
    assert len(candidates) == len(list(Path("kept").iterdir())) == 2 * 3
    for one in candidates:
        assert f"{one['score']:.3f}" in one["path"]
        assert read_audio(one["path"]).samples.shape[1] == round(one["seconds"] * 24_000)
    assert [one["chosen"] for one in candidates] == [True, False, False] * 2
    again = myna(*said, "-o", "out.wav", "-f", "--keep-candidates", "kept")
    assert again.code == 0, again
    myna(*said, "-o", "new.wav", "--keep-candidates", "kept").failed_with(2, "kept is not empty", "--force")


def test_an_interruption_keeps_the_candidates_that_are_there(converted, myna, monkeypatch):
    decode = engine.TortoiseSpeaker._decode
    calls = []

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, *args)

    monkeypatch.setattr(engine.TortoiseSpeaker, "_decode", stopped)
    said = ("say", "Hello.", "--model", "tortoise", "--voice", "random", "--candidates", 4, "--steps", 2)
    done = myna(*said, "-o", "out.wav", "--keep-candidates", "kept")
    assert done.code == 130, done
    assert "2 candidates are kept in kept" in done.err
    assert len(list(Path("kept").iterdir())) == 2
    assert not Path("out.wav").exists()


def test_a_long_text_goes_on_where_it_was(converted, myna, monkeypatch):
    Path("text.txt").write_text("One two. Three four. Five six.")
    said = ("say", "--text-file", "text.txt", "--model", "tortoise", "--voice", "random", *SHORT, "-o")
    assert myna(*said, "whole.wav").code == 0
    decode = engine.TortoiseSpeaker._decode
    calls = []

    def stopped(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(engine.TortoiseSpeaker, "_decode", stopped)
        done = myna(*said, "parts.wav")
    assert "1 of 3 sentences are kept" in done.err
    done = myna(*said, "parts.wav")
    assert "after 1 of 3 sentences" in done.err
    whole, parts = read_audio("whole.wav").samples, read_audio("parts.wav").samples
    assert np.abs(whole - parts).max() < 1e-3


# ---- models


def test_the_model_is_listed_with_its_files(work, myna):
    rows = json.loads(myna("models", "list", "--json").out)
    row = next(row for row in rows if row["name"] == "tortoise")
    assert (row["kind"], row["installed"], row["license"]) == ("tts", False, "Apache-2.0")
    assert myna("models", "path", "tortoise").out.strip() == row["path"]


def test_a_converted_model_is_installed(converted, myna):
    rows = json.loads(myna("models", "list", "--json").out)
    assert next(row for row in rows if row["name"] == "tortoise")["installed"]


def test_one_file_is_converted_to_one(published, work, myna):
    done = myna("models", "convert", published / "clvp2.pth", "clvp.safetensors")
    assert done.code == 0, done
    assert Path("clvp.safetensors").is_file()
    myna("models", "convert", published / "clvp2.pth", "clvp").failed_with(2, "name it so")


# ---- what cannot be


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "tortoise", "--preset", "ultrafast"), 2, ("did you mean ultra_fast", "streaming")),
        (("--model", "tortois"), 2, ("did you mean tortoise",)),
        (("--model", "tortoise", "--cfg-text", "2"), 2, ("--cfg-text belongs to the model myna",)),
        (("--keep-candidates", "kept"), 2, ("--keep-candidates belongs to the model tortoise",)),
        (("--model", "tortoise", "--precision", "int4"), 2, ("int8",)),
        (("--precision", "half"), 2, ("auto, float32, bf16, int8",)),  # which is tortoise's
        (("--precision", "bf16", "--device", "cuda"), 2, ("for CPUs",)),
        (("--model", "tortoise", "--sampler", "ddmp"), 2, ("did you mean ddpm",)),
        (("--model", "tortoise"), 4, ("is not in", "myna models download tortoise")),
    ],
)
def test_bad_options(arguments, code, words, work, myna):
    myna("say", "Hello.", *arguments, "-o", "out.wav").failed_with(code, *words)
    assert not Path("out.wav").exists()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("日本語", 3, ("nothing to say", "English")),
        ("go [now", 2, ("bracket is not closed",)),
        ("[so sad]", 2, ("nothing would be heard",)),
        ("[7777777 " + "7777777 " * 23 + "] go", 3, ("text tokens is too long", "a bar |")),
    ],
)
def test_texts_that_cannot_be_said(text, code, words, converted, myna):
    myna("say", text, "--model", "tortoise", "--voice", "random", "-o", "out.wav").failed_with(code, *words)


def test_files_that_are_missing_or_broken(published, work, myna):
    folder = work / "mine"
    shutil.copytree(published, folder)
    (folder / "clvp2.pth").unlink()
    said = ("say", "Hello.", "--model", folder, "--voice", "random", *SHORT, "-o", "out.wav")
    myna(*said).failed_with(4, "clvp2.pth is not in", "choosing among candidates")
    assert myna(*said, "--candidates", 1).code == 0  # where nothing is chosen, nothing is missing
    whole = (published / "vocoder.pth").read_bytes()
    (folder / "vocoder.pth").write_bytes(whole[: len(whole) // 2])
    myna(*said, "--candidates", 1, "-f").failed_with(3, "vocoder.pth is not a whole checkpoint")


def test_clips_that_cannot_be_used(converted, myna):
    write_audio("short.wav", 0.1 * np.ones(4800, np.float32), 24_000)
    said = ("say", "Hello.", "--model", "tortoise", "-o", "out.wav", "--consent", AGREED)
    myna(*said, "--voice", "short.wav").failed_with(3, "0.20 s long", "1 s at least")
    stereo = np.stack([read_audio(SPEECH).samples[0]] * 2)
    write_audio("stereo.wav", stereo, 24_000)
    assert myna(*said, "--voice", "stereo.wav", *SHORT).code == 0


def test_a_voice_is_kept_and_speaks_by_its_name(converted, myna, monkeypatch):
    monkeypatch.setenv("MYNA_VOICES", str(converted / "voices"))
    clips = converted / "clips"
    clips.mkdir()
    audio = read_audio(SPEECH)
    for i in range(2):
        piece = audio.samples[:, i * 2 * audio.sample_rate : (i + 1) * 2 * audio.sample_rate]
        write_audio(clips / f"{i}.wav", piece, audio.sample_rate)
    add = ("voices", "add", clips, "--name", "ann", "--model", "tortoise")
    myna(*add).failed_with(2, "consent")
    done = myna(*add, "--consent", AGREED, "--json")
    assert done.code == 0, done
    facts = json.loads(done.out)
    assert (facts["name"], facts["consent"]) == ("ann", AGREED)
    myna(*add, "--consent", AGREED).failed_with(2, "--force")
    listed = json.loads(myna("voices", "list", "--json").out)
    assert {"name": "ann", "kind": "tortoise"}.items() <= listed[0].items()
    assert AGREED in myna("voices", "show", "ann").out
    say = ("say", "Hello.", "--model", "tortoise", "--preset", "ultra_fast", *SHORT)
    assert myna(*say, "--voice", "ann", "-o", "kept.wav").code == 0
    assert myna(*say, "--voice", clips, "--consent", AGREED, "-o", "clips.wav").code == 0
    assert np.array_equal(read_audio("kept.wav").samples, read_audio("clips.wav").samples)
    myna("say", "Hello.", "--voice", "ann", "-o", "x.wav").failed_with(3, "--model tortoise")
    assert myna("voices", "remove", "ann").code == 0
    myna(*say, "--voice", "ann", "-o", "y.wav").failed_with(2, "ann")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--model", "tortose"), "did you mean tortoise"),
        (("--model", "tortoise", "--text", "Hello."), "--text"),
        (("--model", "tortoise", "--name", "nova"), "of the package"),
        (("--model", "tortoise", "--name", "a/b"), "name"),
    ],
)
def test_voices_that_tortoise_cannot_keep(work, myna, monkeypatch, changed, said):
    monkeypatch.setenv("MYNA_VOICES", str(work / "voices"))
    myna("voices", "add", SPEECH, "--consent", AGREED, *changed).failed_with(2, said)
    assert not (work / "voices").exists()
