"""Trainers of the flow path, on sets that the tests make: they learn, go on exactly, and share their gradients."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from myna.asr.model.features import log_mel
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.codec.checkpoint import weights_hash
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.data.checkpoint import load_checkpoint, read_safetensors
from myna.errors import InputError, MynaError, UsageError
from myna.layers.dit import DiTConfig
from myna.layers.mel import mel_centres
from myna.training.models.adversarial import CriticStep
from myna.training.models.flow import FlowNoise, FlowTrainer, FlowTraining
from myna.training.models.flow_adversary import Drawn, as_in_speaking, stretch
from myna.training.models.flow_batch import Reader
from myna.training.models.flow_recipe import FlowAdversary, FlowRecipe
from myna.training.models.mel_vocoder import MelVocoderTrainer
from myna.training.models.mel_vocoder_recipe import MelVocoderRecipe
from myna.training.models.phone_reader import PhoneReader, learn_to_read, read_by
from myna.training.models.token_ar import TokenARTrainer, tokens_of
from myna.training.models.token_ar_recipe import TokenARRecipe
from myna.training.sets.content import Content
from myna.training.sets.examples import ALL_SHOWN, Batches, ExampleOptions, Planner
from myna.training.sets.extract_mels import main as extract_mels
from myna.training.sets.extract_mels import resample, spoken
from myna.training.sets.extract_pitch import PitchSet
from myna.training.sets.extract_pitch import main as extract_pitch
from myna.training.sets.mel_set import MelItem, MelSet, MelUtterance, mel_set_bytes
from myna.training.sets.sounds import without_gaps
from myna.training.sets.speech_set import Aligned, SpeechItem, aligned_set_bytes
from myna.training.train import train
from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder
from myna.tts.decoders.flow.stream import FlowOptions, FlowStream, read_voice
from myna.tts.lm.token_ar import TokenAR, TokenARConfig
from myna.tts.text.phones import SYMBOLS, Phones

from ..states import assert_same_state

TINY = DiTConfig(width=32, depth=1, n_heads=2, hidden=24, kernel=3, context=400)
TINY_DIT = "{width: 32, depth: 1, n_heads: 2, hidden: 24, kernel: 3, context: 400}"
FLOW = [
    f"model={{text_width: 24, text_depth: 1, condition: 16, trunk: {TINY_DIT}, head: {TINY_DIT}}}",
    "tokens={width: 16, depth_before: 1, depth: 1, levels: [4, 3], look_ahead: 1}",
    "model.token_dims=2",
    "data.examples.prompt_frames=[10, 20]",
    *(
        "data.batch_frames=400",
        "blocks=[4, 8, 1000]",
        "log_every=1",
        "schedule={over: steps, warmup_steps: 2}",
    ),
    *("max_minutes=null", "save_every_minutes=null", "optimizer.lr=0.003"),
]
AR = [
    "model={width: 32, depth: 1, n_heads: 2, n_kv_heads: 1, hidden: 24, text_depth: 1, levels: [4, 3], extra: 4}",
    "data.examples.prompt_frames=[10, 20]",
    *(
        "data.batch_frames=400",
        "log_every=1",
        "schedule={over: steps, warmup_steps: 2}",
        "optimizer.lr=0.003",
    ),
    *("max_minutes=null", "save_every_minutes=null"),
]
VOCODER = [
    "model={width: 16, depth: 1, bands: 24, look_ahead: 2}",
    *("data.batch_size=2", "data.frames=60", "data.skipped=10", "data.sources=null", "data.held_out=null"),
    "data.shortest=0.5",
    *(
        "log_every=1",
        "schedule={over: steps, warmup_steps: 2}",
        "max_minutes=null",
        "save_every_minutes=null",
    ),
    "adversary={width: 4, samples: 4096, n_ffts: [256, 512], from_step: 1, heard_from: 2}",
]


def utterance(key: str, source: str, split: str, speaker: int, rng: np.random.Generator, text: bool = True):
    """A mel that follows from phones and speaker, so that learning shows."""
    n_phones = int(rng.integers(6, 10))
    lasts = rng.integers(3, 8, n_phones)
    lasts[-1] += lasts.sum() % 2
    pointer = np.repeat(np.arange(n_phones), lasts)
    symbols = rng.integers(14, 30, n_phones)
    bands = np.arange(80)
    mel = -5 + 2 * np.sin(bands / 9 + symbols[pointer][:, None]) + 0.3 * speaker
    vector = np.eye(256)[speaker]
    phones = np.stack([symbols, np.zeros(n_phones, int), np.zeros(n_phones, int)])
    item = MelItem(key, source, split, f"s{speaker}", 1.0, 1.0, 12_000.0, -float(rng.random()) * text)
    return MelUtterance(
        item,
        np.repeat(mel, 2, 0) + 0.1 * rng.standard_normal((2 * len(pointer), 80)),
        np.full(2 * len(pointer), 110.0 + 20 * speaker),
        pointer if text else np.full(len(pointer), -1),
        phones if text else phones[:, :0],
        vector,
    )


def heard(said: MelUtterance) -> MelUtterance:
    """With content that follows from the phones, or from the mel where there is no text."""
    table = np.random.default_rng(7).standard_normal((40, 6))
    known = said.pointer >= 0
    symbols = said.phones[0][said.pointer] if known.all() else np.zeros(len(said.pointer), int)
    return replace(said, content=np.where(known[:, None], 3 + 2 * table[symbols], said.mel[::2, :6]))


@pytest.fixture(scope="session")
def mels(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    said = [utterance(f"a{s}{i}", "synth", "train", s, rng) for s in range(3) for i in range(4)]
    said += [utterance(f"b{s}", "cvx", "train", s, rng, text=False) for s in range(3, 6)]
    said += [utterance(f"d{s}{i}", "synth", "dev", s, rng) for s in range(2) for i in range(3)]
    path = tmp_path_factory.mktemp("mels") / "mels.safetensors"
    path.write_bytes(mel_set_bytes(said))
    return path


def flow_run(mels: Path, out: Path, *more: str) -> list[str]:
    return [
        f"data.mel_sets=[{mels}]",
        f"output={out}",
        "data.held_out={examples: 4, every_steps: 20}",
        *FLOW,
        *more,
    ]


def scalars(out: Path, kind: str, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == kind and name in row]


@pytest.fixture(scope="session")
def trained(mels, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "run"
    train("myna-flow-cpu", flow_run(mels, out, "max_steps=40", "unrounded_until=5"), quiet=True)
    return out


# ---- sets


def test_a_mel_set_brings_back_what_was_written(tmp_path):
    rng = np.random.default_rng(1)
    said = [utterance(f"u{i}", "synth", "train", i, rng, text=i != 1) for i in range(3)]
    turned = [
        MelUtterance(u.item, np.asfortranarray(u.mel), u.pitch, u.pointer, u.phones, u.speaker) for u in said
    ]
    path = tmp_path / "mels.safetensors"
    path.write_bytes(mel_set_bytes(turned))
    found = MelSet([path, path])
    assert len(found) == 6
    assert found.items[4] == said[1].item
    for i, one in enumerate([*said, *said]):
        frames = slice(2 * found.starts[i], 2 * found.starts[i + 1])
        assert np.allclose(found.mel[frames], one.mel, atol=1e-2)
        assert np.array_equal(found.pointer[found.starts[i] : found.starts[i + 1]], one.pointer)
        assert np.array_equal(found.phones[:, found.phone_starts[i] : found.phone_starts[i + 1]], one.phones)
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="extract_mels"):
        MelSet([tmp_path / "other.safetensors"])
    with pytest.raises(InputError, match="no mel set"):
        MelSet([])


def test_recordings_share_windows_of_the_recogniser():
    torch.manual_seed(0)
    dims = WhisperDims(
        n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_text_state=16, n_text_head=2, n_text_layer=1
    )
    content = Content(Whisper(dims).eval())
    wavs = [0.1 * torch.randn(n) for n in (100, 31_999, 32_000, 300_000, 200_000, 500_001)]
    found = content(wavs)
    assert [tuple(one.shape) for one in found] == [(-(-len(wav) // 320), 16) for wav in wavs]
    window = torch.zeros(480_000)  # the fifth opens a window, since it does not fit behind the others
    window[:200_000] = wavs[4]
    assert torch.allclose(found[4], content.whisper.encode(log_mel(window)[None])[0, :625], atol=1e-5)
    assert torch.allclose(
        found[5][:1500], content.whisper.encode(log_mel(wavs[5][:480_000])[None])[0], atol=1e-5
    )
    assert content([]) == []


def test_batches_are_a_function_of_the_step(mels):
    speech = MelSet([mels])
    chosen = [i for i, item in enumerate(speech.items) if item.split == "train"]
    make = [Batches(Planner(speech, chosen, ExampleOptions()), 400, seed=3) for _ in range(2)]
    for step in (0, 5, 17):
        one, other = make[0].batch(step), make[1].batch(step)
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
    assert not torch.equal(make[0].batch(0).start, make[0].batch(1).start) or len(make[0].batch(0).start) == 1


def test_examples_hold_the_frames_that_were_planned(mels):
    speech = MelSet([mels])
    chosen = [i for i, item in enumerate(speech.items) if item.split == "train"]
    options = ExampleOptions(prompt_frames=(8, 12), hide_voice=0, hide_prompt=0, hide_speaker=0, hide_highs=0)
    plans = Planner(speech, chosen, options).draw(np.random.default_rng(0), 12)
    batch = Reader(speech, FlowConfig()).batch(plans, block=8, offset=0)
    for row in range(12):
        n, m = int(plans.prompt_frames[row]), int(plans.frames[row])
        assert n % 2 == m % 2 == 0
        for at, first, count in ((0, plans.prompt_start[row], n), (n, plans.start[row], m)):
            there = speech.mel[2 * first : 2 * (first + count)].float().T
            assert torch.equal(batch.mel[row, :, 2 * at : 2 * (at + count)], there)
        assert torch.equal(
            batch.pointer[row, n : n + m], speech.pointer[plans.start[row] : plans.start[row] + m]
        )
        assert (batch.blocks[row, :n] == 0).all()
        assert batch.blocks[row, n : n + m].tolist() == [1 + t // 8 for t in range(m)]
        assert int(batch.inside[row].sum()) == n + m
        assert speech.items[plans.utterance[row]].speaker == speech.items[plans.prompt_utterance[row]].speaker
    unknown = speech.n_phones[plans.utterance] == 0
    assert unknown.any()
    assert not batch.knows_phone[torch.from_numpy(unknown)].any()


def test_a_pitch_is_joined_over_its_gaps():
    pitch = torch.tensor([[0.0, 100, 0, 0, 400, 0], [0, 0, 0, 0, 0, 0]])
    joined = without_gaps(pitch)
    assert torch.allclose(joined[0], torch.tensor([100, 100, 158.74, 251.98, 400, 400]), atol=0.1)
    assert (joined[1] == joined[1, 0]).all()


def test_resampling_moves_the_pitch_and_silence_is_cut():
    t = torch.arange(24_000) / 24_000
    moved = resample(torch.sin(2 * torch.pi * 200 * t)[None], 1.25)
    assert moved.shape[1] == 19_200
    spectrum = torch.fft.rfft(moved[0]).abs()
    assert int(spectrum.argmax()) * 24_000 / 19_200 == pytest.approx(250, abs=2)
    wav = np.zeros(48_000, np.float32)
    wav[12_000:24_000] = 0.3
    assert spoken(wav) == (15, 60)
    assert spoken(wav[:100]) == (0, 0)


def test_mels_are_extracted_from_a_corpus(corpus, tmp_path, monkeypatch, vowels, capsys):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    meta = lambda key: {"source": "one" if key[0] == "a" else "two", "split": "train", "speaker": key}  # noqa: E731
    vowels(folder / "x.tar", {"a0": (110, 1.4), "a1": (150, 1.4), "b0": (200, 1.6)}, meta)
    item = SpeechItem("a0", "one", "train", "a0", 1.0, 0.0, 1.4, "", -1.0)
    phones = Phones.from_ipa("aɪ")
    pointer = torch.arange(70) * len(phones) // 70
    faster = Aligned(replace(item, speed=1.13), phones, pointer[:62])  # as a set for the AR holds it, too
    both = aligned_set_bytes([Aligned(item, phones, pointer), faster], 50)
    (tmp_path / "aligned.safetensors").write_bytes(both)
    assert extract_pitch([str(folder), str(tmp_path / "pitch.safetensors")]) == 0
    track = PitchSet(tmp_path / "pitch.safetensors")["a0"]
    assert np.median(track[track > 0]) == pytest.approx(110, rel=0.02)
    made = [str(folder), str(tmp_path / "mels.safetensors"), "--scale", "1:1", "--scale", "0.8:1.25"]
    dims = WhisperDims(
        n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_text_state=16, n_text_head=2, n_text_layer=1
    )
    whisper = Whisper(dims)
    monkeypatch.setattr("myna.training.sets.extract_mels.load_whisper", lambda *_: whisper)
    made += ["--content", "tiny.en"]
    files = [
        "--aligned",
        str(tmp_path / "aligned.safetensors"),
        "--pitch",
        str(tmp_path / "pitch.safetensors"),
    ]
    assert extract_mels([*made, *files]) == 0
    found = MelSet([tmp_path / "mels.safetensors"])
    # a1 has a text that was dropped, its source having texts; b0 has none.
    assert sorted((i.key, i.scale) for i in found.items) == [
        ("a0", 0.8),
        ("a0", 1.0),
        ("b0", 0.8),
        ("b0", 1.0),
    ]
    for i, one in enumerate(found.items):
        voiced = found.pitch[2 * found.starts[i] : 2 * found.starts[i + 1]]
        expected = (110 if one.key == "a0" else 200) * one.scale
        assert float(voiced[voiced > 0].float().median()) == pytest.approx(expected, rel=0.03)
    assert found.content is not None
    assert found.content.shape == (found.starts[-1], 16)
    lengths = {(one.key, one.scale): n for one, n in zip(found.items, found.n_frames, strict=True)}
    assert lengths["a0", 0.8] == pytest.approx(lengths["a0", 1.0] / 1.25, abs=2)
    assert lengths["a0", 1.0] == 70
    assert all(one.quality is None for one in found.items)
    wavs: list[np.ndarray] = []
    monkeypatch.setattr("myna.training.sets.extract_mels.dnsmos", lambda wav: wavs.append(wav) or 2.718)
    measured = [str(folder), str(tmp_path / "measured.safetensors"), *files, "--quality"]
    assert extract_mels(measured) == 0
    again = MelSet([tmp_path / "measured.safetensors"])
    assert [one.quality for one in again.items] == [2.72] * 2
    assert sorted(map(len, wavs)) == sorted(320 * int(n) for n in again.n_frames)  # at 16 kHz
    assert extract_mels([*made, *files]) != 0  # the output exists
    (tmp_path / "aligned.safetensors").write_bytes(aligned_set_bytes([faster], 50))
    assert extract_mels([*made, *files, "--force"]) != 0
    assert "--speed 1" in capsys.readouterr().err.splitlines()[-1]


# ---- trainers


def test_the_decoder_learns_and_brings_its_tokens(trained):
    losses = scalars(trained, "train", "mean_l2")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    tokenizer = load_checkpoint(
        SpeechTokenizer, SpeechTokensConfig, trained / "best.tokens.safetensors", "tokens"
    )
    file = read_safetensors(trained / "best.safetensors")
    assert file.metadata["tokens_hash"] == weights_hash(tokenizer)[:16]
    decoder = load_checkpoint(FlowDecoder, FlowConfig, trained / "best.safetensors", "flow")
    assert decoder.deviation.min() > 0.1


def test_tokens_learn_what_a_recogniser_hears(mels, tmp_path):
    rng = np.random.default_rng(0)
    said = [heard(utterance(f"a{s}{i}", "synth", "train", s, rng)) for s in range(3) for i in range(4)]
    said += [heard(utterance(f"b{s}", "cvx", "train", s, rng, text=False)) for s in range(3, 6)]
    said += [heard(utterance(f"d{s}{i}", "synth", "dev", s, rng)) for s in range(2) for i in range(3)]
    path, out = tmp_path / "mels.safetensors", tmp_path / "run"
    path.write_bytes(mel_set_bytes(said))
    assert MelSet([path, mels]).content is None
    train("myna-flow-cpu", flow_run(path, out, "max_steps=60", "losses.content=1"), quiet=True)
    errors = scalars(out, "train", "content")
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:3])
    assert scalars(out, "held-out", "content")
    with pytest.raises(InputError, match="--content"):
        train("myna-flow-cpu", flow_run(mels, tmp_path / "no", "max_steps=1", "losses.content=1"), quiet=True)


ADVERSARY = "adversary={width: 4, frames: 24, from_step: 1, heard_from: 2, generator: 0.1, features: 0.1}"
READING = "reading={width: 8, heard_from: 3, weight: 0.5, lr: 0.003}"


def test_a_discriminator_sees_a_stretch_of_the_target_and_nothing_else():
    b, t, bands = 3, 20, 80
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(b, t, 2 * bands, generator=generator) for _ in range(3))
    target = torch.zeros(b, t, dtype=torch.bool)
    target[0, 4:], target[1, 10:18], target[2, 14:17] = (
        True,
        True,
        True,
    )  # the last is shorter than the stretch
    known = torch.ones(b, 2 * bands)
    known[1].view(2, bands)[:, 70:] = 0
    batch = SimpleNamespace(target=target, bands=known, speaker=torch.eye(b))
    seen = stretch(Drawn(x, y, z), batch, 16, generator)  # pyright: ignore[reportArgumentType]
    assert seen.real.shape == seen.fake.shape == (b, 2, bands, 16)
    assert torch.equal(seen.real[:, 1], seen.fake[:, 1])
    frames = lambda part: part.T.reshape(-1, 2 * bands)  # noqa: E731
    for row, (real, fake, beside) in enumerate(
        zip(seen.real[:, 0], seen.fake[:, 0], seen.real[:, 1], strict=True)
    ):
        (at,) = [i for i in range(t) if torch.equal(frames(real)[0], x[row, i] * known[row])]
        n = min(8, int(target[row].sum()))
        assert target[row, at : at + n].all()
        for part, source in ((real, x), (fake, z), (beside, y)):
            assert torch.equal(frames(part)[:n], source[row, at : at + n] * known[row])
            assert not frames(part)[n:].any()


@pytest.mark.parametrize(
    ("judge", "heard_from", "rows"),
    [
        (ADVERSARY, 2, dict.fromkeys(("discriminator", "generator", "voice", "features"), 5)),
        (READING, 3, {"reading": 6, "read": 6}),
    ],
    ids=["discriminator", "reader of phones"],
)
def test_the_decoder_learns_from_what_judges_it(mels, tmp_path, judge, heard_from, rows):
    """It follows it from its step on, and a run with one goes on exactly."""
    whole, parts, alone = (tmp_path / name for name in ("whole", "parts", "alone"))
    constant = "schedule.decay=constant"
    train("myna-flow-cpu", flow_run(mels, whole, "max_steps=6", constant, judge), quiet=True)
    for steps in (3, 6):
        train("myna-flow-cpu", flow_run(mels, parts, f"max_steps={steps}", constant, judge), quiet=True)
    assert_same_state(whole / "state.pt", parts / "state.pt")
    assert {name: len(scalars(whole, "train", name)) for name in rows} == rows
    unheard = judge.replace(f"heard_from: {heard_from}", "heard_from: 100")
    train("myna-flow-cpu", flow_run(mels, alone, "max_steps=6", constant, unheard), quiet=True)
    mine, other = scalars(whole, "train", "flow"), scalars(alone, "train", "flow")
    assert mine[: heard_from + 1] == other[: heard_from + 1]
    assert mine[heard_from + 1 :] != other[heard_from + 1 :]


def test_the_head_alone_learns(mels, trained, tmp_path):
    start = [
        f"init_from={trained / 'last.safetensors'}",
        f"init_tokens={trained / 'last.tokens.safetensors'}",
    ]
    alone = [
        *start,
        "train_tokens=false",
        "head_alone=true",
        "max_steps=6",
        "half_precision_export=false",
        ADVERSARY,
    ]
    train("myna-flow-cpu", flow_run(mels, tmp_path / "run", *alone), quiet=True)
    before, after = (
        load_checkpoint(FlowDecoder, FlowConfig, path / "last.safetensors", "flow")
        for path in (trained, tmp_path / "run")
    )
    heads = {id(p) for part in after.head_parts() for p in part.parameters()}
    moved = 0
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        if id(other) in heads:
            moved += not torch.equal(one, other)
        else:
            assert torch.equal(one, other)
    assert moved > 10
    for wrong in (
        ["head_alone=true", "max_steps=6"],
        [*alone, "flow_from=3"],
        [ADVERSARY, "flow_from=9", "max_steps=9"],
        [READING, "flow_from=9", "max_steps=9"],
    ):
        with pytest.raises(UsageError, match=r"head_alone|flow_from"):
            train("myna-flow-cpu", flow_run(mels, tmp_path / "wrong", *wrong), quiet=True)


def reading_batch(b: int, t: int, generator: torch.Generator) -> SimpleNamespace:
    target = torch.zeros(b, t, dtype=torch.bool)
    target[:, 4:] = True
    return SimpleNamespace(
        target=target,
        symbols=torch.randint(3, 40, (b, t), generator=generator),
        knows_phone=target.clone(),
        knows_token=torch.zeros(b, t // 2, dtype=torch.bool),
    )


def test_a_reader_learns_from_recordings_alone():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    reader = PhoneReader(width=16, dilations=(1, 2))
    batch = reading_batch(2, 12, generator)
    batch.symbols[:, ::3] = -1
    clean = torch.randn(2, 12, 160, generator=generator)
    still = torch.autocast("cpu", torch.bfloat16, enabled=False)
    step = CriticStep(reader, torch.optim.AdamW(reader.parameters()), 1e-2, 5.0)
    losses = [float(learn_to_read(reader, clean, batch, step, still)["reading"]) for _ in range(40)]  # pyright: ignore[reportArgumentType]
    assert losses[-1] < 0.2 * losses[0]
    before = [p.clone() for p in reader.parameters()]
    drawn = torch.randn(2, 12, 160, generator=generator, requires_grad=True)
    found = read_by(reader, drawn, batch, still)  # pyright: ignore[reportArgumentType]
    (gradient,) = torch.autograd.grad(found["read"], drawn)
    assert all(p.requires_grad and p.grad is not None for p in reader.parameters())  # of its own step
    assert all(torch.equal(p, q) for p, q in zip(before, reader.parameters(), strict=True))
    assert gradient[:, 4:].any()
    assert not gradient[:, :4].any()  # the prompt is not read
    highs = mel_centres(24_000, 80).repeat(2) >= 7400
    assert not gradient[..., highs].any()  # recordings of 16 kHz have none
    batch.knows_phone[0] = False  # neither phones nor tokens: nothing to be read
    hidden = read_by(reader, drawn, batch, still)["read"]  # pyright: ignore[reportArgumentType]
    (gradient,) = torch.autograd.grad(hidden, drawn)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_pauses_are_read_as_one_symbol():
    reader = PhoneReader(width=4, dilations=())
    logits = torch.zeros(1, 2, len(SYMBOLS))
    logits[..., SYMBOLS.index(" ")] = 9
    pauses = torch.tensor([[SYMBOLS.index(","), SYMBOLS.index(" ")]])
    loss, right = reader.unlike(logits, pauses)
    assert float(right) == 1
    assert float(loss) < 0.1


def test_a_decoder_learns_how_clearly_a_text_is_said(mels, trained, tmp_path):
    """Weights that were not told of it begin as they were; what is not told changes nothing."""
    start = [
        f"init_from={trained / 'last.safetensors'}",
        f"init_tokens={trained / 'last.tokens.safetensors'}",
        "train_tokens=false",
        "half_precision_export=false",
    ]
    told = [*start, "model.clarity=true"]
    train("myna-flow-cpu", flow_run(mels, tmp_path / "run", *told, "max_steps=6"), quiet=True)
    before, after = (
        load_checkpoint(FlowDecoder, FlowConfig, path / "last.safetensors", "flow")
        for path in (trained, tmp_path / "run")
    )
    assert before.clarity is None
    assert after.clarity is not None
    with torch.no_grad():
        clear, mumbled, unknown = after.clarity(torch.tensor([-1.0, -3.0, math.nan]))
    assert not torch.equal(clear, mumbled)
    assert not torch.equal(clear, unknown)
    fresh = FlowDecoder(after.config)
    voice = torch.randn(1, after.config.condition)
    assert torch.equal(fresh.told(voice, torch.tensor([-1.0])), voice)
    assert torch.equal(before.told(voice, torch.tensor([-1.0])), voice)
    run = [f"init_from={tmp_path / 'run' / 'last.safetensors'}", *start[1:], "max_steps=1"]
    with pytest.raises(UsageError, match="clarity"):
        train("myna-flow-cpu", flow_run(mels, tmp_path / "back", *run), quiet=True)


def test_how_clearly_is_told_unless_hidden_or_without_text(mels):
    speech = MelSet([mels])
    chosen = [i for i, item in enumerate(speech.items) if item.split == "train"]
    reader = Reader(speech, FlowConfig())
    for share in (0.0, 1.0):
        options = ExampleOptions(prompt_frames=(8, 12), hide_clarity=share)
        plans = Planner(speech, chosen, options).draw(np.random.default_rng(0), 30)
        told = reader.batch(plans, 24, 0).clarity
        for row, i in enumerate(plans.utterance.tolist()):
            if share or not speech.n_phones[i]:
                assert told[row].isnan()
            else:
                assert told[row] == pytest.approx(speech.items[i].score)


def test_what_is_said_was_recorded_well_and_prompts_need_not_be(mels):
    speech = MelSet([mels])
    chosen = [i for i, item in enumerate(speech.items) if item.split == "train"]
    with pytest.raises(UsageError, match=r"no quality; make them again with `extract_mels --quality`"):
        Planner(speech, chosen, ExampleOptions(), least_quality=3.0)
    # Every other recording is bad, the last was not measured.
    speech.items = tuple(
        replace(item, quality=None if i == chosen[-1] else 3.5 if i % 2 else 2.5)
        for i, item in enumerate(speech.items)
    )
    options = ExampleOptions(prompt_frames=(8, 12), own_prompt=0)
    plans = Planner(speech, chosen, options, least_quality=3.0).draw(np.random.default_rng(0), 200)
    good = {i for i in chosen if i % 2 or i == chosen[-1]}
    assert set(plans.utterance.tolist()) == good
    assert set(plans.prompt_utterance.tolist()) - good


def test_noise_is_added_to_prompts_and_to_nothing_else(mels):
    speech = MelSet([mels])
    chosen = [i for i, item in enumerate(speech.items) if item.split == "train"]
    plain = ExampleOptions(prompt_frames=(8, 12))
    batches = []
    for options in (plain, replace(plain, disturb_prompt=0.5)):
        torch.manual_seed(0)
        plans = Planner(speech, chosen, options).draw(np.random.default_rng(0), 30)
        batches.append((plans, Reader(speech, FlowConfig()).batch(plans, 24, 0)))
    (_, clean), (plans, noisy) = batches
    changed = (clean.mel != noisy.mel).any(1)
    for row, n in enumerate(plans.prompt_frames.tolist()):
        assert not changed[row, 2 * n :].any()
        assert bool(changed[row, : 2 * n].any()) == bool(plans.disturb_prompt[row])
    assert 5 < int(plans.disturb_prompt.sum()) < 25
    assert torch.equal(clean.pointer, noisy.pointer)
    assert torch.equal(clean.speaker, noisy.speaker)


def test_a_share_of_the_examples_is_drawn_as_in_speaking():
    torch.manual_seed(0)
    time, sample = torch.full((400,), 0.7), torch.ones(400, 2, 3)
    moved, noise, spoken, second = as_in_speaking(time, sample, FlowAdversary(spoken=0.5, temperature=0.4))
    assert 170 < int(spoken.sum()) < 230
    assert 80 < int(second.sum()) < 120
    assert spoken[second].all()
    assert (moved[~spoken] == 0.7).all()
    assert (noise[~spoken] == 1).all()
    assert (moved[second] == 0.5).all()
    assert (moved[spoken & ~second] == 0).all()
    assert (noise[spoken] == 0.4).all()


def test_something_is_judged_in_every_step():
    """Processes that share gradients must not skip the discriminator, one without the others."""
    for seed in range(30):
        torch.manual_seed(seed)
        assert as_in_speaking(torch.zeros(1), torch.zeros(1, 2, 3), FlowAdversary(spoken=0.1))[2].any()


def test_the_second_step_reads_what_the_first_drew(mels):
    """As a stream in two steps of one block does, with the same noise."""
    speech = MelSet([mels])
    config = FlowConfig(text_width=24, text_depth=1, condition=16, trunk=TINY, head=TINY, token_dims=2)
    torch.manual_seed(0)
    decoder = FlowDecoder(config).eval()
    for out in (decoder.out, decoder.head_out):
        torch.nn.init.normal_(out.weight, 0, 0.1)
    tokenizer = SpeechTokenizer(
        SpeechTokensConfig(width=16, depth_before=1, depth=1, levels=(4, 3), look_ahead=1)
    )
    net = FlowTraining(decoder, tokenizer).eval()
    train_items = [
        i for i, item in enumerate(speech.items) if item.source == "synth" and item.split == "train"
    ]
    plans = Planner(speech, train_items, replace(ALL_SHOWN, prompt_frames=(10, 10))).draw(
        np.random.default_rng(3), 1
    )
    plans.hide_tokens[:] = True
    batch = Reader(speech, config).batch(plans, 100_000, 0)
    n, m = int(plans.prompt_frames[0]), int(plans.frames[0])
    options = FlowOptions(steps=2, guidance=0.0, temperature=0.5, blocks=(1000,))
    drawn = torch.Generator().manual_seed(5)
    sample = torch.zeros(1, batch.pointer.shape[1], config.frame)
    sample[0, n : n + m] = 0.5 * torch.stack([torch.randn(config.frame, generator=drawn) for _ in range(m)])
    yes = torch.ones(1, dtype=torch.bool)
    noise = FlowNoise(
        torch.full((1,), 0.5), sample, ~yes, ~batch.knows_token, torch.zeros(1, sample.shape[1] // 2, 2),
        torch.zeros(1, 256), yes, yes, 1.0,
    )  # fmt: skip
    with torch.no_grad():
        _, made = net(batch, noise, True)
    i, prompt = int(plans.utterance[0]), int(plans.prompt_utterance[0])
    speaker = torch.nn.functional.normalize(speech.speakers[prompt].float(), dim=0)
    voice = read_voice(decoder, batch.mel[0, :, : 2 * n], speaker, None, options)
    phones = speech.phones[:, speech.phone_starts[i] : speech.phone_starts[i + 1]]
    stream = FlowStream(decoder, phones, voice, options, seed=5)
    spoken = torch.cat([stream.push(batch.pointer[0, n : n + m]), stream.flush()], dim=1)
    error = (decoder.mel(made.head)[0, :, 2 * n : 2 * (n + m)] - spoken).abs()
    assert error.max() < 1e-3


def test_a_stopped_run_goes_on_exactly(mels, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train("myna-flow-cpu", flow_run(mels, whole, "max_steps=6", "schedule.decay=constant"), quiet=True)
    for steps in (3, 6):
        train(
            "myna-flow-cpu",
            flow_run(mels, parts, f"max_steps={steps}", "schedule.decay=constant"),
            quiet=True,
        )
    one, other = (
        torch.load(p / "state.pt", weights_only=True)["modules"]["myna-flow"] for p in (whole, parts)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tokens_stay_when_they_are_kept(mels, trained, tmp_path):
    kept = trained / "best.tokens.safetensors"
    more = [
        f"init_from={trained / 'best.safetensors'}",
        f"init_tokens={kept}",
        "train_tokens=false",
        "max_steps=3",
    ]
    train("myna-flow-cpu", flow_run(mels, tmp_path / "run", *more), quiet=True)
    before = read_safetensors(kept).weights
    after = read_safetensors(tmp_path / "run" / "last.tokens.safetensors").weights
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_ar_learns_from_the_tokens(mels, trained, tmp_path):
    tokens = trained / "best.tokens.safetensors"
    out = tmp_path / "run"
    own = [f"data.mel_sets=[{mels}]", f"data.tokens={tokens}", f"output={out}", "max_steps=40"]
    train("myna-token-ar-cpu", [*own, "data.held_out={examples: 4, every_steps: 40}", *AR], quiet=True)
    losses = scalars(out, "train", "loss")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    load_checkpoint(TokenAR, TokenARConfig, out / "best.safetensors", "token-ar")
    again = [
        f"data.mel_sets=[{mels}]",
        f"data.tokens={tokens}",
        f"output={tmp_path / 'again'}",
        "max_steps=1",
    ]
    more = [*again, f"init_from={out / 'best.safetensors'}", "data.held_out=null", *AR, "model.dropout=0.3"]
    train("myna-token-ar-cpu", more, quiet=True)  # what no weight depends on may differ
    with pytest.raises(UsageError, match="has hidden"):
        train("myna-token-ar-cpu", [*more, "model.hidden=48", f"output={tmp_path / 'other'}"], quiet=True)
    tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, tokens, "tokens")
    speech = MelSet([mels])
    found = tokens_of(speech, tokenizer, batch=5)
    alone = tokenizer.tokens(speech.mel[: 2 * speech.starts[1]].float().T[None])[0]
    assert torch.equal(found[: len(alone)], alone)


def test_the_vocoder_learns(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    pitch = tmp_path / "pitch.safetensors"
    assert extract_pitch([str(corpus), str(pitch)]) == 0
    out = tmp_path / "run"
    own = [f"data.corpora=[{corpus}]", f"data.pitches=[{pitch}]", f"output={out}", "max_steps=30"]
    train("myna-mel-vocoder-cpu", [*own, *VOCODER], quiet=True)
    losses = scalars(out, "train", "mel")
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert len(scalars(out, "train", "generator")) > 10
    load_checkpoint(MelVocoder, MelVocoderConfig, out / "last.safetensors", "mel-vocoder")


def test_two_processes_share_their_gradients(mels, trained, tmp_path, two_processes):
    judged = ADVERSARY.replace("from_step: 1", "from_step: 1, spoken: 0.2")
    flow = flow_run(mels, tmp_path / "flow", "max_steps=4", "flow_from=1", judged, READING)
    found = two_processes(FlowTrainer, FlowRecipe, "myna-flow-cpu", flow)
    assert found == [
        "batches differ 4",
        "discriminator same 4",
        "myna-flow same 4",
        "phone_reader same 4",
    ]
    tokens = trained / "best.tokens.safetensors"
    own = [f"data.mel_sets=[{mels}]", f"data.tokens={tokens}", f"output={tmp_path / 'ar'}", "max_steps=3"]
    ar = [*own, "data.held_out=null", *AR]
    assert two_processes(TokenARTrainer, TokenARRecipe, "myna-token-ar-cpu", ar) == [
        "batches differ 3",
        "myna-token-ar same 3",
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("data.mel_sets=[nowhere.safetensors]", InputError, "extract_mels"),
        ("data.sources={nobody: 1}", UsageError, "'nobody' has a weight but no utterances"),
        ("train_tokens=false", UsageError, "init_tokens must name"),
        ("init_from=nowhere.safetensors", MynaError, "nowhere"),
        ("data.examples.hide_voice=2", MynaError, "hide_voice is a share"),
    ],
)
def test_mistakes_are_one_line(mels, tmp_path, change, error, message):
    with pytest.raises(error, match=message) as caught:
        train("myna-flow-cpu", [*flow_run(mels, tmp_path / "run", "max_steps=1"), change], quiet=True)
    assert "\n" not in str(caught.value)


def test_a_vocoder_of_other_dimensions_is_refused(trained, corpus, tmp_path):
    with pytest.raises(InputError, match="holds flow, expected mel-vocoder"):
        load_checkpoint(MelVocoder, MelVocoderConfig, trained / "best.safetensors", "mel-vocoder")
    assert MelVocoderTrainer.name == "myna-mel-vocoder"
    assert MelVocoderRecipe.model_fields["kind"].default == "mel-vocoder"
