"""Voices: made with consent, kept as a file, refused in one line when they are not what they should be."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.apps import voices as command
from myna.apps.cli import run
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import Audio, read_audio, write_audio
from myna.errors import InputError, MissingModelError, UsageError
from myna.tts.aligner import Alignment
from myna.tts.text.phonemes import phonemize
from myna.tts.voices import library as voice_library
from myna.tts.voices.library import find_voice
from myna.tts.voices.recording import PromptOptions
from myna.tts.voices.voice import (
    Voice,
    check_codec,
    check_consent,
    check_name,
    checksum,
    codec_hash,
    decode_prompt,
    load_voice,
    make_voice,
)
from safetensors.torch import load_file, save_file

SPEECH = Path(__file__).resolve().parents[2] / "assets" / "speech.wav"
TEXT = "These subordinate chiefs were also rewarded out of the scanty prison rations."
CONSENT = "I am the speaker and agree"
ALONE = PromptOptions(two_people=False)


def tiny(seed: int) -> MynaCodec:
    torch.manual_seed(seed)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_codebooks=4
    )
    return MynaCodec(config).eval()


@pytest.fixture(scope="module")
def codec() -> MynaCodec:
    return tiny(0)


class EvenAligner(torch.nn.Module):
    """Every phone lasts as long as the others."""

    def align(self, wavs, phones):
        assert all(wav.ndim == 1 for wav in wavs)
        found = []
        for wav, said in zip(wavs, phones, strict=True):
            n = -(-(len(wav) + 240) // 480)
            found.append(Alignment(torch.arange(n) * len(said) // n, score=0.0, margin=5.0))
        return found


@pytest.fixture(scope="module")
def made(codec) -> Voice:
    aligner: object = EvenAligner()
    return make_voice(SPEECH, codec, CONSENT, text=TEXT, aligner=aligner, options=ALONE)  # pyright: ignore


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MYNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home" / "voices"


def same(one: Voice, other: Voice) -> bool:
    assert one.phones is not None
    assert other.phones is not None
    assert one.pointer is not None
    assert other.pointer is not None
    assert one.mel is not None
    assert one.speaker is not None
    assert other.mel is not None
    assert other.speaker is not None
    tensors = ("codes", "phones", "pointer", "mel", "speaker")
    facts = [field.name for field in dataclasses.fields(Voice) if field.name not in tensors]
    return (
        torch.equal(one.codes, other.codes)
        and torch.equal(one.pointer, other.pointer)
        and torch.equal(one.phones.tokens, other.phones.tokens)
        and torch.equal(one.mel, other.mel)
        and torch.equal(one.speaker, other.speaker)
        and all(getattr(one, fact) == getattr(other, fact) for fact in facts)
    )


def test_a_voice_of_a_recording(made, codec):
    assert made.codes.shape[0] == codec.n_codebooks
    assert 2.5 < made.seconds < 4.4
    assert made.codec_hash == codec_hash(codec)
    assert (made.name, made.source, made.consent, made.text) == ("speech", "speech.wav", CONSENT, TEXT)
    assert made.created.endswith("+00:00")
    assert made.prompt() is made.prompt()
    assert len(decode_prompt(codec, made)) == made.codes.shape[1] * 480 - 240


def test_its_phones_are_those_of_the_stretch_that_was_kept(made):
    whole = phonemize(TEXT)
    n = len(read_audio(SPEECH, 24_000).samples[0])
    assert made.pointer[0] == 0
    assert made.pointer[-1] == len(made.phones) - 1
    assert made.pointer.shape == made.codes.shape[1:]
    # The recording is longer than the prompt, by as much as its text is longer.
    assert len(made.phones) / len(whole) == pytest.approx(made.codes.shape[1] * 480 / n, abs=0.06)
    tokens = whole.tokens.unfold(1, len(made.phones), 1)
    assert any(torch.equal(tokens[:, i], made.phones.tokens) for i in range(tokens.shape[1]))


def test_without_a_transcript(codec):
    samples = read_audio(SPEECH)
    voice = make_voice(samples, codec, CONSENT, "ada", options=ALONE)
    assert voice.phones is None
    assert voice.prompt().pointer is None
    assert voice.name == "ada"


def test_codes_are_chosen_greedily_and_the_codec_left_as_it_was(codec, made):
    codec.quantizer.n_paths = 4
    try:
        voice = make_voice(SPEECH, codec, CONSENT, options=ALONE)
        assert codec.quantizer.n_paths == 4
    finally:
        codec.quantizer.n_paths = 8
    assert torch.equal(voice.codes, made.codes)


def test_a_file_brings_it_back(made, tmp_path, codec):
    path = tmp_path / "ada.safetensors"
    made.save(path)
    assert same(load_voice(path), made)
    assert same(find_voice(path, codec), made)
    assert same(find_voice(str(path), codec), made)
    with pytest.raises(UsageError, match="--force"):
        made.save(path)
    with pytest.raises(UsageError, match="safetensors"):
        made.save(tmp_path / "ada.pt")


def damaged(path: Path, how: str) -> None:
    """Spoil a voice's file."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    facts = json.loads(metadata["voice"])
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-50])
        return
    if how == "no safetensors":
        path.write_bytes(b"RIFF" + bytes(200))
        return
    if how == "empty":
        path.write_bytes(b"")
        return
    if how == "another model's":
        metadata = {"config": "{}"}
    elif how == "a newer version's":
        metadata["format"] = "myna-voice 9"
    elif how == "no codes":
        del tensors["codes"]
    elif how == "negative codes":
        tensors["codes"] -= 2000
    elif how == "no pointer":
        del tensors["pointer"]
    elif how == "pointer back":
        tensors["pointer"] = tensors["pointer"].flip(0).contiguous()
    elif how == "pointer outside":
        tensors["pointer"][-1] += 1
    elif how == "phones outside":
        tensors["phones"][0, 1] = 9999
    elif how == "facts missing":
        del facts["consent"]
    elif how == "facts of another kind":
        facts["name"] = 3
    elif how == "no name":
        facts["name"] = "a\x1b[2Jb\n"
    elif how == "another code":
        tensors["codes"][0, 0] ^= 1
    elif how == "no JSON":
        metadata["voice"] = "{"
    if how not in ("another model's", "no JSON"):
        metadata["voice"] = json.dumps(facts)
    if how not in ("another model's", "another code", "no checksum"):
        metadata["sha256"] = checksum(metadata["voice"], tensors)
    if how == "no checksum":
        del metadata["sha256"]
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "how",
    [
        "cut short",
        "no safetensors",
        "empty",
        "another model's",
        "a newer version's",
        "no codes",
        "negative codes",
        "no pointer",
        "pointer back",
        "pointer outside",
        "phones outside",
        "facts missing",
        "facts of another kind",
        "no name",
        "another code",
        "no checksum",
        "no JSON",
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(made, tmp_path, how):
    path = tmp_path / "ada.safetensors"
    made.save(path)
    damaged(path, how)
    with pytest.raises(InputError) as error:
        load_voice(path)
    assert "\n" not in str(error.value)
    assert "ada.safetensors" in str(error.value)


def test_a_voice_of_another_codec_is_refused(made, tmp_path):
    other = tiny(1)
    with pytest.raises(InputError, match=made.codec_hash) as error:
        check_codec(made, other)
    assert codec_hash(other) in str(error.value)
    made.save(tmp_path / "ada.safetensors")
    with pytest.raises(InputError, match="make it again"):
        find_voice(tmp_path / "ada.safetensors", other)


def test_codes_beyond_the_codebook_are_refused(made, codec):
    codes = made.codes.clone()
    codes[0, 0] = 1024
    with pytest.raises(InputError, match="damaged"):
        check_codec(dataclasses.replace(made, codes=codes), codec)


def test_no_voice_without_consent(codec, tmp_path):
    for consent in (None, "", "   ", "yes", "\n\t"):
        with pytest.raises(UsageError, match="consent"):
            make_voice(SPEECH, codec, consent, options=ALONE)
        with pytest.raises(UsageError, match="consent"):
            find_voice(SPEECH, codec, consent=consent)
    assert check_consent("  Ada  Park\nagreed ") == "Ada Park agreed"


@pytest.mark.parametrize(
    "name", ["", " ", "../x", "a/b", "a\\b", ".x", "x" * 65, "x.safetensors", "a\nb", "-x", "x."]
)
def test_names_that_could_not_be_files(name):
    with pytest.raises(UsageError, match="cannot name"):
        check_name(name)


def test_names(codec):
    assert check_name(" Ada Park-2 ") == "Ada Park-2"
    assert check_name("Zoë") == "Zoë"
    samples = read_audio(SPEECH)
    assert make_voice(samples, codec, CONSENT, options=ALONE).name == "voice"


def test_the_library(made, codec, home):
    path = voice_library.add_voice(dataclasses.replace(made, name="ada"))
    assert path == home / "ada.safetensors"
    with pytest.raises(UsageError, match="--force"):
        voice_library.add_voice(dataclasses.replace(made, name="ada"))
    voice_library.add_voice(dataclasses.replace(made, name="ada", consent="She agreed again"), force=True)
    assert find_voice("ada", codec).consent == "She agreed again"
    with pytest.raises(UsageError, match="package"):
        voice_library.add_voice(dataclasses.replace(made, name="nova"))
    with pytest.raises(UsageError, match="ada, nova"):
        find_voice("eve", codec)
    (home / "bob.safetensors").write_bytes(b"nothing")
    listed = {kept.name: kept for kept in voice_library.kept_voices()}
    assert listed["ada"].voice is not None
    assert listed["bob"].problem is not None
    assert voice_library.remove_voice("ada") == path
    assert not path.exists()
    with pytest.raises(UsageError, match="no voice"):
        voice_library.remove_voice("ada")
    with pytest.raises(UsageError, match="cannot be removed"):
        voice_library.remove_voice("nova")


def test_voices_that_ship(codec, monkeypatch, tmp_path):
    shipped = voice_library.shipped_voices()
    assert len(shipped) >= 4
    for one in shipped.values():
        assert one.path.is_file()
        seconds = read_audio(one.path).samples.shape[1] / 24_000
        assert 2.5 < seconds < 4.5
        assert one.text
        assert one.licence
        check_consent(one.consent)
    aligner: object = EvenAligner()
    first = voice_library.known_voice("liam", codec, aligner)  # pyright: ignore
    assert first.name == "liam"
    assert first.phones is not None
    monkeypatch.setattr(voice_library, "make_voice", None)  # from now on it comes from the cache
    assert same(voice_library.known_voice("liam", codec, aligner), first)  # pyright: ignore
    with pytest.raises(TypeError):
        voice_library.known_voice("liam", tiny(1), aligner)  # pyright: ignore  # another codec needs its own
    with pytest.raises(TypeError):
        voice_library.known_voice("liam", codec)  # and so does another aligner, or none
    (cached,) = (voice_library.cache_dir() / "voices").glob("liam-*")
    dataclasses.replace(first, mel=None, speaker=None).save(cached, force=True)
    with pytest.raises(TypeError):
        voice_library.known_voice("liam", codec, aligner)  # pyright: ignore  # one of an earlier version is made anew


def test_what_a_word_means(codec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"gone\.wav"):
        find_voice("gone.wav", codec, consent=CONSENT)
    with pytest.raises(InputError, match="gone"):
        find_voice("folder/gone", codec, consent=CONSENT)
    with pytest.raises(InputError, match="folder/gone"):  # before consent is asked for
        find_voice("folder/gone", codec)
    with pytest.raises(InputError, match="is a folder"):
        find_voice(tmp_path, codec)
    with pytest.raises(MissingModelError, match="no voice at"):
        find_voice("gone.safetensors", codec)
    with pytest.raises(UsageError, match="no voice named"):
        find_voice("gone", codec)
    with pytest.raises(UsageError, match="cannot name"):
        find_voice("", codec)


@pytest.fixture
def spoken(codec, monkeypatch):
    """The command with a tiny codec."""
    monkeypatch.setattr("myna.codec.registry.load_codec", lambda *_: codec)


def call(capsys, *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["voices", *args])
    got = capsys.readouterr()
    assert "Traceback" not in got.err
    return code, got.out, got.err


def test_the_command(spoken, capsys, home, tmp_path):
    code, out, err = call(capsys, "add", str(SPEECH), "--name", "ada", "--consent", CONSENT)
    assert code == 0, err
    assert "ada" in out
    assert (home / "ada.safetensors").is_file()
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "ada" in out
    assert "nova" in out
    code, out, _ = call(capsys, "show", "ada", "--json")
    facts = json.loads(out)
    assert (facts["consent"], facts["source"]) == (CONSENT, "speech.wav")
    assert call(capsys, "show", "nova")[0] == 0
    assert call(capsys, "show", str(home / "ada.safetensors"))[0] == 0
    code, _, err = call(capsys, "add", str(SPEECH), "--name", "ada", "--consent", CONSENT)
    assert (code, err.count("\n")) == (2, 1)
    assert call(capsys, "remove", "ada")[0] == 0
    assert call(capsys, "remove", "ada")[0] == 2
    assert call(capsys, "show", "ada")[0] == 2


def test_a_script_must_state_consent(spoken, capsys, home):
    code, _, err = call(capsys, "add", str(SPEECH))
    assert code == 2
    assert "--consent" in err
    assert err.count("\n") == 1
    assert not home.exists()


@pytest.mark.parametrize(
    ("answer", "agreed"), [("yes\n", True), ("Y\n", True), ("no\n", False), ("", False), ("\n", False)]
)
def test_the_question_on_a_terminal(monkeypatch, capsys, answer, agreed):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", Terminal())
    if agreed:
        assert "agreed that I clone" in command.ask_consent("x.wav", None)
    else:
        with pytest.raises(UsageError, match="consent"):
            command.ask_consent("x.wav", None)
    assert command.ask_consent("x.wav", CONSENT) == CONSENT


@pytest.mark.parametrize(
    ("text", "words"), [("?!", "holds no words"), ("🎉", "holds no words"), ("Chiefs.", "too short")]
)
def test_a_transcript_that_is_none_is_refused(codec, text, words):
    aligner: object = EvenAligner()
    with pytest.raises(InputError, match=f"the transcript .*{words}.* or no transcript") as error:
        make_voice(SPEECH, codec, CONSENT, text=text, aligner=aligner, options=ALONE)  # pyright: ignore
    assert "\n" not in str(error.value)


def test_bad_recordings_leave_nothing_behind(spoken, capsys, home, tmp_path):
    write_audio(tmp_path / "silent.wav", np.zeros(48_000), 24_000)
    write_audio(tmp_path / "short.wav", np.zeros(4_800), 24_000)
    (tmp_path / "text.wav").write_text("no sound")
    code, _, err = call(capsys, "add", str(tmp_path / "gone.wav"))
    assert (code, err.count("\n")) == (3, 1)  # before anybody is asked whether its speaker agrees
    for name in ("silent.wav", "short.wav", "text.wav", "gone.wav"):
        code, _, err = call(capsys, "add", str(tmp_path / name), "--consent", CONSENT)
        assert code == 3, err
        assert err.count("\n") == 1
    assert not home.exists()


def test_samples_may_be_stereo_and_of_any_rate(codec, made):
    audio = read_audio(SPEECH, 44_100)
    voice = make_voice(Audio(np.repeat(audio.samples, 2, axis=0), 44_100), codec, CONSENT, options=ALONE)
    assert abs(voice.codes.shape[1] - made.codes.shape[1]) <= 3


def test_the_aligner_that_ships_knows_the_transcript(codec):
    voice = make_voice(SPEECH, codec, CONSENT, text=TEXT, options=ALONE)
    assert voice.phones is not None
    assert voice.pointer is not None
    assert phonemize(TEXT).ipa().replace(" ", "").find(voice.phones.ipa().replace(" ", "").rstrip(".")) >= 0
    frames = torch.bincount(voice.pointer, minlength=len(voice.phones))
    assert 2 <= float(frames.float().median()) <= 6  # 40 to 120 ms a phone
    with pytest.raises(InputError, match="transcript does not match"):
        make_voice(SPEECH, codec, CONSENT, text="The quick brown fox jumps over a lazy dog.", options=ALONE)
