"""From a corpus to codes with phones: aligner trained on tones whose times are known, alignments, the speech set."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile as sf
import torch
from myna.codec.checkpoint import save_checkpoint, weights_hash
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.registry import load_codec
from myna.data.corpus import open_corpus
from myna.errors import InputError
from myna.training.models.aligner_recipe import AlignerRecipe
from myna.training.models.aligner_trainer import AlignerTrainer, align_utterances, boundary_errors
from myna.training.sets.align_corpus import align_corpus, round_samples, stretch
from myna.training.sets.align_corpus import main as align_main
from myna.training.sets.code_set import CodeSet
from myna.training.sets.extract_speech import Extractor
from myna.training.sets.extract_speech import main as extract_main
from myna.training.sets.join_speech import main as join_main
from myna.training.sets.speech_set import AlignedSet, SpeechSet
from myna.training.sets.utterances import read_utterances
from myna.training.train import train
from myna.tts.aligner import load_aligner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

RATE = 16_000
SOUNDS = {"a": 300, "i": 900, "u": 1900, "s": 4000}  # Hz
TINY = [
    "model.n_mels=16",
    "model.width=24",
    "model.dilations=[1,2]",
    "model.dropout=0",
    "data.seconds=4",
    "data.augment.band_share=0",
    "realign_at=[40]",
    "schedule.warmup_steps=5",
    "optimizer.lr=0.01",
    "ema=0.8",
]


def tones(rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """A recording of six sounds between two silences, and its phones with their times."""
    parts, phones, at = [np.zeros(RATE // 3)], [], 1 / 3
    for i in np.cumsum(rng.integers(1, len(SOUNDS), 6)) % len(SOUNDS):  # no sound twice in a row
        symbol = list(SOUNDS)[i]
        seconds = float(rng.uniform(0.06, 0.2))
        t = np.arange(int(seconds * RATE)) / RATE
        parts.append(0.3 * np.sin(2 * np.pi * SOUNDS[symbol] * t))
        phones.append([symbol, at, at + len(t) / RATE])
        at += len(t) / RATE
    parts.append(np.zeros(RATE // 2))
    wav = np.concatenate(parts)
    return (wav + 1e-4 * rng.standard_normal(len(wav))).astype(np.float32), phones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of shards: `timed` has exact times, `told` only the phonemes, one of which are of another recording,
    and `silent` no text."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    for source, split, n in (
        ("timed", "train", 12),
        ("timed", "dev", 3),
        ("told", "train", 4),
        ("silent", "train", 1),
    ):
        with tarfile.open(folder / f"{source}-{split}-000.tar", "w") as tar:
            for i in range(n):
                wav, phones = tones(rng)
                meta = {"source": source, "split": split, "speaker": f"{source}{i % 2}", "sample_rate": RATE}
                meta |= {"language": "en", "text": "a tone" if source != "silent" else None}
                if source == "timed":
                    meta |= {"phones": phones, "phone_times": "exact"}
                elif source == "told":
                    said = phones if i else tones(rng)[1]
                    meta["phonemes"] = "".join(p[0] for p in said)
                file = io.BytesIO()
                sf.write(file, wav, RATE, format="FLAC")
                for suffix, data in (("flac", file.getvalue()), ("json", json.dumps(meta).encode())):
                    info = tarfile.TarInfo(f"{source}-{split}{i}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    """A recipe for a tiny aligner of the tones; its runs go where the overrides say."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        f"kind: aligner\noutput: {path.parent / 'run'}\ndevice: cpu\nthreads: 1\nmax_steps: 60\n"
        f"data: {{corpus: {corpus}, cache: {corpus / 'cache'}, held_out: {{every_steps: null}}}}\n"
    )
    return path


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """The run's folder."""
    folder = tmp_path_factory.mktemp("trained")
    summary = train(recipe, [*TINY, f"output={folder}"], quiet=True)
    assert summary.steps == 60
    return folder


@pytest.fixture(scope="module")
def aligner(trained):
    return load_aligner(trained / "last.safetensors")


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "tiny.safetensors"
    torch.manual_seed(0)
    config = MynaConfig(
        name="tiny",
        width=240,
        latent_width=16,
        encoder_depth=(1, 1),
        decoder_depth=(0, 0),
        latent_dim=4,
        n_codebooks=2,
        codebook_size=16,
        n_paths=4,
    )
    save_checkpoint(MynaCodec(config), path)
    return path


@pytest.fixture(scope="module")
def made(corpus, trained, codec_file, tmp_path_factory):
    """The files of both commands."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYNA_CACHE", str(folder / "cache"))
        aligned, speech = folder / "aligned.safetensors", folder / "speech.safetensors"
        weights = str(trained / "last.safetensors")
        assert (
            align_main([str(corpus), str(aligned), "--aligner", weights, "--speed", "1", "--speed", "1.13"])
            == 0
        )
        assert extract_main([str(codec_file), str(corpus), str(aligned), str(speech)]) == 0
    return aligned, speech


def test_aligner_learns_where_sounds_begin(corpus, aligner):
    decoded = open_corpus(corpus, 24_000, corpus / "cache")
    held_out = read_utterances(corpus, decoded.select(("dev",)))
    for utterance, found in zip(held_out, align_utterances(aligner, decoded, held_out), strict=True):
        assert found is not None
        assert boundary_errors(utterance, found.starts(len(utterance.phones)) / 50).max() < 0.03


def test_resume_is_exact(recipe, tmp_path):
    """Over the step that aligns anew, too."""
    short = [*TINY, "max_steps=6", "realign_at=[2,4]", "save_every_steps=1"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(recipe, [*short, f"output={whole}"], quiet=True)
    for stop in (3, 6):
        train(
            recipe, [*short, f"max_steps={stop}", "schedule.decay=constant", f"output={halves}"], quiet=True
        )
    train(recipe, [*short, "schedule.decay=constant", f"output={tmp_path / 'constant'}"], quiet=True)
    one, other = (load_file(folder / "last.safetensors") for folder in (tmp_path / "constant", halves))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(
        not torch.equal(one[name], value) for name, value in load_file(whole / "last.safetensors").items()
    )


def test_only_what_has_a_text_is_read(corpus):
    decoded = open_corpus(corpus, 24_000, corpus / "cache")
    utterances = read_utterances(corpus, decoded)
    assert {u.item.source for u in utterances} == {"timed", "told"}
    assert all((u.times is not None) == (u.item.source == "timed") == u.exact for u in utterances)
    with pytest.raises(InputError, match=r"no recording in .* has a text in language 'fr'"):
        read_utterances(corpus, decoded, "fr")


def test_two_processes_train_one_aligner(recipe, tmp_path, two_processes):
    options = [*TINY, f"output={tmp_path / 'run'}", "max_steps=4", "realign_at=[2]"]
    found = two_processes(AlignerTrainer, AlignerRecipe, str(recipe), options)
    assert found[-2:] == ["aligner same 4", "batches differ 4"]


def test_what_does_not_fit_its_text_is_dropped_and_counted(corpus, aligner):
    decoded = open_corpus(corpus, 24_000, corpus / "cache")
    aligned, dropped = align_corpus(aligner, decoded, read_utterances(corpus, decoded), speeds=(1.0,))
    keys = [a.item.key for a in aligned]
    assert "told-train0" not in keys
    assert len(keys) == 18
    assert str(dropped) == "1 utterances dropped, whose text does not match (told 1)"


def test_pointers_follow_the_recording_at_every_speed(made, corpus):
    aligned = AlignedSet(made[0])
    decoded = open_corpus(corpus, 24_000, corpus / "cache")
    given = {u.item.key: u for u in read_utterances(corpus, decoded) if u.exact}
    checked = 0
    for entry in aligned:
        utterance = given.get(entry.item.key)
        if utterance is None:
            continue
        assert utterance.times is not None
        begin = torch.searchsorted(entry.pointer, torch.arange(len(entry.phones))) / 50
        expected = (utterance.times[:, 0] - entry.item.start) / entry.item.speed
        assert (begin - expected).abs()[1:-1].max() < 0.035, entry.item
        checked += 1
    assert checked == 30
    # A third of a second of silence in front, half of one after: cut to a quarter each.
    assert all(entry.item.start > 0.05 for entry in aligned)
    assert {entry.item.split for entry in aligned} == {"train", "dev"}


def test_codes_are_greedy_and_those_of_the_part_that_is_used(made, corpus, codec_file):
    speech = SpeechSet(made[1])
    codec = load_codec(str(codec_file))
    assert codec.quantizer.n_paths == 4
    extractor = Extractor(codec, open_corpus(corpus, 24_000, corpus / "cache"))
    for i in (0, 7, len(speech) - 1):
        entry = speech[i]
        wav = extractor.read(entry.item)
        codes = codec.encode(wav[None, None]).codes[0]
        n = len(entry.pointer)
        assert n == codec.n_frames(
            round_samples(round((entry.item.end - entry.item.start) * 24_000), entry.item.speed)
        )
        torch.testing.assert_close(entry.codes, codes[:, :n])
        assert not codec.encode(wav[None, None], search=True).codes[0, :, :n].equal(entry.codes)


def test_a_speech_set_is_a_code_set_and_an_aligned_set(made, codec_file):
    speech, aligned, codes = SpeechSet(made[1]), AlignedSet(made[0]), CodeSet.load(made[1])
    assert len(speech) == len(aligned) == 36
    assert speech.codec_hash == weights_hash(load_codec(str(codec_file)))[:16]
    for i, utterance in enumerate(codes.utterances()):
        assert np.array_equal(speech[i].codes.numpy(), utterance)
        assert torch.equal(speech[i].pointer, aligned[i].pointer)
        assert torch.equal(speech[i].phones.tokens, aligned[i].phones.tokens)
        assert speech.items[i] == aligned[i].item
    assert speech.n_frames.sum() == codes.n_frames
    with pytest.raises(IndexError):
        speech[36]
    assert torch.equal(speech[-1].codes, speech[35].codes)


def test_sets_join(made, trained, corpus, codec_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(made[0].parent / "cache"))
    slow, more, all_ = (tmp_path / f"{name}.safetensors" for name in ("slow", "more", "all"))
    weights = str(trained / "last.safetensors")
    assert (
        align_main([str(corpus), str(slow), "--aligner", weights, "--speed", "0.88", "--source", "timed"])
        == 0
    )
    assert extract_main([str(codec_file), str(corpus), str(slow), str(more)]) == 0
    assert join_main([str(all_), str(made[1]), str(more), str(made[1])]) == 0
    joined, first, second = SpeechSet(all_), SpeechSet(made[1]), SpeechSet(more)
    assert joined.items == first.items + second.items
    assert {item.speed for item in joined.items} == {0.88, 1.0, 1.13}
    for i in (0, 35, 36, 50):
        theirs = first[i] if i < 36 else second[i - 36]
        assert torch.equal(joined[i].codes, theirs.codes)
        assert torch.equal(joined[i].pointer, theirs.pointer)
    tensors = load_file(more)
    with safe_open(str(more), framework="pt") as file:
        save_file(tensors, more, metadata={**file.metadata(), "codec_hash": "0" * 16})
    assert join_main([str(all_), str(made[1]), str(more), "--force"]) == 2
    assert "different codecs" in capsys.readouterr().err


def test_damage_is_one_line(made, tmp_path):
    tensors = load_file(made[1])
    with safe_open(str(made[1]), framework="pt") as file:
        metadata = file.metadata()
    path = tmp_path / "damaged.safetensors"
    pointer = tensors["pointer"].clone()
    pointer[3] = 9
    cases = [
        ({"pointer": pointer}, {}, "does not walk"),
        ({"pointer": tensors["pointer"][:-1]}, {}, "different lengths"),
        ({"phones": tensors["phones"] + 1000}, {}, "does not know"),
        ({}, {"format": "9"}, "format 9"),
        ({}, {"utterances": "[]"}, "make it again"),
        ({}, {"codebook_size": "2"}, "not a file of codes"),
    ]
    for changed, described, message in cases:
        save_file({**tensors, **changed}, path, metadata={**metadata, **described})
        with pytest.raises(InputError, match=message) as error:
            SpeechSet(path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="extract_speech"):
        SpeechSet(made[0])
    with pytest.raises(InputError, match="align_corpus"):
        AlignedSet(tmp_path / "none.safetensors")


def test_commands_end_with_one_line(made, trained, corpus, codec_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    assert extract_main([str(codec_file), str(corpus), str(made[0]), str(made[1])]) == 2
    assert "--force" in capsys.readouterr().err
    weights = ["--aligner", str(trained / "last.safetensors")]
    assert align_main([str(tmp_path), str(tmp_path / "out.safetensors"), *weights]) == 3
    assert "no .tar shards" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_stretching():
    x = torch.arange(10.0)[:, None]
    assert torch.equal(stretch(x, 10, 1.0), x)
    assert torch.allclose(stretch(x, 5, 2.0)[:, 0], torch.tensor([0.5, 2.5, 4.5, 6.5, 8.5]))
    assert stretch(x, 12, 0.88).min() >= 0
