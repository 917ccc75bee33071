"""A corpus of a few seconds that the tests make: vowels of three notes, in two sources and two splits."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from myna.codec.checkpoint import save_checkpoint, weights_hash
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.registry import load_codec
from myna.training.sets.speech_set import Speech, SpeechItem, speech_set_bytes
from myna.tts.text.phones import Phones


def vowel(pitch: float, seconds: float, rate: int) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return sum(0.2 / h * np.sin(2 * np.pi * pitch * h * t + h) for h in range(1, 9)).astype(np.float32)


def opus(wav: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    sf.write(file, wav, rate, format="OGG", subtype="OPUS")
    return file.getvalue()


def write_shard(path, samples) -> None:
    """samples: of (key, audio bytes, metadata)."""
    with tarfile.open(path, "w") as tar:
        for key, audio, meta in samples:
            for suffix, data in (("opus", audio), ("json", json.dumps(meta).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="session")
def vowels():
    """A function that writes a shard of vowels: (path, {key: (pitch, seconds)}, metadata of each) -> samples by key."""

    def write(path, sounds, meta, rate=24_000):
        wavs = {key: vowel(*sound, rate) for key, sound in sounds.items()}
        write_shard(path, [(key, opus(wav, rate), {**meta(key), "key": key}) for key, wav in wavs.items()])
        return wavs

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The folder of shards, and the overrides that point a recipe to it."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, source, rate in (("train", "low", 16000), ("train", "high", 24000), ("dev", "high", 24000)):
        samples = [
            (
                f"{source}{split}{i}",
                opus(vowel(110 + 40 * i, 0.7, rate), rate),
                {"source": source, "split": split, "speaker": f"{source}{i}", "sample_rate": rate},
            )
            for i in range(3)
        ]
        write_shard(folder / f"{source}-{split}-000.tar", samples)
    return folder


SAVED_AT_THE_END = "save_every_steps=null"  # and where it is stopped: a state takes longer than a step


@pytest.fixture
def tiny(corpus, tmp_path):
    """Overrides of the tiny recipe for a run of this test's own."""
    data = [f"data.corpus={corpus}", f"data.cache={corpus / 'cache'}"]
    return [*data, f"output={tmp_path / 'run'}", SAVED_AT_THE_END]


@pytest.fixture(scope="session")
def lm_codec(tmp_path_factory):
    """A codec of four codebooks of 16, on disk."""
    torch.manual_seed(0)
    small = {"width": 24, "latent_width": 24, "encoder_depth": (1, 1), "decoder_depth": (1, 1)}
    codec = MynaCodec(MynaConfig(hop=24, latent_dim=8, n_codebooks=4, codebook_size=16, **small))
    path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    save_checkpoint(codec, path)
    return path


@pytest.fixture(scope="session")
def speech_file(lm_codec, tmp_path_factory):
    """A speech set whose codes follow from the phones and the voice, so that learning shows."""
    rng = np.random.default_rng(0)
    said = []
    for source, split, n_speakers, each in (
        ("synth", "train", 4, 8),
        ("joe", "train", 1, 12),
        ("synth", "dev", 2, 4),
        ("joe", "dev", 1, 3),
    ):
        for speaker in range(n_speakers):
            for speed in (1.0, 1.13) if split == "train" else (1.0,):
                for i in range(each):
                    item = SpeechItem(
                        f"{source}-{split}-{speaker}-{i}",
                        source,
                        split,
                        f"s{speaker}",
                        speed,
                        0.0,
                        1.0,
                        "",
                        0.0,
                    )
                    said.append(utterance(item, int(rng.integers(8, 22)), speaker, rng))
    path = tmp_path_factory.mktemp("speech") / "speech.safetensors"
    spoken = weights_hash(load_codec(lm_codec))[:16]
    path.write_bytes(speech_set_bytes(said, 16, "codec", spoken, 50))
    return path


def utterance(item: SpeechItem, n_sounds: int, speaker: int, rng: np.random.Generator) -> Speech:
    ipa = " ".join("".join(rng.choice(list("ptkaieou"), 4)) for _ in range(n_sounds // 4 + 1))
    phones = Phones.from_ipa(ipa)
    pointer = torch.from_numpy(np.repeat(np.arange(len(phones)), rng.integers(2, 7, len(phones))))
    symbol = phones.tokens[0, pointer]
    noise = torch.from_numpy(rng.integers(0, 16, len(pointer)))
    wrong = torch.from_numpy(rng.random(len(pointer)) < 0.1)
    first = torch.where(wrong, noise, (symbol + 5 * speaker) % 16)
    codes = torch.stack([first, (first + symbol) % 16, (2 * first + speaker) % 16, (symbol + speaker) % 16])
    return Speech(replace(item, score=-float(rng.random())), phones, pointer, codes)


@pytest.fixture
def processes(monkeypatch):
    """The module processes.py, which the processes that it starts can import, too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import processes

    return processes


@pytest.fixture
def two_processes(processes):
    """A function that trains in two processes, (trainer, recipe's class, recipe, overrides) -> what
    `processes.trained` returns."""
    return lambda *run: processes.in_two_processes(processes.trained, *run)


@pytest.fixture
def lm_tiny(lm_codec, speech_file, tmp_path):
    """Overrides of the tiny language model recipes for a run of this test's own."""
    data = [f"data.speech_set={speech_file}", f"data.codec={lm_codec}"]
    return [*data, f"output={tmp_path / 'run'}", SAVED_AT_THE_END]
