"""Mels that a flow decoder draws in the place of recordings, and a vocoder that learns from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import weights_hash
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.data.checkpoint import save_checkpoint
from myna.errors import InputError
from myna.layers.dit import DiTConfig
from myna.layers.mel import MelFrames
from myna.training.models.draw_mels import main as draw_mels
from myna.training.sets.drawn_set import DrawnSet, drawn_set_bytes
from myna.training.sets.extract_mels import main as extract_mels
from myna.training.sets.extract_pitch import main as extract_pitch
from myna.training.sets.mel_set import MelItem, MelSet, MelUtterance, mel_set_bytes
from myna.training.sets.sounds import Sounds
from myna.training.sets.speech_set import Aligned, SpeechItem, aligned_set_bytes
from myna.training.train import train
from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder
from myna.tts.text.phones import Phones

TINY = DiTConfig(width=32, depth=1, n_heads=2, hidden=24, kernel=3, context=400)


@pytest.fixture(scope="module")
def sets(tmp_path_factory, vowels):
    """A folder with a corpus of three voices, its pitch, alignment and mels, and mels that tiny models drew."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYNA_CACHE", str(folder / "cache"))
        (folder / "corpus").mkdir()
        meta = lambda key: {"source": "one", "split": "train", "speaker": key[0]}  # noqa: E731
        sounds = {"a0": (110, 1.4), "a1": (150, 1.8), "b0": (200, 1.6)}
        vowels(folder / "corpus" / "x.tar", sounds, meta)
        phones = Phones.from_ipa("aɪ")
        aligned = [
            Aligned(
                SpeechItem(key, "one", "train", key[0], 1.0, 0.2, 1.2, "", -1.0),
                phones,
                torch.arange(n) * len(phones) // n,
            )
            for key, n in (("a0", 60), ("a1", 60), ("b0", 60))
        ]
        (folder / "aligned").write_bytes(aligned_set_bytes(aligned, 50))
        assert extract_pitch([str(folder / "corpus"), str(folder / "pitch")]) == 0
        made = ["--aligned", str(folder / "aligned")]
        assert (
            extract_mels(
                [str(folder / "corpus"), str(folder / "mels"), *made, "--pitch", str(folder / "pitch")]
            )
            == 0
        )
        torch.manual_seed(0)
        tokens = SpeechTokenizer(
            SpeechTokensConfig(width=16, depth_before=1, depth=1, levels=(4, 3), look_ahead=1)
        )
        save_checkpoint(tokens, tokens.config, folder / "tokens", "tokens")
        flow = FlowDecoder(
            FlowConfig(text_width=24, text_depth=1, condition=16, trunk=TINY, head=TINY, token_dims=2)
        )
        torch.nn.init.normal_(flow.head_out.weight, 0, 0.1)
        notes = {"tokens_hash": weights_hash(tokens)[:16]}
        save_checkpoint(flow, flow.config, folder / "flow", "flow", notes)
        save_checkpoint(flow, flow.config, folder / "stranger", "flow", {"tokens_hash": "0" * 16})
        models = ["--flow", str(folder / "flow"), "--tokens", str(folder / "tokens")]
        command = [
            str(folder / "corpus"),
            str(folder / "drawn"),
            "--mels",
            str(folder / "mels"),
            *made,
            *models,
        ]
        assert draw_mels([*command, "--batch-frames", "150"]) == 0
        assert draw_mels(command) != 0  # the output exists
        assert draw_mels([*command, "--force", "--flow", str(folder / "stranger")]) != 0  # of other tokens
        again = [command[0], str(folder / "again"), *command[2:]]
        assert draw_mels([*again, "--batch-frames", "150"]) == 0
        once, twice = DrawnSet(folder / "drawn"), DrawnSet(folder / "again")
        assert all(torch.equal(once[key][1], twice[key][1]) for key in sounds)
        yield folder


def scalars(out: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row["kind"] == "train"]


def test_every_utterance_is_drawn_at_its_place(sets):
    speech, drawn = MelSet([sets / "mels"]), DrawnSet(sets / "drawn")
    assert len(drawn) == len(speech) == 3
    for i, item in enumerate(speech.items):
        first, mel = drawn[item.key]
        begins, n = round(0.2 * 50) if item.key != "b0" else None, int(speech.n_frames[i])
        if begins is None:  # the only utterance of its voice: its beginning is the prompt
            assert first > 20
            assert first + len(mel) == 20 + 2 * n
        else:
            assert (first, len(mel)) == (2 * begins, 2 * n)
        assert mel.isfinite().all()
        assert 0.1 < float(mel.float().std(0).mean()) < 5
    assert not torch.equal(drawn["a0"][1][:100], drawn["a1"][1][:100])


def test_crops_come_with_what_stands_for_their_mel(sets, tmp_path):
    """Where the drawn mels are the recordings' own, those of a crop are what its samples have."""
    plain = Sounds([sets / "corpus"], [sets / "pitch"], "train", sets / "cache")
    made, mel = [], MelFrames()
    for i, item in enumerate(plain.items[:2]):
        wav = plain.wav[plain.starts[i] : plain.starts[i] + int(plain.lengths[i])].float()[None] / 32768
        made.append((item.key, 30, mel(wav)[0].T.numpy()[30:100]))
    (tmp_path / "drawn").write_bytes(drawn_set_bytes(made))
    sounds = Sounds([sets / "corpus"], [sets / "pitch"], "train", sets / "cache", drawn=[tmp_path / "drawn"])
    seen = 0
    for seed in range(6):
        crops = sounds.crops(np.random.default_rng(seed), 4, 60, 1.0, (-6.0, 0.0), drawn=0.7)
        assert crops.mel is not None
        assert crops.drawn is not None
        own = mel(crops.wav)
        inside = crops.drawn.clone()
        inside[:, :3] = inside[:, -3:] = False  # frames there look beyond the crop
        here = inside[:, None].expand_as(own)
        assert torch.allclose(crops.mel[here], own[here], atol=2e-2)
        seen += int(inside.any(1).sum())
    assert 4 < seen < 20
    assert sounds.crops(np.random.default_rng(0), 4, 60, 1.1, (0, 0), drawn=1.0).mel is None
    with pytest.raises(InputError, match="draw_mels"):
        DrawnSet(sets / "mels")


def test_the_vocoder_learns_from_drawn_mels(sets, tmp_path):
    run = [
        *(
            f"data.corpora=[{sets / 'corpus'}]",
            f"data.pitches=[{sets / 'pitch'}]",
            f"data.cache={sets / 'cache'}",
        ),
        *(f"data.drawn=[{sets / 'drawn'}]", "data.drawn_share=1", "data.scaled=0", "data.sources=null"),
        "model={width: 16, depth: 1, bands: 24, look_ahead: 2}",
        *("data.batch_size=2", "data.frames=60", "data.skipped=10", "data.held_out=null", "log_every=1"),
        *(
            "max_steps=40",
            "data.gain_db=[0, 0]",
            "max_minutes=null",
            "save_every_minutes=null",
            f"output={tmp_path / 'run'}",
        ),
        "schedule={over: steps, warmup_steps: 2}",
    ]
    train("myna-mel-vocoder-cpu", run, quiet=True)
    losses = scalars(tmp_path / "run", "mel")
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    plain = [*run, "data.drawn=[]", "max_steps=1", f"output={tmp_path / 'plain'}"]
    train("myna-mel-vocoder-cpu", plain, quiet=True)
    assert abs(scalars(tmp_path / "plain", "mel")[0] / losses[0] - 1) > 0.01
    # What the recording's pitch is says nothing about a drawn one.
    assert scalars(tmp_path / "run", "pitch")[0] < scalars(tmp_path / "plain", "pitch")[0]


def test_a_corpus_that_the_mels_are_not_of_is_refused(sets, tmp_path, capsys):
    other = tmp_path / "mels"
    items = MelItem("z", "one", "train", "z", 1.0, 1.0, 12_000.0, 0.0)
    n = 60
    said = MelUtterance(
        items, np.zeros((2 * n, 80)), np.zeros(2 * n), np.full(n, -1), np.zeros((3, 0), int), np.eye(256)[0]
    )
    other.write_bytes(mel_set_bytes([said]))
    command = [
        str(sets / "corpus"),
        str(tmp_path / "out"),
        "--mels",
        str(other),
        "--aligned",
        str(sets / "aligned"),
    ]
    assert draw_mels([*command, "--flow", str(sets / "flow"), "--tokens", str(sets / "tokens")]) != 0
    assert "has no utterance of" in capsys.readouterr().err
