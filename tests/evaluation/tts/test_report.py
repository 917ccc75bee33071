"""The report on cloned speech, with tiny random models, and ears that know every recording."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from myna.apps import cli
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio, write_audio
from myna.errors import InputError, MissingModelError, UsageError
from myna.evaluation.clips import load_clips
from myna.evaluation.measures.metrics import METRICS
from myna.evaluation.tts import plots as tts_plots
from myna.evaluation.tts import report as tts_report
from myna.evaluation.tts import scores as tts_scores
from myna.evaluation.tts import systems as tts_systems
from myna.evaluation.tts.hard_sentences import HARD_SENTENCES
from myna.evaluation.tts.report import FILES, MYNA, MYNA_TEXT, SpeechEvaluation, evaluate_tts
from myna.evaluation.tts.scores import HeardText, Judge, Likeness
from myna.evaluation.tts.systems import WatchedValle
from myna.evaluation.tts.tables import GROUND_TRUTH, SpokenClip, row_of
from myna.layers.lora import LoRAWeights
from myna.marks.tags import is_synthetic
from myna.marks.watermark import detect_watermark
from myna.tts import registry as tts_registry
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder
from myna.tts.flow_speech import FlowSpeech
from myna.tts.lm.adapter import Adapter
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.presets import SpeechOptions
from myna.tts.speaker import Speaker
from myna.tts.text.phones import Phones
from myna.tts.voices import two_voices
from myna.tts.voices.voice import Voice, codec_hash

ROOT = Path(__file__).parents[3]
SMALL = {"width": 32, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 64, "text_depth": 1, "extra": 4}
TEXTS = ("One two.", "Three four.", "FIVE SIX", "Seven?", "Eight | nine!", "Ten.")
QUICK = SpeechEvaluation(limit=2, hard=False)
CODEC = "codec, 4 kbps"
TIMES = ("elapsed", "first_audio", "first_audio_p90", "real_time_factor")


def tiny_models() -> WatchedValle:
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_paths=1
    )
    codec = MynaCodec(config).eval()
    with torch.no_grad():
        codec.decoder.layers[-2].scale.fill_(0.5)  # pyright: ignore (loud enough to be speech)
    rows = codec.rows()
    ar = ARModel(ARConfig(codebook_dim=16, **SMALL), rows)
    nar = NARModel(NARConfig(codebook_dim=16, condition=8, **SMALL), rows)
    return WatchedValle(codec, ar.eval(), {"nar": NARDecoder(nar.eval(), codec)})


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(tiny_models())


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings that could be prompts, of two people of one source; the text of each is its own."""
    reader = [read_audio(ROOT / "tests" / "assets" / name).samples[0] for name in ("speech.wav", "lj.flac")]
    cuts = [reader[0][:80_000], reader[0][80_000:], reader[1]]
    others = (read_audio(ROOT / "voices" / f"{name}.flac").samples[0] for name in ("nova", "lily", "daniel"))
    path = tmp_path_factory.mktemp("voices") / "voices-000.tar"
    with tarfile.open(path, "w") as tar:
        for i, wav in enumerate([*cuts, *others]):
            sound = io.BytesIO()
            soundfile.write(sound, wav, 24_000, format="FLAC")
            meta = {"source": "read", "split": "test", "speaker": ("ada", "bo")[i // 3], "text": TEXTS[i]}
            for suffix, data in (("flac", sound.getvalue()), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"clip{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


class Ears:
    """Knows the recordings: their words, and one voice a speaker. Of anything else it hears a number, always the same
    for the same samples, in nobody's voice."""

    def __init__(self, voices: Path):
        self.clips = {clip.wav.tobytes(): clip for clip in load_clips([voices], 24_000)}

    def transcribe(self, wav: np.ndarray, sample_rate: int) -> str:
        clip = self.clips.get(wav.tobytes())
        return f"sound | {zlib.crc32(wav.tobytes())}" if clip is None else clip.text or ""

    def voice_embedding(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        clip = self.clips.get(wav.tobytes())
        return np.array(
            [0.6, 0.0, 0.8] if clip is None else [clip.speaker == "ada", clip.speaker == "bo", 0.0]
        )

    def judged_voice(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Takes whoever is unknown for Ada."""
        known = wav.tobytes() in self.clips
        return self.voice_embedding(wav, sample_rate) if known else np.array([1.0, 0.0, 0.0])

    def dnsmos(self, wav: np.ndarray, sample_rate: int) -> float:
        return 2.0 if wav.tobytes() not in self.clips else 4.0


@pytest.fixture(scope="module", autouse=True)
def ears(voices: Path):
    """In place of a recogniser, a speaker encoder and a judge, whether or not they are installed."""
    own = Ears(voices)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("transcribe", "voice_embedding", "judged_voice", "dnsmos"):
            patch.setattr(tts_scores, name, getattr(own, name))
        for name in tts_scores.MEASURES:
            patch.setitem(METRICS, name, dataclasses.replace(METRICS[name], packages=(), weights=None))
        patch.setattr(two_voices, "holds_two_voices", lambda speech: False)
        yield own


@pytest.fixture(scope="module")
def report(voices, speaker, ears):
    return evaluate_tts([voices], QUICK, speaker=speaker)


@pytest.fixture
def shipped(monkeypatch, speaker, tmp_path):
    """The models that ship are the tiny ones."""
    monkeypatch.setattr(tts_report, "load_codec", lambda name, device: speaker.models.codec)
    monkeypatch.setattr(tts_report, "load_speaker", lambda *_: speaker)


@pytest.fixture
def sketches(monkeypatch):
    """Pictures take a second each; in one test they are drawn."""
    for name in ("bars", "scatter", "mels"):
        monkeypatch.setattr(tts_plots, name, lambda *args: b"a picture")


@pytest.fixture
def work(monkeypatch, tmp_path) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def timeless(tree):
    """What does not depend on the machine."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key not in TIMES}
    return [timeless(value) for value in tree] if isinstance(tree, list) else tree


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of all rows of all tables, without headers."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(cells) if row[0] == "---"]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


# ---- the rows


def test_rows_are_recordings_the_codec_and_myna(report):
    assert [(row.source, row.system) for row in report.rows] == [
        ("read", GROUND_TRUTH),
        ("read", CODEC),
        ("read", MYNA),
    ]
    truth, codec, ours = report.rows
    assert truth.n_clips == codec.n_clips == len({clip.key for clip in report.clips})
    assert (ours.n_clips, ours.n_speakers) == (4, 2)
    assert (truth.wer, truth.cer, truth.dnsmos) == (0, 0, 4)
    assert (truth.similarity, truth.other_similarity) == (1, 0)
    assert codec.wer > 0.5
    assert ours.wer > 0.5
    assert ours.similarity == pytest.approx(0.3)  # 0.6 to Ada and 0 to Bo
    assert (truth.judge, truth.other_judge) == (1, 0)
    assert ours.judge == pytest.approx(0.5)  # what is said is Ada's, to this one
    assert (report.hard, report.notes) == (None, ())


def test_only_what_was_made_has_times(report):
    for row in report.rows:
        made = row.system == MYNA
        assert [getattr(row, name) is not None for name in (*TIMES[1:], "bound")] == [made] * 4
    for clip in report.clips:
        if clip.system != MYNA:
            assert clip.elapsed is clip.first_audio is clip.hit_bound is clip.prompt_seconds is None
            continue
        assert 0 < clip.first_audio <= clip.elapsed
        assert clip.prompt_seconds > 1
        assert clip.seconds > 0.1


def test_texts_are_those_of_the_recordings(report, ears):
    texts = {clip.key: clip.text for clip in ears.clips.values()}
    for clip in report.clips:
        assert clip.text == texts[clip.key].replace("FIVE SIX", "Five six.")
    own = {(clip.speaker, clip.key) for clip in report.clips if clip.system == MYNA}
    assert len(own) == 4


def test_a_row_is_the_sum_of_its_clips():
    def clip(errors, n, same, elapsed, speaker="ada"):
        heard, likeness = HeardText("", n, errors, 5 * n, errors), Likeness(same, math.nan)
        return SpokenClip(
            "s", MYNA, speaker, "k", "t", heard, likeness, math.nan, 2.0, elapsed, elapsed, elapsed > 1
        )

    row = row_of([clip(0, 8, 0.5, 1), clip(2, 2, math.nan, 3), clip(0, 0, 0.7, 2, "bo")])
    assert (row.wer, row.cer) == (0.2, 0.04)  # of all words, not the mean of the clips
    assert row.wer_low <= 0.2 <= row.wer_high
    assert row.similarity == pytest.approx(0.6)
    assert math.isnan(row.other_similarity)
    assert (row.real_time_factor, row.first_audio, row.bound) == (1, 2, pytest.approx(2 / 3))
    assert row.first_audio_p90 == pytest.approx(2.8)
    assert (row.n_clips, row.n_speakers, row.seconds) == (3, 2, 6)
    assert math.isnan(row_of([clip(0, 0, 0.5, 1)]).wer)


@pytest.mark.parametrize("seed", [0, 1])
def test_prompts_are_neither_said_nor_compared_with(voices, speaker, ears, monkeypatch, seed):
    prompts, compared = [], []
    make_voice, likeness = tts_report.make_voice, Judge.likeness

    def made(audio, *args, **kwargs):
        prompts.append(ears.clips[audio.samples[0].tobytes()].key)
        return make_voice(audio, *args, **kwargs)

    def compares(self, wav, rate, same, different):
        compared.append((same, different))
        return likeness(self, wav, rate, same, different)

    monkeypatch.setattr(tts_report, "make_voice", made)
    monkeypatch.setattr(Judge, "likeness", compares)
    speech = SpeechOptions(seed=seed)
    found = evaluate_tts([voices], SpeechEvaluation(limit=3, hard=False, speech=speech), speaker=speaker)
    assert len(prompts) == 2
    prompt_of = {"ada": prompts[0], "bo": prompts[1]}
    others = [clip for clip in found.clips if clip.system != GROUND_TRUTH]
    for clip, (same, different) in zip(others, compared, strict=True):
        assert {c.speaker for c in same} == {clip.speaker}
        assert clip.speaker not in {c.speaker for c in different}
        assert clip.key not in {c.key for c in same}
        if clip.system == MYNA:
            assert clip.key != prompt_of[clip.speaker]
            assert not {c.key for c in (*same, *different)} & set(prompts)


def test_the_same_seed_gives_the_same_report(voices, speaker, report):
    again = evaluate_tts([voices], QUICK, speaker=speaker)
    assert timeless(json.loads(again.to_json())) == timeless(json.loads(report.to_json()))
    options = dataclasses.replace(QUICK, speech=SpeechOptions(seed=3))
    other = evaluate_tts([voices], options, speaker=speaker)
    said = {clip.key: clip.heard for clip in report.clips if clip.system == MYNA}
    for clip in other.clips:
        if clip.system == MYNA and clip.key in said:
            assert clip.heard != said[clip.key]


def test_every_hard_sentence_is_said_by_the_voices_in_turn(voices, speaker):
    found = evaluate_tts([voices], SpeechEvaluation(limit=1), speaker=speaker)
    hard = found.hard_clips()
    assert [(clip.kind, clip.text) for clip in hard] == [(h.kind, h.text) for h in HARD_SENTENCES]
    assert [clip.speaker for clip in hard[:4]] == ["ada", "bo", "ada", "bo"]
    assert list(found.clips[-len(hard) :]) == hard
    assert found.hard is not None
    assert (found.hard.source, found.hard.n_clips) == ("hard sentences", len(hard))
    assert found.rows[-1].n_clips == 2  # they do not count in the other rows
    assert found.summary().startswith("2 voices from ")
    cells = cells_of(found.to_markdown())[-len(hard) :]
    assert [row[2] for row in cells] == [h.text for h in HARD_SENTENCES]
    assert {len(row) for row in cells} == {7}  # whatever was heard


def test_limits_and_filters(voices, speaker):
    few = SpeechEvaluation(limit=1, max_speakers=1, hard=False, source="read", split="test")
    found = evaluate_tts([voices], few, speaker=speaker)
    assert [row.n_clips for row in found.rows] == [1, 1, 1]
    assert {clip.speaker for clip in found.clips} == {"ada"}
    assert math.isnan(found.rows[0].other_similarity)  # nobody else is there
    many = evaluate_tts([voices], dataclasses.replace(few, limit=50), speaker=speaker)
    assert many.rows[-1].n_clips == 2 + 3  # her own but for the prompt, and Bo's


def test_a_text_is_said_again_with_another_seed(voices, speaker, monkeypatch):
    seeds, say = [], tts_report.say_timed

    def said(own, text, voice, options):
        seeds.append(options.seed)
        return say(own, text, voice, options)

    monkeypatch.setattr(tts_report, "say_timed", said)
    options = dataclasses.replace(QUICK, repeats=3, max_speakers=1, speech=SpeechOptions(seed=5))
    found = evaluate_tts([voices], options, speaker=speaker)
    assert seeds == [5, 6, 7] * 2
    truth, _, ours = found.rows
    assert (truth.n_clips, ours.n_clips) == (2, 6)  # recordings are what they are
    heard = [clip.heard.text for clip in found.clips if clip.system == MYNA]
    assert len(set(heard)) == 6
    assert (found.repeats, "seed 5 to 7" in found.summary()) == (3, True)
    with pytest.raises(UsageError, match="at least once, got 0 repeats"):
        SpeechEvaluation(repeats=0)


def test_intervals_are_of_texts_however_often_they_are_said():
    def clip(text, errors):
        heard, likeness = HeardText("", 10, errors, 50, errors), Likeness(math.nan, math.nan)
        return SpokenClip("s", MYNA, "ada", "k", text, heard, likeness, math.nan, 2.0)

    clips = [clip(text, 4 * (text in "abc")) for text in "abcdefgh"]
    once, often = row_of(clips), row_of(clips * 10)
    assert (once.wer, once.wer_low, once.wer_high) == (often.wer, often.wer_low, often.wer_high)
    assert once.wer_low < once.wer < once.wer_high


def test_texts_of_a_file_are_said_by_everybody(voices, speaker, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("Good day.\n\nGood night.\nGood bye.\n", "utf-8")
    found = evaluate_tts([voices], dataclasses.replace(QUICK, texts=path), speaker=speaker)
    ours = [clip for clip in found.clips if clip.system == MYNA]
    assert [(clip.speaker, clip.text) for clip in ours] == [
        (name, text) for name in ("ada", "bo") for text in ("Good day.", "Good night.")
    ]
    assert [row.system for row in found.rows] == [GROUND_TRUTH, CODEC, MYNA]  # of recordings that have a text


@pytest.mark.parametrize(
    ("use", "said_by"),
    [
        ("without", [(MYNA, "daniel"), (MYNA, "lily")]),
        ("with", [(MYNA_TEXT, "lily")]),
        ("both", [(MYNA, "daniel"), (MYNA, "lily"), (MYNA_TEXT, "lily")]),
    ],
)
def test_the_prompts_text_is_given_or_not(speaker, monkeypatch, tmp_path, use, said_by):
    """Of Lily it is known what she says, of Daniel it is not."""
    given = []
    say_timed = tts_report.say_timed

    def said(own, text, voice, options):
        given.append(voice.text)
        return say_timed(own, text, voice, options)

    monkeypatch.setattr(tts_report, "say_timed", said)
    lily = "Don't forget to return the window and sell the camera."
    for name in ("lily", "daniel"):
        shutil.copy(ROOT / "voices" / f"{name}.flac", tmp_path)
    (tmp_path / "lily.json").write_text(json.dumps({"text": lily.upper()}))
    (tmp_path / "texts.txt").write_text("Hello.")
    options = SpeechEvaluation(hard=False, prompt_text=use, texts=tmp_path / "texts.txt")
    found = evaluate_tts([tmp_path], options, speaker=speaker)
    ours = [clip for clip in found.clips if clip.elapsed is not None]
    assert [(clip.system, clip.speaker) for clip in ours] == said_by
    known = {MYNA: None, MYNA_TEXT: lily.lower().capitalize()}
    assert given == [known[clip.system] for clip in ours]
    assert [row.system for row in found.rows] == list(dict.fromkeys(system for system, _ in said_by))
    refused = ("no voice was made of daniel (no text is beside the prompt)",)
    assert found.notes == (refused if use == "with" else ())


# ---- what cannot be measured


def test_a_missing_package_leaves_a_measure_out_with_a_note(voices, speaker, monkeypatch):
    absent = dataclasses.replace(METRICS["wer"], packages=("no_such_package",), remedy="pip install it")
    monkeypatch.setitem(METRICS, "wer", absent)
    found = evaluate_tts([voices], SpeechEvaluation(limit=1, hard=False), speaker=speaker)
    note = "WER is left out: it needs no_such_package (pip install it)"
    assert found.notes == (note,)
    assert found.recogniser is None
    assert all(math.isnan(row.wer) and not math.isnan(row.dnsmos) for row in found.rows)
    parsed = json.loads(found.to_json())
    assert [row["wer"] for row in parsed["rows"]] == [None] * 3
    assert parsed["notes"] == [note]
    for text in (found.to_markdown(), found.to_table(width=300)):
        assert "WER %" not in text
        assert "DNSMOS" in text
        assert note in text


def test_a_measure_that_is_needed_is_not_left_out(voices, speaker, monkeypatch, shipped, capsys):
    absent = dataclasses.replace(METRICS["similarity"], packages=("no_such_package",))
    monkeypatch.setitem(METRICS, "similarity", absent)
    needed = SpeechEvaluation(measures=("similarity",), needed=("similarity",))
    with pytest.raises(MissingModelError, match="similarity cannot be measured: it needs no_such_package"):
        evaluate_tts([voices], needed, speaker=speaker)
    assert cli.run(["evaluate", "tts", str(voices), "--metric", "similarity"]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    quick = ["evaluate", "tts", str(voices), "--quick", "--limit", "1", "--json"]
    assert cli.run(quick) == 0
    assert "left out" in json.loads(capsys.readouterr().out)["notes"][0]
    with pytest.raises(UsageError, match="unknown measure 'pesq'"):
        evaluate_tts([voices], SpeechEvaluation(measures=("pesq",)), speaker=speaker)


def test_adapters_of_a_decoder_that_is_gone_adapt_nothing(voices, speaker, tmp_path):
    codes = torch.zeros(8, 60, dtype=torch.long)
    weights = LoRAWeights({"net": torch.ones(2, 3)}, {"net": torch.ones(4, 2)}, 1.0)
    old = Voice(
        "old", codes, None, None, codec_hash(speaker.models.codec), "a.wav", "2026-01-01", "Ada agreed in May"
    )
    path = tmp_path / "old.safetensors"
    dataclasses.replace(old, adapters={"vocoder": Adapter(weights, "0123456789abcdef")}).save(path)
    options = SpeechEvaluation(max_speakers=1, hard=False, adapted=str(path))
    with pytest.raises(UsageError, match="has not been adapted"):
        evaluate_tts([voices], options, speaker=speaker)


def test_missing_weights_leave_out_mynas_row_with_a_note(
    voices, shipped, sketches, monkeypatch, tmp_path, work
):
    monkeypatch.setattr(tts_report, "load_speaker", tts_systems.load_speaker)
    monkeypatch.setitem(tts_registry.FLOW_FILES, "ar", "none.safetensors")
    found = evaluate_tts([voices], SpeechEvaluation(limit=1), work / "report")
    assert [row.system for row in found.rows] == [GROUND_TRUTH, CODEC]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("Myna's own speech is left out: the decoder flow needs none.safetensors")
    assert found.notes[0] in found.to_markdown()
    assert found.models == {"codec": "myna-24k"}
    assert (found.hard, found.hard_clips()) == (None, [])
    assert "real-time" not in found.to_markdown()
    assert sorted(path.name for path in (work / "report").iterdir()) == sorted(FILES)
    with pytest.raises(MissingModelError, match=r"no model file at ar\.safetensors"):
        evaluate_tts([voices], SpeechEvaluation(ar="ar.safetensors"))


def test_a_checkpoint_that_is_not_there_is_an_error(voices, shipped, monkeypatch, tmp_path):
    from myna.evaluation.tts.systems import load_speaker

    monkeypatch.setattr(tts_report, "load_speaker", load_speaker)
    with pytest.raises(MissingModelError, match=r"none\.safetensors"):
        evaluate_tts([voices], SpeechEvaluation(ar=tmp_path / "none.safetensors"))


def test_the_flow_decoder_speaks_after_the_token_ar_where_there_is_one(
    voices, shipped, speaker, sketches, save_tiny_flow, monkeypatch, tmp_path
):
    monkeypatch.setattr(tts_report, "load_speaker", tts_systems.load_speaker)
    save_tiny_flow(tmp_path)
    monkeypatch.setattr(tts_registry, "WEIGHTS", tmp_path / "none")
    monkeypatch.setattr(tts_registry, "NEXT", tmp_path)
    loaded = tts_systems.load_speaker(speaker.models.codec, decoder="flow")
    assert isinstance(loaded.models, FlowSpeech)
    options = SpeechEvaluation(
        limit=1, max_speakers=1, hard=False, measures=("similarity",), speech=SpeechOptions(decoder="flow")
    )
    found = evaluate_tts([voices], options)
    assert found.models == {"codec": "myna-24k", "ar": "myna-token-ar", "flow": "myna-flow"}
    assert next(row for row in found.rows if row.system == MYNA).n_clips == 1


def test_recordings_that_cannot_be_voices_are_named(voices, speaker, tmp_path):
    write_audio(tmp_path / "silence.wav", np.zeros(72_000, np.float32), 24_000)
    found = evaluate_tts([voices, tmp_path], QUICK, speaker=speaker)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("no voice was made of silence (")
    assert {clip.speaker for clip in found.clips} == {"ada", "bo"}
    with pytest.raises(
        InputError, match="nothing to say in any voice: no voice was made of silence"
    ) as error:
        evaluate_tts([tmp_path], QUICK, speaker=speaker)
    assert "\n" not in str(error.value)


def test_without_texts_there_is_nothing_to_say_but_those_of_a_file(speaker, tmp_path, ears):
    for i, clip in enumerate(list(ears.clips.values())[::3]):  # Ada and Bo
        folder = tmp_path / f"voice{i}"
        folder.mkdir()
        write_audio(folder / "prompt.wav", clip.wav, 24_000)  # two files of one name: two voices
    with pytest.raises(InputError, match="no text is beside the recordings"):
        evaluate_tts([tmp_path], QUICK, speaker=speaker)
    (tmp_path / "texts.txt").write_text("Hello.")
    options = dataclasses.replace(QUICK, texts=tmp_path / "texts.txt")
    found = evaluate_tts([tmp_path], options, speaker=speaker)
    assert [(row.system, row.n_clips, row.n_speakers) for row in found.rows] == [(MYNA, 2, 2)]
    assert [clip.likeness for clip in found.clips] == [
        Likeness(0.6, 0.0, 1.0, 0.0),
        Likeness(0.0, 0.6, 0.0, 1.0),
    ]
    with pytest.raises(InputError, match="no text is beside the prompt"):
        evaluate_tts([tmp_path], dataclasses.replace(options, prompt_text="with"), speaker=speaker)


# ---- the watch


def test_the_watch_sees_what_was_stopped():
    models = tiny_models()
    phones = Phones.from_ipa("wʌn tuː.")
    for longest, stopped in ((4000, False), (1, True)):
        models.stopped = False
        sampling = SamplingOptions(max_sound_frames=longest, max_pause_frames=longest)
        frames = list(models.first_codes(phones, None, sampling))
        assert models.stopped == stopped
        unwatched = list(super(WatchedValle, models).first_codes(phones, None, sampling))
        torch.testing.assert_close(frames, unwatched, rtol=0, atol=0)


# ---- what is written


def test_tables_and_json_say_the_same(report):
    parsed = json.loads(report.to_json())
    rows = cells_of(report.to_markdown())
    assert len(rows) == len(parsed["rows"]) == 3
    for row, cells in zip(parsed["rows"], rows, strict=True):
        assert cells[:3] == [row["source"], row["system"], str(row["n_clips"])]
        errors, characters, same, other, judged, judged_other, quality, *rest = cells[3:]
        factor, first, last, bound = rest
        shown = [
            float(number) for number in errors.replace("(", "").replace(")", "").replace("-", " ").split()
        ]
        assert shown == pytest.approx([100 * row[k] for k in ("wer", "wer_low", "wer_high")], abs=0.06)
        assert float(characters) == pytest.approx(100 * row["cer"], abs=0.06)
        assert float(same) == pytest.approx(row["similarity"], abs=6e-4)
        assert float(other) == pytest.approx(row["other_similarity"], abs=6e-4)
        assert float(judged) == pytest.approx(row["judge"], abs=6e-4)
        assert float(judged_other) == pytest.approx(row["other_judge"], abs=6e-4)
        assert float(quality) == pytest.approx(row["dnsmos"], abs=6e-3)
        assert [value == "" for value in (factor, first, last, bound)] == [row["bound"] is None] * 4
        if row["bound"] is not None:
            assert float(factor) == pytest.approx(row["real_time_factor"], abs=6e-3)
            assert float(first) == pytest.approx(1000 * row["first_audio"], abs=0.6)
    table = report.to_table(width=300)
    for row in rows:
        assert all(cell in table for cell in row)
    assert report.summary() in report.to_markdown()
    assert "2 voices" in report.summary()
    assert len(parsed["clips"]) == len(report.clips)


def test_a_folder_gets_the_report_and_the_pictures(voices, speaker, work):
    out = work / "new" / "report"
    found = evaluate_tts([voices], QUICK, out, speaker=speaker)
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert (out / "report.json").read_text("utf-8") == found.to_json()
    assert (out / "report.md").read_text("utf-8") == found.to_markdown()
    for name in ("bars.png", "scatter.png", "mel.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_stop_leaves_what_was_there(voices, speaker, work, monkeypatch):
    said = []

    def interrupted(*args):
        said.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(tts_report, "say_timed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_tts([voices], QUICK, work / "new", speaker=speaker)
    assert list(work.iterdir()) == []
    (work / "report.json").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        evaluate_tts([voices], QUICK, work, force=True, speaker=speaker)
    assert [path.read_text() for path in work.iterdir()] == ["mine"]
    said.clear()
    with pytest.raises(UsageError, match=r"report\.json exists; give --force"):
        evaluate_tts([voices], QUICK, work, speaker=speaker)
    assert said == []  # refused before any work


def test_a_report_replaces_an_earlier_one_when_forced(voices, speaker, sketches, work):
    (work / "report.json").write_text("mine")
    with pytest.raises(UsageError, match=r"report\.json exists"):
        evaluate_tts([voices], QUICK, work, speaker=speaker)
    assert (work / "report.json").read_text() == "mine"
    evaluate_tts([voices], QUICK, work, force=True, speaker=speaker)
    assert json.loads((work / "report.json").read_text("utf-8"))["rows"]


def test_without_matplotlib_there_are_no_pictures_and_both_reports_say_so(voices, speaker, work, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = evaluate_tts([voices], QUICK, work, speaker=speaker)
    assert sorted(path.name for path in work.iterdir()) == ["report.json", "report.md"]
    assert "matplotlib" in found.notes[0]
    assert json.loads((work / "report.json").read_text("utf-8"))["notes"] == list(found.notes)
    assert found.notes[0] in (work / "report.md").read_text("utf-8")


def test_what_was_said_is_kept_marked(voices, speaker, sketches, work):
    texts = work / "texts.txt"
    texts.write_text("One two three four five six.\nOne two three four five seven.\n", "utf-8")
    options = dataclasses.replace(QUICK, texts=texts, audio=True)
    found = evaluate_tts([voices], options, work / "out", speaker=speaker)
    ours = [clip for clip in found.clips if clip.system == MYNA]
    files = sorted((work / "out" / "audio").iterdir())
    lengths = []
    for path in files:
        with soundfile.SoundFile(path) as sound:
            assert is_synthetic(sound.copy_metadata())
        audio = read_audio(path)
        lengths.append(audio.samples.shape[1])
    assert sorted(lengths) == sorted(round(24_000 * clip.seconds) for clip in ours)  # none replaced another
    assert detect_watermark(np.concatenate([read_audio(path).samples[0] for path in files]), 24_000).found
    for name in FILES:
        (work / "out" / name).unlink()
    with pytest.raises(UsageError, match="holds recordings; give --force"):
        evaluate_tts([voices], options, work / "out", speaker=speaker)
    evaluate_tts([voices], options, work / "out", force=True, speaker=speaker)
    assert sorted((work / "out" / "audio").iterdir()) == files


# ---- the command


def test_the_command(voices, shipped, sketches, work, capsys):
    quick = ["evaluate", "tts", str(voices), "--limit", "1", "--max-voices", "1", "--no-hard"]
    assert cli.run([*quick, "--json", "--seed", "2", "--metric", "dnsmos", "--candidates", "2"]) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in parsed["rows"]] == [GROUND_TRUTH, CODEC, MYNA]
    assert (parsed["seed"], parsed["candidates"], parsed["preset"]) == (2, 2, "standard")
    assert parsed["models"] == {"codec": "myna-24k", "ar": "myna-ar", "nar": "myna-nar"}
    assert cli.run([*quick, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| voices | speech | clips |")
    assert cli.run([*quick, "--out", "report", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in (work / "report").iterdir()) == sorted(FILES)
    assert cli.run(["evaluate", "tts", "--voices", str(voices), "--quick"]) == 0
    out = capsys.readouterr().out
    assert "ground truth" in out
    assert "a quick look" in out
    assert "DNSMOS" not in out


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "nothing to evaluate on"),
        (("VOICES", "--markdown", "--json"), 2, "--out DIR writes both"),
        (("VOICES", "--threads", "0"), 2, "at least one thread"),
        (("VOICES", "--limit", "0"), 2, "limit of 0"),
        (("VOICES", "--max-voices", "0"), 2, "at least one voice"),
        (("VOICES", "--prompt-text", "maybe"), 2, "without, with, both"),
        (("VOICES", "--metric", "pesq"), 2, "wer, similarity, judge, dnsmos"),
        (("VOICES", "--preset", "loud"), 2, "standard, fast, best"),
        (("VOICES", "--seed", "-1"), 2, "seed"),
        (("VOICES", "--top-p", "2"), 2, "top-p"),
        (("VOICES", "--audio"), 2, "--out"),
        (("VOICES", "--out", "file"), 2, "is a file"),
        (("VOICES", "--texts", "none.txt"), 3, "none.txt"),
        (("VOICES", "--texts", "file"), 3, "holds no words"),
        (("VOICES", "--source", "radio"), 3, "radio"),
        (("none.tar",), 3, "does not exist"),
        (("file",), 3, "file"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(voices, shipped, work, capsys, args, code, words):
    (work / "file").touch()
    args = [str(voices) if arg == "VOICES" else arg for arg in args]
    assert cli.run(["evaluate", "tts", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("myna: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert [path.name for path in work.iterdir()] == ["file"]


def test_progress_counts_every_clip(voices, speaker):
    seen = []
    found = evaluate_tts([voices], QUICK, progress=lambda *done: seen.append(done), speaker=speaker)
    assert seen == [(i + 1, len(found.clips)) for i in range(len(found.clips))]
