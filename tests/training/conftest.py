"""A corpus of a few seconds that the tests make: vowels of three notes, in two sources and two splits."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile as sf


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


@pytest.fixture
def tiny(corpus, tmp_path):
    """Overrides of the tiny recipe for a run of this test's own."""
    return [f"data.corpus={corpus}", f"data.cache={corpus / 'cache'}", f"output={tmp_path / 'run'}"]
