"""Standard input and output: any cut of the stream gives the bytes of a file, and sound comes early."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from myna.apps.cli import run
from myna.data.audio import read_audio

SPEECH = Path(__file__).resolve().parents[1] / "assets" / "speech.wav"


class Trickle(io.RawIOBase):
    """A pipe that gives its bytes in pieces of random sizes, and cannot seek."""

    def __init__(self, data: bytes, seed: int, largest: int):
        self.data, self.random, self.largest, self.at = data, random.Random(seed), largest, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        n = min(len(buffer), self.random.randint(1, self.largest))
        piece = self.data[self.at : self.at + n]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


class Stdio:
    """Stands in for sys.stdin and sys.stdout: `.buffer` is what the command uses."""

    def __init__(self, buffer):
        self.buffer = buffer

    def write(self, text: str) -> int:
        return self.buffer.write(text.encode())

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@pytest.fixture
def piped(monkeypatch):
    """Run a command on bytes; its output."""

    def call(data: bytes, *args: object, seed: int = 0, largest: int = 5000) -> bytes:
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdin", Stdio(io.BufferedReader(Trickle(data, seed, largest), 8192)))
        monkeypatch.setattr("sys.stdout", Stdio(out))
        assert run([str(arg) for arg in args]) == 0
        return out.getvalue()

    return call


@pytest.fixture
def files(myna, tiny_model, tmp_path) -> tuple[bytes, bytes]:
    """speech.wav compressed, and decompressed, from file to file, in packets of a second as a pipe has them."""
    assert myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model, "--packet", "1").code == 0
    assert myna("decompress", tmp_path / "x.myna", tmp_path / "x.wav", "--model", tiny_model).code == 0
    return (tmp_path / "x.myna").read_bytes(), (tmp_path / "x.wav").read_bytes()


@pytest.mark.parametrize(("seed", "largest"), [(0, 7), (1, 1000), (2, 100_000)])
def test_any_cut_gives_the_bytes_of_a_file(piped, files, tiny_model, seed, largest):
    wav = SPEECH.read_bytes()
    compressed = piped(wav, "compress", "-", "--model", tiny_model, "-q", seed=seed, largest=largest)
    assert compressed == files[0]
    again = piped(compressed, "decompress", "-", "--model", tiny_model, "-q", seed=seed, largest=largest)
    assert again == files[1]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_that_does_not_know_its_length(piped, files, tiny_model, size):
    wav = bytearray(SPEECH.read_bytes())
    data = wav.index(b"data")
    wav[4:8] = wav[data + 4 : data + 8] = size.to_bytes(4, "little")
    compressed = piped(bytes(wav), "compress", "-", "-", "--model", tiny_model, "-q")
    assert piped(compressed, "decompress", "-", "--model", tiny_model, "-q")[44:] == files[1][44:]


def test_formats_that_must_seek_come_through_a_pipe_too(piped, tiny_model, tmp_path):
    flac = (SPEECH.parent / "lj.flac").read_bytes()
    compressed = piped(flac, "compress", "-", "--model", tiny_model, "-q")
    (tmp_path / "x.wav").write_bytes(piped(compressed, "decompress", "-", "--model", tiny_model, "-q"))
    assert read_audio(tmp_path / "x.wav").samples.shape == read_audio(SPEECH.parent / "lj.flac").samples.shape


def test_sound_comes_before_the_input_has_ended(spawn, files, tiny_model):
    process = spawn(
        "decompress", "-", "--model", tiny_model, "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    half = len(files[0]) // 2
    process.stdin.write(files[0][:half])
    process.stdin.flush()
    first = process.stdout.read(44 + 48_000)  # a second of sound, while the pipe stays open
    assert len(first) == 44 + 48_000
    rest = []
    reader = threading.Thread(target=lambda: rest.append(process.stdout.read()))
    reader.start()
    process.stdin.write(files[0][half:])
    process.stdin.close()
    reader.join()
    assert process.wait() == 0, process.stderr.read()
    assert first + rest[0] == files[1]


def test_compressed_packets_come_before_the_input_has_ended(spawn, files, tiny_model):
    process = spawn(
        "compress", "-", "--model", tiny_model, "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdin.write(SPEECH.read_bytes()[:200_000])
    process.stdin.flush()
    first = process.stdout.read(500)
    assert first == files[0][:500]
    process.stdin.close()  # in the middle of what the header promised
    process.stdout.read()
    assert process.wait() == 3
    assert b"truncated" in process.stderr.read()


def test_a_reader_that_goes_away_is_no_error_of_ours(spawn, files, tiny_model, tmp_path):
    (tmp_path / "x.myna").write_bytes(files[0])
    args = ("decompress", tmp_path / "x.myna", "-", "--model", tiny_model)
    process = spawn(*args, stdout=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait() in (128 + signal.SIGPIPE, -signal.SIGPIPE)
    assert process.stderr.read() == b""


def test_report_stays_out_of_the_sound(piped, files, tiny_model, capsys):
    out = piped(files[0], "decompress", "-", "--model", tiny_model, "--json")
    assert out == files[1]
    assert '"n_samples": 169413' in capsys.readouterr().err


def test_float_wav_to_a_pipe(piped, files, tiny_model, tmp_path):
    out = piped(files[0], "decompress", "-", "--model", tiny_model, "--float", "-q")
    (tmp_path / "f.wav").write_bytes(out)
    (tmp_path / "i.wav").write_bytes(files[1])
    exact, rounded = read_audio(tmp_path / "f.wav").samples, read_audio(tmp_path / "i.wav").samples
    np.testing.assert_allclose(np.clip(exact, -1, 1), rounded, atol=1.01 / 32768)
