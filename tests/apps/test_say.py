"""`myna say` with tiny random models: where speech goes, what is refused, and what a stop leaves behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.codec.base import Codec
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio
from myna.marks.tags import is_synthetic
from myna.marks.watermark import detect_watermark
from myna.tts import registry, speaker
from myna.tts.aligner import Aligner, AlignerConfig
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.rerank.base import Attempt
from myna.tts.rerank.ranking import Ranking
from myna.tts.rerank.words import Words
from myna.tts.text.long_text import split_text
from myna.tts.text.phones import Phones
from myna.tts.valle import Valle
from myna.tts.voices import library as voice_library
from myna.tts.voices.voice import Voice, codec_hash

SMALL = {"width": 32, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 64, "text_depth": 1, "extra": 4}
TEXT = "One two. Three four! Five six?\n\nSeven eight. Nine ten."


def tiny_models(device: str = "cpu", n_coarse: int = 1) -> Valle:
    """Loud noise in phrases: models that have learned nothing, but hold every promise about files."""
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_paths=1
    )
    codec = MynaCodec(config).eval()
    with torch.no_grad():
        codec.decoder.layers[-2].scale.fill_(0.5)  # pyright: ignore
    rows = codec.rows()
    ar = ARModel(ARConfig(codebook_dim=16, n_coarse=n_coarse, **SMALL), rows)
    groups = tuple((k,) for k in range(n_coarse, 8))
    nar = NARModel(NARConfig(codebook_dim=16, n_given=n_coarse, groups=groups, condition=8, **SMALL), rows)
    return Valle(codec, ar.eval(), {"nar": NARDecoder(nar.eval(), codec)})


def tiny_voice(codec: Codec) -> Voice:
    codes = torch.randint(0, 1024, (8, 60), generator=torch.Generator().manual_seed(1))
    return Voice("ada", codes, None, None, codec_hash(codec), "ada.wav", "2026-01-01", "Ada agreed in May")


@pytest.fixture(scope="module")
def models() -> Valle:
    return tiny_models()


@pytest.fixture
def voice(models, tmp_path, monkeypatch) -> Path:
    """The voice's file; the models that ship are the tiny ones, the folder is empty."""
    monkeypatch.setattr(speaker, "load_models", lambda device, decoder=None, precision="auto": models)
    path = tmp_path / "voices" / "ada.safetensors"
    path.parent.mkdir()
    tiny_voice(models.codec).save(path)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return path


def test_a_sentence_to_a_file(voice, myna):
    done = myna("say", "One two three.", "--voice", voice, "-o", "out.wav", "--seed", 3)
    assert done.code == 0, done
    assert "in the voice ada, seed 3; first sound after" in done.out
    audio = read_audio("out.wav")
    assert audio.sample_rate == 24_000
    assert audio.samples.shape[0] == 1
    assert np.abs(audio.samples).max() > 0.02
    assert [path.name for path in Path().iterdir()] == ["out.wav"]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_everything_said_is_marked(voice, myna, suffix):
    assert myna("say", TEXT * 2, "--voice", voice, "-o", f"out{suffix}").code == 0
    with soundfile.SoundFile(f"out{suffix}") as sound:
        assert is_synthetic(sound.copy_metadata())
    audio = read_audio(f"out{suffix}")
    assert detect_watermark(audio.samples[0], audio.sample_rate).found


def test_no_watermark_no_speech(voice, myna, monkeypatch):
    from myna.errors import MissingModelError

    def broken(*_):
        raise MissingModelError("speech cannot be watermarked without the package resemble-perth")

    monkeypatch.setattr(speaker.Speaker.__init__, "__defaults__", (None, "cpu", broken, None, "auto"))
    myna("say", "Hello.", "--voice", voice).failed_with(4, "watermarked")
    assert list(Path().iterdir()) == []


def test_json_says_what_was_done(voice, myna):
    done = myna("say", TEXT, "--voice", voice, "-o", "out.flac", "--json", "--seed", 5)
    report = json.loads(done.out)
    assert (report["sentences"], report["seed"], report["voice"]) == (5, 5, "ada")
    assert report["n_samples"] == soundfile.info("out.flac").frames
    assert report["first_audio"] <= report["elapsed"]
    assert report["real_time_factor"] > 0
    assert report["precision"] == "int8"


def test_the_same_seed_gives_the_same_file(voice, myna):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert myna("say", TEXT, "-v", voice, "-o", f"{name}.wav", "--seed", seed, "-q").code == 0
    a, b, c = (Path(f"{name}.wav").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_models_with_several_coarse_codebooks_speak_too(voice, myna, monkeypatch):
    several = tiny_models(n_coarse=3)
    monkeypatch.setattr(speaker, "load_models", lambda device, decoder=None, precision="auto": several)
    for name, preset in (("a", "standard"), ("b", "standard"), ("best", "best")):
        done = myna("say", TEXT, "-v", voice, "-o", f"{name}.wav", "--preset", preset, "-q")
        assert done.code == 0, done
        assert np.abs(read_audio(f"{name}.wav").samples).max() > 0.02
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_a_pipe_gets_the_samples_of_the_file(voice, capsysbinary):
    from myna.apps.cli import run

    assert run(["say", TEXT, "-v", str(voice), "-o", "out.wav", "-q"]) == 0
    capsysbinary.readouterr()
    assert run(["say", TEXT, "-v", str(voice), "--stream"]) == 0
    captured = capsysbinary.readouterr()
    piped = read_audio(io.BytesIO(captured.out))
    np.testing.assert_array_equal(piped.samples, read_audio("out.wav").samples)
    assert b"standard output: " in captured.err
    assert b"Synthetic speech" in captured.out[:300]


def test_python_says_the_same_as_the_command(voice, myna, models):
    import myna as package

    assert myna("say", TEXT, "-v", voice, "-o", "out.wav", "-q").code == 0
    own = package.Speaker()
    speech = own.say(TEXT, voice)
    np.testing.assert_allclose(speech.samples, read_audio("out.wav").samples[0], atol=1 / 32768)
    chunks = list(own.stream(TEXT, voice))
    assert len(chunks) > 5
    np.testing.assert_array_equal(np.concatenate(chunks), speech.samples)
    speech.save("own.wav")
    assert Path("own.wav").read_bytes() == Path("out.wav").read_bytes()
    assert (speech.sample_rate, speech.voice) == (24_000, "ada")


def test_without_a_voice_one_of_the_package_speaks(voice, myna, monkeypatch, tmp_path):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(voice_library, "prepared_voice", lambda shipped, codec, _: tiny_voice(codec))
    assert myna("say", "One two three.").code == 0
    assert [path.name for path in Path().iterdir()] == ["speech.wav"]


def test_best_keeps_what_the_aligner_hears_best(models, monkeypatch):
    """The score of the models: the aligner's, whatever it is; nothing that can be aligned is the worst."""
    torch.manual_seed(0)
    small = Aligner(AlignerConfig(width=16, dilations=(1,))).eval()
    monkeypatch.setattr(models, "ranking", Ranking(Words(small, -99.0)))
    phones = Phones.from_ipa("wʌn tuː θɹiː.")
    noise = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    expected = small.align([torch.from_numpy(noise)], [phones])[0].score
    verdict = models.judge(Attempt(noise, 24_000, phones))
    assert verdict.scores == {"aligner": pytest.approx(expected)}
    assert not verdict.failed
    worst = models.judge(Attempt(noise[:480], 24_000, phones))
    assert worst.scores["aligner"] < expected
    assert worst.total < verdict.total


def test_json_tells_the_scores_of_every_try(voice, myna, models, monkeypatch):
    torch.manual_seed(0)
    small = Aligner(AlignerConfig(width=16, dilations=(1,))).eval()
    monkeypatch.setattr(models, "ranking", Ranking(Words(small, 0.0)))  # whose words are never there
    said = json.loads(
        myna("say", "One two. Three.", "-v", voice, "-o", "out.wav", "--json", "--candidates", 2).out
    )
    tries = said["candidates"]
    assert [(one["sentence"], one["number"]) for one in tries] == [(i, n) for i in (0, 1) for n in range(4)]
    assert [sum(one["chosen"] for one in tries if one["sentence"] == i) for i in (0, 1)] == [1, 1]
    assert all(one["missing"] and one["scores"].keys() == {"aligner"} and one["seconds"] > 0 for one in tries)
    alone = ("--redraws", 0, "--json", "-f")
    once = json.loads(myna("say", "One two. Three.", "-v", voice, "-o", "out.wav", *alone).out)
    assert once["candidates"] == []


def test_presets_and_settings_are_heard(voice, myna):
    settings = [("--preset", "fast"), ("--cfg-text", 3), ("--cfg-voice", 3), ("--speed", 1.5)]
    settings += [("--temperature", 0), ("--top-k", 2), ("--top-p", 0.3), ()]
    heard = set()
    for i, setting in enumerate(settings):
        assert myna("say", "One two three.", "-v", voice, "-o", f"{i}.wav", "-q", *setting).code == 0
        heard.add(Path(f"{i}.wav").read_bytes())
    assert len(heard) == len(settings)


def test_a_lexicon_changes_the_sound(voice, myna):
    Path("words.tsv").write_text("Myna\tˈmaɪnə\n", "utf-8")
    for name, more in (("a", ()), ("b", ("--lexicon", "words.tsv"))):
        assert myna("say", "Say Myna.", "-v", voice, "-o", f"{name}.wav", "-q", *more).code == 0
    assert Path("a.wav").read_bytes() != Path("b.wav").read_bytes()
    myna("say", "Hi.", "-v", voice, "--lexicon", "none.tsv").failed_with(3, "none.tsv")


# ---- long texts


def test_a_text_file_becomes_a_recording_of_its_name(voice, myna):
    Path("book.txt").write_text(TEXT, "utf-8")
    assert myna("say", "--text-file", "book.txt", "-v", voice).code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["book.txt", "book.wav"]
    assert myna("say", TEXT, "-v", voice, "-o", "said.wav").code == 0
    assert Path("book.wav").read_bytes() == Path("said.wav").read_bytes()


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
sys.path.insert(0, {tests!r})
import test_say
from myna.tts import speaker
models = test_say.tiny_models()
first = models.first_codes
said = []
def slowly(*args):
    said.append(args)
    for frame in first(*args):
        time.sleep(0.1 if len(said) > 2 else 0)  # seconds in which to be stopped, on a busy machine too
        yield frame
models.first_codes = slowly
speaker.load_models = lambda device, decoder=None, precision="auto": models
from myna.apps import cli
sys.argv[0] = "myna"
cli.main()
"""


def start(*args: object) -> subprocess.Popen:
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_book_goes_on_where_it_was(voice, myna, how):
    """Whatever ends the program, the next run's file is that of a run which nobody stopped."""
    Path("book.txt").write_text(TEXT, "utf-8")
    process = start("say", "-t", "book.txt", "-v", voice, "-o", "book.wav", "-q")
    note = Path(".book.wav.draft.json")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        note.exists() and json.loads(note.read_text())["n_sentences"] >= 2
    ):
        assert process.poll() is None, process.stderr.read()  # pyright: ignore
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[how], err
    assert b"Traceback" not in err
    if how != signal.SIGKILL:
        assert b"sentences are kept" in err
    assert not Path("book.wav").exists()
    kept = json.loads(note.read_text())["n_sentences"]
    assert 2 <= kept < 5
    done = myna("say", "-t", "book.txt", "-v", voice, "-o", "book.wav", "--json")
    assert f"after {kept} of 5 sentences" in done.err
    assert json.loads(done.out)["resumed_at"] == kept
    assert myna("say", "-t", "book.txt", "-v", voice, "-o", "whole.wav").code == 0
    resumed, whole = (read_audio(name).samples for name in ("book.wav", "whole.wav"))
    assert resumed.shape == whole.shape
    # The first sentences were said in another process: sums in another order may round another way.
    assert abs(resumed - whole).max() <= 2 / 32768
    assert sorted(path.name for path in Path().iterdir()) == ["book.txt", "book.wav", "whole.wav"]


def test_a_stop_in_a_sentence_leaves_nothing(voice):
    process = start("say", TEXT * 20, "-v", voice, "-o", "out.wav", "-q")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(Path().glob(".out.wav.*.part")):
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err.decode().strip() == "myna: error: terminated; nothing was left half written"
    assert list(Path().iterdir()) == []


def test_a_second_ctrl_c_ends_as_quietly(voice):
    process = start("say", TEXT * 20, "-v", voice, "-o", "out.wav", "-q")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(Path().glob(".out.wav.*.part")):
        time.sleep(0.01)
    time.sleep(0.2)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    err = process.stderr.read().decode()  # pyright: ignore
    assert process.returncode in (130, -signal.SIGINT), err
    assert err.strip() == "myna: error: interrupted; nothing was left half written"
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_text_file_goes_straight_into_a_named_pipe(voice, myna):
    Path("book.txt").write_text(TEXT, "utf-8")
    os.mkfifo("pipe.wav")
    reader = subprocess.Popen(["cat", "pipe.wav"], stdout=subprocess.PIPE)
    done = myna("say", "-t", "book.txt", "-v", voice, "-o", "pipe.wav", "-q")
    heard, _ = reader.communicate(timeout=30)
    assert done.code == 0, done
    assert sorted(path.name for path in Path().iterdir()) == ["book.txt", "pipe.wav"]
    assert myna("say", "-t", "book.txt", "-v", voice, "-o", "book.wav", "-q").code == 0
    piped, whole = read_audio(io.BytesIO(heard)).samples, read_audio("book.wav").samples
    np.testing.assert_array_equal(piped, whole)


def test_another_text_or_seed_does_not_drop_what_was_said(voice, myna):
    from myna.tts.draft import Draft

    Path("book.txt").write_text(TEXT, "utf-8")
    with Draft("book.wav", "another text") as draft:
        draft.append(np.zeros(100, np.float32))
        draft.commit(2, None)
    kept = {path: path.read_bytes() for path in Path().glob(".book.wav.*")}
    done = myna("say", "-t", "book.txt", "-v", voice, "--json")
    assert (done.code, done.out) == (2, "")
    assert "2 sentences are kept" in done.err
    assert {path: path.read_bytes() for path in Path().glob(".book.wav.*")} == kept
    done = myna("say", "-t", "book.txt", "-v", voice, "--json", "--restart")
    assert json.loads(done.out)["resumed_at"] == 0
    assert sorted(path.name for path in Path().iterdir()) == ["book.txt", "book.wav"]


def test_a_draft_that_cannot_be_read_is_kept_aside(voice, myna):
    from myna.tts.draft import Draft

    Path("book.txt").write_text(TEXT, "utf-8")
    with Draft("book.wav", "a key") as draft:
        draft.append(np.zeros(100, np.float32))
        draft.commit(2, None)
    draft.note.write_text("{")
    done = myna("say", "-t", "book.txt", "-v", voice, "-q")
    assert done.code == 0, done
    assert len(done.err.splitlines()) == 1
    kept = [".book.wav.draft.json.unreadable-1", ".book.wav.draft.pcm.unreadable-1"]
    assert f"draft of book.wav cannot be read; it is kept aside ({kept[0]})" in done.err
    assert sorted(path.name for path in Path().iterdir()) == [*kept, "book.txt", "book.wav"]
    assert Path(kept[0]).read_text() == "{"


def test_a_long_text_takes_no_more_memory_than_a_short_one(voice, models):
    own = speaker.Speaker()
    page = os.sysconf("SC_PAGE_SIZE")
    seen: list[float] = []
    for chunk in own.chunks(split_text("One. " * 60), own.voice(voice)):
        if chunk.ends_sentence:
            seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * page / 1e6)
    assert len(seen) == 60
    assert max(seen[20:]) - seen[20] < 10  # MB; the states of one sentence are more than 1


# ---- what is refused


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("",), 2, "nothing to say"),
        (("...?!",), 2, "nothing to say"),
        (("🎉🎉",), 2, "nothing to say"),
        (("\x07\x1b[2J",), 2, "nothing to say"),
        (("\x07Hello\x1b[2J.",), 0, ""),
        (("Hello.", "--language", "klingonese"), 2, "unknown language"),
        (("Hello.", "--preset", "loud"), 2, "fast"),
        (("Hello.", "--speed", "9"), 2, "0.25 to 4"),
        (("Hello.", "--seed", "-1"), 2, "seed"),
        (("Hello.", "--top-p", "nan"), 2, "top-p"),
        (("Hello.", "-o", "out.ogg"), 2, ".mp3"),
        (("Hello.", "-o", "out"), 2, ".wav"),
        (("Hello.", "-o", "none/out.wav"), 6, "folder does not exist"),
        (("Hello.", "--stream", "-o", "out.wav"), 2, "--stream"),
        (("Hello.", "--text-file", "book.txt"), 2, "one of the two"),
        ((), 2, "one of the two"),
        (("Hello.", "--restart"), 2, "--restart"),
        (("--text-file", "none.txt"), 3, "none.txt"),
        (("--text-file", "binary.txt"), 3, "UTF-8"),
        (("--text-file", "zeros.txt"), 3, "binary"),
        (("--text-file", "empty.txt"), 2, "nothing to say"),
    ],
)
def test_what_cannot_be_said_is_one_line(voice, myna, args, code, words):
    Path("binary.txt").write_bytes(b"\xffELF\xfe\x80")
    Path("zeros.txt").write_bytes(b"abc\0def")
    Path("empty.txt").touch()
    before = sorted(Path().iterdir())
    done = myna("say", *args, "--voice", voice)
    if code:
        done.failed_with(code, words)
        assert sorted(Path().iterdir()) == before
    else:
        assert done.code == 0, done


def test_an_output_that_exists_stays_unless_forced(voice, myna):
    Path("out.wav").write_bytes(b"mine")
    myna("say", "Hello.", "-v", voice, "-o", "out.wav").failed_with(2, "--force")
    assert Path("out.wav").read_bytes() == b"mine"
    assert myna("say", "Hello.", "-v", voice, "-o", "out.wav", "--force").code == 0
    assert read_audio("out.wav").samples.size


def test_voices_that_are_none(voice, myna, tmp_path):
    myna("say", "Hello.", "--voice", "none.wav", "--consent", "I am the speaker").failed_with(3, "none.wav")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(voice.read_bytes()[:-20])
    myna("say", "Hello.", "--voice", damaged).failed_with(3, "damaged")
    speech = Path(__file__).parents[1] / "assets" / "speech.wav"
    myna("say", "Hello.", "--voice", speech).failed_with(2, "consent")
    myna("say", "Hello.", "--voice", "none.wav").failed_with(
        3, "none.wav"
    )  # rather than ask who speaks in it
    myna("say", "Hello.", "--voice", "").failed_with(2, "cannot name a voice")
    assert list(Path().iterdir()) == []


def test_a_transcript_for_a_voice_that_is_made_is_noted(voice, myna):
    done = myna("say", "Hello.", "-v", voice, "--voice-text", "What I said.", "-q")
    assert done.code == 0
    assert "--voice-text belongs to a recording" in done.err
    assert done.err.count("\n") == 1


def test_text_in_utf16_and_from_standard_input(voice, myna, monkeypatch):
    Path("a.txt").write_text("One two three.", "utf-16")
    assert myna("say", "-t", "a.txt", "-v", voice, "-q").code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"One two three."), "utf-8"))
    assert myna("say", "-", "-v", voice, "-q", "-o", "b.wav").code == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_missing_weights_are_one_line(myna, monkeypatch, tmp_path):
    monkeypatch.setitem(registry.FLOW_FILES, "ar", "none.safetensors")
    monkeypatch.chdir(tmp_path)
    myna("say", "Hello.", "--voice", "x.wav").failed_with(4, "none.safetensors", "install myna again")
    assert list(tmp_path.iterdir()) == []


def test_play_without_sounddevice_is_one_line(voice, myna, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    myna("say", "Hello.", "--voice", voice, "--play").failed_with(4, "pip install sounddevice")


def test_play(voice, myna, monkeypatch):
    played: list[np.ndarray] = []

    class OutputStream:
        def __init__(self, rate, channels, dtype):
            assert (rate, channels, dtype) == (24_000, 1, "float32")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, samples):
            played.append(samples)
            return False

    monkeypatch.setitem(
        sys.modules,
        "sounddevice",
        type("Fake", (), {"OutputStream": OutputStream, "PortAudioError": OSError}),
    )
    assert myna("say", "One two three.", "-v", voice, "--play", "-q").code == 0
    assert myna("say", "One two three.", "-v", voice, "-q", "-o", "out.wav").code == 0
    heard = np.concatenate(played)[:, 0]
    np.testing.assert_allclose(heard, read_audio("out.wav").samples[0], atol=1 / 32768)


def test_other_languages_come_with_a_note(voice, myna):
    done = myna("say", "Guten Tag.", "-v", voice, "--language", "de", "-o", "out.wav")
    assert done.code == 0
    assert "trained on English" in done.err
