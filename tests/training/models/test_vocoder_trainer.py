"""From an AR that is overheard to a vocoder that has learned: hidden sets, and the trainer whole."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import save_checkpoint, weights_hash
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.registry import load_codec
from myna.data.corpus import open_corpus
from myna.errors import InputError, MynaError, UsageError
from myna.layers.harmonic import PITCHES, Sound
from myna.training.models.vocoder_recipe import VocoderRecipe
from myna.training.models.vocoder_trainer import VocoderTrainer, pitch_losses, without_gaps
from myna.training.sets import extract_hidden
from myna.training.sets.extract_hidden import HiddenOptions, Overhearing, overheard, said_alone, track_pitch
from myna.training.sets.extract_hidden import main as extract_main
from myna.training.sets.extract_speech import Extractor
from myna.training.sets.hidden_set import HiddenSet
from myna.training.sets.lm_data import ExampleOptions, Planner, collate
from myna.training.sets.speech_set import Speech, SpeechItem, SpeechSet, speech_set_bytes
from myna.training.train import train
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import SpeechBatch
from myna.tts.registry import load_ar, load_vocoder, save_model
from myna.tts.text.phones import Phones

parselmouth = pytest.importorskip("parselmouth")

RATE, K, N, V, D = 24_000, 4, 2, 16, 8
MODEL = (
    f"model={{n_codebooks: {K}, n_coarse: {N}, codebook_size: {V}, codebook_dim: {D}, hidden: 16, width: 24, depth: 2, "
    "fine_width: 16, fine_depth: 1, voice_width: 16, voice: 8, bands: 24, look_ahead: 2, depth_before: 1, "
    "prompt_width: 16, prompt_heads: 2}"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory, vowels):
    """Three recordings of each of three voices, their speech set, a codec and an AR, on disk."""
    folder = tmp_path_factory.mktemp("vocoder")
    small = {"width": 24, "latent_width": 24, "encoder_depth": (1, 1), "decoder_depth": (1, 1), "n_paths": 1}
    torch.manual_seed(0)
    codec = MynaCodec(MynaConfig(hop=240, latent_dim=D, n_codebooks=K, codebook_size=V, **small)).eval()
    (folder / "corpus").mkdir()
    meta = {"source": "synth", "split": "train", "sample_rate": RATE, "text": "a"}
    sounds = {f"s{s}-{i}": (110 + 60 * s + 4 * i, 1.6) for s in range(3) for i in range(3)}
    shard = folder / "corpus" / "synth-train-000.tar"
    wavs = vowels(shard, sounds, lambda key: {**meta, "speaker": key[:2]})
    save_checkpoint(codec, folder / "codec.safetensors")
    codec = load_codec(str(folder / "codec.safetensors"))
    extractor = Extractor(codec, open_corpus(folder / "corpus", RATE, folder / "corpus" / "cache"))
    phones = Phones.from_ipa("aiua")
    pointer = torch.arange(80) * len(phones) // 80
    items = [SpeechItem(key, "synth", "train", key[:2], 1.0, 0.0, 1.6, "a", 0.0) for key in wavs]
    said = [Speech(item, phones, pointer, torch.zeros(K, 80).long()) for item in items]
    codes = extractor.codes(said)
    said = [
        Speech(s.item, phones, pointer, torch.from_numpy(c).long()) for s, c in zip(said, codes, strict=True)
    ]
    spoken = weights_hash(codec)[:16]
    (folder / "speech.safetensors").write_bytes(speech_set_bytes(said, V, "codec", spoken, 50))
    config = ARConfig(
        n_codebooks=K,
        n_coarse=N,
        codebook_size=V,
        codebook_dim=D,
        width=16,
        depth=1,
        n_heads=2,
        n_kv_heads=1,
        hidden=16,
        text_depth=1,
    )
    save_model(ARModel(config, codec.rows()), folder / "ar.safetensors", spoken, {})
    return folder


@pytest.fixture(scope="module")
def hidden(world):
    """The hidden set of that AR."""
    out = world / "hidden.safetensors"
    arguments = [world / "ar.safetensors", world / "speech.safetensors", world / "corpus", out]
    options = ["--codec", world / "codec.safetensors", "--hours", "0.003"]
    assert extract_main([str(part) for part in (*arguments, *options)]) == 0
    return out


def overrides(world, hidden, folder, *more: str) -> list[str]:
    return [
        MODEL,
        f"output={folder / 'run'}",
        f"data.hidden_sets=[{hidden}]",
        f"data.corpus={world / 'corpus'}",
        f"data.cache={world / 'corpus' / 'cache'}",
        f"data.codec={world / 'codec.safetensors'}",
        "data.batch_size=2",
        "data.frames=60",
        "schedule.over=steps",
        "max_minutes=null",
        "save_every_minutes=null",
        "optimizer.lr=0.003",
        "ema=0.8",
        "adversary=null",
        *more,
    ]


def test_the_pitch_is_tracked_where_there_is_one():
    t = np.arange(RATE // 2) / RATE
    vowel = sum(0.2 / h * np.sin(2 * np.pi * 150 * h * t) for h in range(1, 9))
    wav = np.concatenate([np.zeros(RATE // 2), vowel, np.zeros(RATE // 2)]).astype(np.float32)
    pitch = track_pitch(wav, RATE, 150)
    assert pitch.shape == (150,)
    assert not pitch[:40].any()
    assert not pitch[110:].any()
    np.testing.assert_allclose(pitch[60:90], 150, rtol=0.01)


def test_gaps_are_joined_in_straight_lines():
    assert without_gaps(np.array([0, 100, 0, 0, 200, 0], np.float32)).tolist() == pytest.approx(
        [100, 100, 100 * 2 ** (1 / 3), 100 * 2 ** (2 / 3), 200, 200]
    )
    assert (without_gaps(np.zeros(3, np.float32)) > 0).all()


def test_a_hidden_set_holds_what_the_ar_knew(world, hidden):
    found, speech = HiddenSet(hidden), SpeechSet(world / "speech.safetensors")
    ar = load_ar(world / "ar.safetensors")
    assert found.ar_hash == weights_hash(ar)[:16]
    assert found.codec_hash == speech.codec_hash
    assert 6 <= len(found) <= 9
    for one in found:
        assert one.codes.shape == (N, 80)
        assert one.hidden.shape == (80, 16)
        assert one.pitch.shape == (160,)
        assert one.prompt.shape[0] == K
        assert one.prompt_mel.shape == (one.prompt.shape[1], 80)
        assert np.isfinite(one.prompt_mel).all()
        assert one.prompt_mel.std() > 0.02
        assert np.isfinite(one.hidden.astype(np.float32)).all()
        assert (one.pitch[20:140] > 100).mean() > 0.9  # vowels


def first_utterance(world) -> SpeechBatch:
    """Of the speech set, after a prompt without text."""
    speech = SpeechSet(world / "speech.safetensors")
    options = ExampleOptions(prompt_frames=(75, 80), prompt_text=0, join=0, drop_text=0, drop_voice=0)
    planner = Planner(speech, range(len(speech)), options)
    return collate([planner.read(planner.plan(0, np.random.default_rng(0)))])


def test_what_is_overheard_is_the_ar_after_the_true_frames(world):
    ar, batch = load_ar(world / "ar.safetensors"), first_utterance(world)
    n = int(batch.n_prompt[0])
    cold = HiddenOptions(temperature=1e-6, text_guidance=1.0)
    codes, states = overheard(ar, batch, cold, 1.0)
    with torch.no_grad():
        encoded = ar.encode_text(batch.phones, batch.n_phones, batch.drop_text)
        expected = ar.transformer(ar.frame_inputs(batch, encoded).transpose(1, 2)).transpose(1, 2)[0, n:]
        likeliest = ar.code_head(expected).argmax(-1)
    torch.testing.assert_close(states, expected)
    assert torch.equal(codes[0], likeliest)
    guided, _ = overheard(ar, batch, HiddenOptions(temperature=1e-6, text_guidance=30.0), 2.0)
    assert not torch.equal(guided, codes)


def test_an_ar_that_reads_its_own_codes_knows_something_else(world):
    speech = SpeechSet(world / "speech.safetensors")
    extractor = Extractor(
        load_codec(str(world / "codec.safetensors")),
        open_corpus(world / "corpus", RATE, world / "corpus" / "cache"),
    )
    ar = load_ar(world / "ar.safetensors")
    found = []
    for share in (0.0, 1.0):
        options = HiddenOptions(
            hours=0.0001, sources={"synth": 1.0}, own_share=share, most_own=1.0, alone=0.0
        )
        found.append(Overhearing(ar, speech, extractor, options).all()[0])
    assert found[0].item == found[1].item
    assert not np.array_equal(found[0].hidden, found[1].hidden)
    np.testing.assert_array_equal(found[0].pitch, found[1].pitch)


def test_alone_the_ar_goes_on_from_its_own_frames_in_the_rhythm_of_the_recording(world):
    ar, batch = load_ar(world / "ar.safetensors"), first_utterance(world)
    n = int(batch.n_prompt[0])
    codes, states = said_alone(ar, batch, seed=3)
    assert codes.shape == (N, 80)
    own = batch.codes.clone()
    own[0, :N, n:] = codes
    _, expected = overheard(ar, dataclasses.replace(batch, codes=own), HiddenOptions(), 1.0)
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(codes, said_alone(ar, batch, seed=3)[0])
    assert not torch.equal(codes, said_alone(ar, batch, seed=4)[0])


def test_an_ar_that_speaks_in_anothers_voice_leaves_the_prompt_to_the_vocoder(world, monkeypatch):
    speech = SpeechSet(world / "speech.safetensors")
    extractor = Extractor(
        load_codec(str(world / "codec.safetensors")),
        open_corpus(world / "corpus", RATE, world / "corpus" / "cache"),
    )
    ar = load_ar(world / "ar.safetensors")
    seen: list[torch.Tensor] = []

    def watched(model, batch, seed):
        seen.append(batch.codes[0, :, : int(batch.n_prompt[0])])
        return said_alone(model, batch, seed)

    monkeypatch.setattr(extract_hidden, "said_alone", watched)
    options = HiddenOptions(hours=0.0005, sources={"synth": 1.0}, alone=1.0, exchanged=1.0)
    found = Overhearing(ar, speech, extractor, options).all()
    assert len(found) == len(seen) >= 2

    def speakers(prompt: torch.Tensor) -> set[str]:
        """Whose recordings the frames are from, all of them."""
        frames = set(map(tuple, prompt.T.tolist()))
        by_speaker: dict[str, set[tuple[int, ...]]] = {}
        for i, item in enumerate(speech.items):
            by_speaker.setdefault(item.speaker, set()).update(map(tuple, speech[i].codes.T.tolist()))
        return {speaker for speaker, known in by_speaker.items() if frames <= known}

    for one, heard in zip(found, seen, strict=True):
        assert one.alone
        assert one.item.speaker in speakers(torch.from_numpy(one.prompt.astype(np.int64)))
        assert speakers(heard) - {one.item.speaker}


def test_another_utterance_is_of_another_voice(world):
    speech = SpeechSet(world / "speech.safetensors")
    planner, rng = Planner(speech, range(len(speech)), ExampleOptions()), np.random.default_rng(0)
    others = {speech.items[planner.of_another(0, rng)].speaker for _ in range(40)}
    assert others == {item.speaker for item in speech.items} - {speech.items[0].speaker}
    alone = Planner(speech, range(3), ExampleOptions())
    assert alone.of_another(0, rng) in range(3)


def test_the_pitch_of_an_ar_that_speaks_alone_teaches_nothing(world, tmp_path):
    out = tmp_path / "alone.safetensors"
    arguments = [world / "ar.safetensors", world / "speech.safetensors", world / "corpus", out]
    options = ["--codec", world / "codec.safetensors", "--hours", "0.001", "--alone", "1"]
    assert extract_main([str(part) for part in (*arguments, *options)]) == 0
    assert all(one.alone for one in HiddenSet(out))
    torch.manual_seed(0)
    sound = Sound(torch.randn(2, PITCHES, 9), torch.randn(2, 9), torch.zeros(2, 4, 9), torch.zeros(2, 4, 9))
    pitch, voiced = torch.full((2, 9), 100.0), torch.ones(2, 9, dtype=torch.bool)
    first = Sound(*(part[:1] for part in (sound.pitch_logits, sound.voicing, sound.harmonic, sound.noise)))
    both = pitch_losses(sound, pitch, voiced, 0, torch.tensor([False, True]))
    one = pitch_losses(first, pitch[:1], voiced[:1], 0, torch.tensor([False]))
    torch.testing.assert_close(both["pitch"], one["pitch"])
    torch.testing.assert_close(both["pitch_right"], one["pitch_right"])
    none = pitch_losses(sound, pitch, voiced, 0, torch.tensor([True, True]))
    assert float(none["pitch"]) == 0
    assert float(none["voicing"]) == float(both["voicing"]) > 0


def test_the_loss_falls_and_the_vocoder_is_kept(world, hidden, tmp_path):
    held = f"data.held_out={{hidden_set: {hidden}, crops: 4, every_steps: 15}}"
    more = overrides(world, hidden, tmp_path, "max_steps=45", held)
    summary = train("myna-vocoder-cpu", more, quiet=True)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "held-out"]
    assert [row["step"] for row in rows] == [15, 30, 45]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["mel"] < rows[0]["mel"]
    assert {"pitch", "voicing", "pitch_right", "voicing_right"} <= rows[-1].keys()
    assert summary.best == rows[-1]["loss"]
    vocoder = load_vocoder(tmp_path / "run" / "best.safetensors")
    assert vocoder.config.hidden == 16

    again = train("myna-vocoder-cpu", overrides(world, hidden, tmp_path, "max_steps=46", held), quiet=True)
    assert again.steps == 46

    blind = overrides(world, hidden, tmp_path / "blind", "max_steps=1")
    train("myna-vocoder-cpu", blind, quiet=True)
    assert load_vocoder(tmp_path / "blind" / "run" / "last.safetensors").config == vocoder.config

    start = f"init_from={tmp_path / 'run' / 'best.safetensors'}"
    from_there = train(
        "myna-vocoder-cpu",
        [*overrides(world, hidden, tmp_path / "next", "max_steps=1", held), start],
        quiet=True,
    )
    assert from_there.best is not None
    assert from_there.best < 1.1 * rows[-1]["loss"]


def test_a_run_may_gain_a_discriminator_and_goes_on_exactly(world, hidden, tmp_path):
    adversary = "adversary={width: 4, frames: 30, heard_from: 6}"
    steady = "schedule.decay=constant"
    begun = overrides(world, hidden, tmp_path, "max_steps=4", "log_every=1", steady)
    train("myna-vocoder-cpu", begun, quiet=True)
    for steps in (6, 9):
        train(
            "myna-vocoder-cpu",
            [*begun, adversary, f"max_steps={steps}"],
            quiet=True,
        )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["discriminator" in row for row in rows] == [False] * 4 + [True] * 5
    assert all(np.isfinite(row["generator"]) for row in rows[4:])

    once = tmp_path / "once"
    train("myna-vocoder-cpu", [*overrides(world, hidden, once, "max_steps=4", steady)], quiet=True)
    train("myna-vocoder-cpu", [*overrides(world, hidden, once, "max_steps=9", steady), adversary], quiet=True)
    twice = load_vocoder(tmp_path / "run" / "last.safetensors").state_dict()
    for name, value in load_vocoder(once / "run" / "last.safetensors").state_dict().items():
        torch.testing.assert_close(value, twice[name], rtol=0, atol=0)


def test_two_processes_learn_the_same_weights_from_different_crops(world, hidden, tmp_path, two_processes):
    options = overrides(world, hidden, tmp_path, "max_steps=4", "data.batch_size=3")
    adversary = "adversary={width: 4, frames: 30, from_step: 1, heard_from: 2}"
    held = f"data.held_out={{hidden_set: {hidden}, crops: 2, every_steps: 2}}"
    found = two_processes(VocoderTrainer, VocoderRecipe, "myna-vocoder-cpu", [*options, adversary, held])
    assert found == ["batches differ 4", "discriminator same 4", "myna-vocoder same 4"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("data.hidden_sets=[nowhere.safetensors]", InputError, "is not there; make it with"),
        ("data.hidden_sets=[]", UsageError, "is empty"),
        ("model.hop=120", UsageError, "frames of 480 samples"),
        ("model.codebook_size=8", UsageError, "does not fit the codec"),
        ("init_from=nowhere.safetensors", MynaError, "nowhere"),
    ],
)
def test_mistakes_are_one_line(world, hidden, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        train("myna-vocoder-cpu", [*overrides(world, hidden, tmp_path, "max_steps=1"), change], quiet=True)
    assert "\n" not in str(caught.value)


def test_another_file_is_no_hidden_set(world, hidden, tmp_path):
    for content in (b"", b"RIFF", (world / "speech.safetensors").read_bytes(), hidden.read_bytes()[:-40]):
        path = tmp_path / "hidden.safetensors"
        path.write_bytes(content)
        with pytest.raises(InputError, match="extract_hidden"):
            HiddenSet(path)


def test_a_damaged_speech_set_or_ar_ends_in_one_line(world, tmp_path, capsys):
    arguments = [str(world / "speech.safetensors"), str(world / "corpus"), str(tmp_path / "out.safetensors")]
    codec = ["--codec", str(world / "codec.safetensors")]
    assert extract_main([str(world / "codec.safetensors"), *arguments, *codec]) != 0
    assert "is not an autoregressive speech model" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
