"""Whatever is wrong with an input or an output: one line, its own exit code, nothing left behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from myna.apps.cli import main
from myna.data.audio import read_audio, write_audio
from myna.data.wav import WavWriter

SPEECH = Path(__file__).resolve().parents[1] / "assets" / "speech.wav"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def compress(myna, tiny_model, tmp_path):
    """Compress bytes or samples; the outcome, and what the folder of the output holds after it."""

    def call(content: bytes | np.ndarray, rate: int = 16_000, name: str = "in.wav"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "out").mkdir(exist_ok=True)
        source = tmp_path / "in" / name
        if isinstance(content, bytes):
            source.write_bytes(content)
        else:
            write_audio(source, content, rate, force=True, float32=True)
        return myna("compress", source, tmp_path / "out" / "x.myna", "--model", tiny_model), left(
            tmp_path / "out"
        )

    return call


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"RIFF", "not audio"),
        (b"This is a text that somebody renamed to .wav, which changes nothing.\n" * 20, "not audio"),
        (SPEECH.read_bytes()[:30], "WAV header"),
        (SPEECH.read_bytes()[:44], "truncated"),
        (SPEECH.read_bytes()[:100_001], "truncated"),
        (SPEECH.read_bytes()[:40] + (2_000_000_000).to_bytes(4, "little") + bytes(1000), "1000000000"),
        (b"fLaC" + bytes(100), "not audio"),
        ((SPEECH.parent / "lj.flac").read_bytes()[:50_000], "lj"),
        (bytes(5000), "not audio"),
        (b"OggS" + bytes(1000), "not audio"),
    ],
    ids=[
        "empty",
        "riff",
        "text",
        "half-header",
        "header",
        "cut",
        "billion",
        "flac",
        "cut-flac",
        "zeros",
        "ogg",
    ],
)
def test_what_is_no_audio(compress, content, word):
    outcome, files = compress(content)
    word = "" if word == "lj" else word
    outcome.failed_with(3, "in.wav", word)
    assert files == []


def test_no_samples(compress, tmp_path):
    with open(tmp_path / "none.wav", "wb") as file:
        WavWriter(file, 16_000, 1, 0).close()
    outcome, files = compress((tmp_path / "none.wav").read_bytes())
    outcome.failed_with(3, "no samples")
    assert files == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(compress, bad):
    samples = np.zeros((2, 20_000), np.float32)
    samples[1, 12_345] = bad
    outcome, files = compress(samples)
    outcome.failed_with(3, "NaN or infinity at 0.772 s")
    assert files == []


def test_samples_on_another_scale(compress):
    outcome, files = compress(np.full((1, 1000), 12_000.0, np.float32))
    outcome.failed_with(3, "-1 to 1")
    assert files == []


@pytest.mark.parametrize(("rate", "channels", "word"), [(1000, 1, "1000 Hz"), (16_000, 9, "9 channels")])
def test_rates_and_channels_out_of_bounds(compress, rate, channels, word):
    outcome, files = compress(np.zeros((channels, 100), np.float32), rate)
    outcome.failed_with(3, word)
    assert files == []


@pytest.mark.parametrize(
    "samples",
    [
        np.full((1, 1), 0.5),
        np.zeros((1, 2)),
        np.zeros((1, 50_000)),
        np.sign(np.sin(np.arange(30_000)))[None],
        np.full((2, 20_000), 3.0),
    ],
    ids=["one-sample", "two-samples", "silence", "clipping", "over-full-scale"],
)
def test_odd_but_right_input(compress, myna, tiny_model, tmp_path, samples):
    outcome, files = compress(samples.astype(np.float32))
    assert outcome.code == 0, outcome
    assert files == ["x.myna"]
    out = tmp_path / "back.wav"
    assert myna("decompress", tmp_path / "out" / "x.myna", out, "--model", tiny_model).code == 0
    back = read_audio(out).samples
    assert back.shape == samples.shape
    assert np.isfinite(back).all()


@pytest.fixture
def compressed(myna, tiny_model, tmp_path) -> bytes:
    assert myna("compress", SPEECH, tmp_path / "good.myna", "--model", tiny_model, "--packet", "1").code == 0
    return (tmp_path / "good.myna").read_bytes()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: b"", 3),
        (lambda data: b"not compressed at all, only text" * 10, 3),
        (lambda data: data[:20], 5),
        (lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:], 5),
        (lambda data: data[:30] + bytes(20) + data[50:], 5),
    ],
    ids=["empty", "text", "half-header", "flipped-length", "zeroed-header"],
)
def test_compressed_files_beyond_repair(myna, tiny_model, tmp_path, compressed, change, code):
    (tmp_path / "bad.myna").write_bytes(change(compressed))
    (tmp_path / "out").mkdir()
    myna("decompress", tmp_path / "bad.myna", tmp_path / "out" / "x.wav", "--model", tiny_model).failed_with(
        code
    )
    assert left(tmp_path / "out") == []
    assert myna("info", tmp_path / "bad.myna").code in (3, 5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.myna", b""),
        ("x.myna", b"This is a text that somebody renamed."),
        ("x.myna", b"\x89MYNA\r\n\x1a\x09\x40\x00" + bytes(80)),
        ("x.myna", b"\x89MYNA\r\n\x1a\x01\xff\xff" + bytes(80)),
        ("x.myna", b"\x89MYNA\r\n\x1a\x01\x60\x00" + bytes(200)),
        ("x.myna", b"\x89MYNA\r\n\x1a\x01\x60\x00" + bytes(8)),
        ("x.ecdc", b"ECDC\x00\x00"),
        ("x.ecdc", b"ECDC\x01\x00\x00\x00\x10" + bytes(64)),
        ("x.ecdc", b"ECDC\x00\x00\x00\x00\x02{}" + bytes(64)),
        ("x.ecdc", b'ECDC\x00\x00\x00\x00\x28{"m": "gsm", "al": 1, "nc": 2, "lm": 0} ' + bytes(64)),
        ("x.dac", b"\x93NUMPY\x01\x00\x10\x00 not a header   " + bytes(64)),
        (
            "x.dac",
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(128)
            + b"\x80",
        ),
        ("x.voice.safetensors", b"This is a text that somebody renamed."),
    ],
)
def test_a_damaged_file_is_a_line_that_says_what_to_do(myna, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    outcome = myna("info", tmp_path / name)
    assert outcome.code in (3, 5), outcome
    assert outcome.err.count("\n") == 1
    assert re.search(r"; .*(again|give|update|expected|use `)", outcome.err), outcome.err
    assert left(tmp_path) == [name]


def test_damage_is_concealed_and_reported(myna, tiny_model, tmp_path, compressed):
    middle = len(compressed) // 2
    flipped = compressed[:middle] + bytes([compressed[middle] ^ 0x55]) + compressed[middle + 1 :]
    (tmp_path / "bad.myna").write_bytes(flipped)
    outcome = myna("decompress", tmp_path / "bad.myna", tmp_path / "x.wav", "--model", tiny_model)
    assert outcome.code == 0, outcome
    assert "is damaged" in outcome.err
    assert "concealed" in outcome.err
    assert read_audio(tmp_path / "x.wav").samples.shape == read_audio(SPEECH).samples.shape


@pytest.mark.parametrize("smaller", [("--bitrate", "1"), ("--target-size", "1M")])
def test_damage_is_reported_when_a_file_is_made_smaller(myna, tiny_model, tmp_path, compressed, smaller):
    middle = len(compressed) // 2
    flipped = compressed[:middle] + bytes([compressed[middle] ^ 0x55]) + compressed[middle + 1 :]
    (tmp_path / "bad.myna").write_bytes(flipped)
    outcome = myna("compress", tmp_path / "bad.myna", tmp_path / "small.myna", *smaller)
    assert outcome.code == 0, outcome
    assert "bad.myna is damaged: packet 3" in outcome.err


def test_truncated_file_gives_what_is_there(myna, tiny_model, tmp_path, compressed):
    (tmp_path / "bad.myna").write_bytes(compressed[: len(compressed) // 2])
    outcome = myna("decompress", tmp_path / "bad.myna", tmp_path / "x.wav", "--model", tiny_model)
    assert outcome.code == 0, outcome
    assert "is damaged" in outcome.err
    n = read_audio(tmp_path / "x.wav").samples.shape[1]
    assert 0.25 < n / 169_413 < 0.6


def test_compressed_given_to_compress_and_audio_to_decompress(myna, tiny_model, tmp_path, compressed):
    myna("compress", tmp_path / "good.myna", tmp_path / "x.myna").failed_with(2, "--bitrate")
    myna("decompress", SPEECH, tmp_path / "x.wav", "--model", tiny_model).failed_with(3, "myna compress")
    assert not (tmp_path / "x.wav").exists()


def test_inputs_that_are_not_there(myna, tmp_path):
    for command in ("compress", "decompress", "info"):
        myna(command, tmp_path / "nothing.wav").failed_with(3, "nothing.wav", "no such file")
    (tmp_path / "folder").mkdir()
    myna("compress", tmp_path / "folder").failed_with(3, "holds no files")
    myna("info", tmp_path / "folder").failed_with(3, "is a folder")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("compress", "a.wav", "--bitrate", "fast"), "kbps"),
        (("compress", "a.wav", "--bitrate", "4000"), "kbps"),
        (("compress", "a.wav", "--target-size", "-3"), "--target-size"),
        (("compress", "a.wav", "b.mp3"), ".myna"),
        (("compress", "a.wav", "--model", "nonsense"), "nonsense"),
        (("compress", "a.wav", "--lm"), ".ecdc"),
        (("compress", "a.wav", "--frobnicate"), "--help"),
        (("compress",), "IN"),
        (("frobnicate",), "frobnicate"),
        (("decompress", "a.myna", "b.mp3"), ".flac"),
        (("decompress", "a.myna", "b.flac", "--float"), "integers"),
        (("decompress", "a.myna", "--start", "nan"), "--start"),
    ],
)
def test_usage_errors(myna, tmp_path, monkeypatch, args, word):
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(SPEECH.read_bytes())
    myna(*args).failed_with(2, word)
    assert left(tmp_path) == ["a.wav"]


def test_bitrate_below_the_lowest(myna, tiny_model, tmp_path, compressed):
    myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model, "--bitrate", "0.3").failed_with(
        2, "0.5 kbps"
    )
    myna("compress", tmp_path / "good.myna", tmp_path / "x.myna", "--bitrate", "0.3").failed_with(
        2, "0.5 kbps"
    )
    assert not (tmp_path / "x.myna").exists()


def test_model_that_is_not_on_this_machine(myna, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "x.myna"
    myna("compress", SPEECH, out, "--model", "encodec-24k").failed_with(4, "myna models download")
    myna("compress", SPEECH, out, "--model", tmp_path / "no.safetensors").failed_with(4, "no.safetensors")
    assert not out.exists()


def test_existing_output_is_kept_without_force(myna, tiny_model, tmp_path, compressed):
    out = tmp_path / "old.myna"
    out.write_bytes(b"precious")
    myna("compress", SPEECH, out, "--model", tiny_model).failed_with(2, "--force")
    myna("decompress", tmp_path / "good.myna", out.with_suffix(".myna"), "--model", tiny_model).failed_with(2)
    assert out.read_bytes() == b"precious"
    assert myna("compress", SPEECH, out, "--model", tiny_model, "--packet", "1", "--force").code == 0
    assert out.read_bytes() == compressed


def test_failure_with_force_keeps_the_old_output(myna, tiny_model, tmp_path):
    out = tmp_path / "old.myna"
    out.write_bytes(b"precious")
    (tmp_path / "bad.wav").write_bytes(SPEECH.read_bytes()[:100_001])
    myna("compress", tmp_path / "bad.wav", out, "--model", tiny_model, "--force").failed_with(3, "truncated")
    assert out.read_bytes() == b"precious"
    assert left(tmp_path) == ["bad.wav", "old.myna"]


def test_output_that_cannot_be_written(myna, tiny_model, tmp_path, compressed):
    myna("compress", SPEECH, tmp_path / "no" / "x.myna", "--model", tiny_model).failed_with(
        6, "does not exist"
    )
    (tmp_path / "file").write_text("")
    myna("compress", SPEECH, tmp_path / "file" / "x.myna", "--model", tiny_model).failed_with(6)
    (tmp_path / "d.wav").mkdir()
    myna("decompress", tmp_path / "good.myna", tmp_path / "d.wav", "--model", tiny_model).failed_with(
        2, "folder"
    )


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(myna, tiny_model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    myna("compress", SPEECH, tmp_path / "locked" / "x.myna", "--model", tiny_model).failed_with(
        6, "permission"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_device(myna, tiny_model, compressed, tmp_path):
    myna("compress", SPEECH, "/dev/full", "--model", tiny_model).failed_with(2)  # its name has no suffix
    link = tmp_path / "full.wav"
    link.symlink_to("/dev/full")
    myna("decompress", tmp_path / "good.myna", link, "--model", tiny_model).failed_with(6, "no space")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_disk_that_fills_up(spawn, tiny_model, tmp_path, compressed, suffix):
    """A limit on file size stands in for a full disk: the write fails half way."""
    (tmp_path / "out").mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    out = tmp_path / "out" / f"x{suffix}"
    args = ("decompress", tmp_path / "good.myna", out, "--model", tiny_model)
    process = spawn(*args, stdout=subprocess.PIPE, preexec_fn=limit)
    _, err = process.communicate()
    assert process.returncode == 6, err
    assert len(err.decode().strip().splitlines()) == 1, err
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_half_way(spawn, tiny_model, tmp_path, number, code):
    samples = np.tile(read_audio(SPEECH).samples, 120)  # minutes of work, not to be finished
    write_audio(tmp_path / "long.wav", samples, 24_000)
    (tmp_path / "out").mkdir()
    args = ("compress", tmp_path / "long.wav", tmp_path / "out" / "x.myna", "--model", tiny_model)

    def listen() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # tests in the background of a shell inherit its deafness

    process = spawn(*args, stdout=subprocess.PIPE, preexec_fn=listen)
    while not left(tmp_path / "out") and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.decode().startswith("myna: error: ")
    assert len(err.decode().strip().splitlines()) == 1, err
    assert left(tmp_path / "out") == []


def test_interrupt_while_the_program_is_still_being_imported():
    stop = """
import sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Stop())
from myna.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", stop], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "myna: error: interrupted; nothing was left half written\n"


def test_the_program_that_is_installed_is_this_one():
    """The script imports one module before it can catch anything: it must be a small one."""
    assert 'myna = "myna.__main__:main"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = "import sys, myna.__main__; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True).stdout.split()
    assert not {"typer", "rich", "torch", "numpy"} & set(modules)


def test_interrupt_in_python_is_one_line(myna, tiny_model, tmp_path, monkeypatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("myna.codec.pipeline.encode_blocks", interrupt)
    myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model).failed_with(130, "interrupted")
    assert left(tmp_path) == []


def test_a_fault_of_ours_is_one_line_too(myna, tiny_model, tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("myna.codec.pipeline.encode_blocks", fail)
    myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model).failed_with(
        1, "two lines", "MYNA_DEBUG"
    )
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried"), RuntimeError("you can't allocate memory")],
)
def test_too_little_memory(myna, tiny_model, tmp_path, monkeypatch, error):
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("myna.codec.pipeline.encode_blocks", fail)
    myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model).failed_with(
        1, "out of memory; close"
    )
    assert left(tmp_path) == []


def test_version_and_help(myna, capsys, monkeypatch):
    import myna as package

    assert myna("--version").out.strip() == f"myna {package.__version__}"
    outcome = myna("--help")
    assert outcome.code == 0
    for command in ("compress", "decompress", "info", "models", "evaluate", "train"):
        assert command in outcome.out
    monkeypatch.setattr(sys, "argv", ["myna", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


def test_help_does_without_torch():
    code = "import sys; from myna.apps.cli import run; run(['--help']); assert 'torch' not in sys.modules"
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads its memory from /proc")
def test_memory_does_not_grow_with_the_recording(tiny_model, tmp_path):
    """Minutes both ways take hardly more than seconds: the audio is never held whole.

    VmHWM, because a child's ru_maxrss begins with what its parent held, which hides all below it.
    """
    speech = read_audio(SPEECH).samples
    peaks = []
    for name, repeats in (("short", 2), ("long", 40)):
        write_audio(tmp_path / f"{name}.wav", np.tile(speech, repeats), 24_000)
        code = (
            "import sys; from myna.apps.cli import run\n"
            f"model, name = {tiny_model!r}, {str(tmp_path / name)!r}\n"
            "assert run(['compress', name + '.wav', name + '.myna', '--model', model]) == 0\n"
            "assert run(['decompress', name + '.myna', name + '.flac', '--model', model]) == 0\n"
            "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
            "print(status['VmHWM'].split()[0], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 20_000, peaks  # kB; the recording alone is 27 MB as floats, in each copy
