"""compress and decompress: what goes in comes out, at its rate, channels and length."""

from __future__ import annotations

import io
import json
from pathlib import Path

import myna as package
import numpy as np
import pytest
import torch
from myna.codec.formats import MynaWriter, header_for, open_compressed
from myna.codec.registry import load_codec
from myna.data.audio import AudioReader, read_audio, write_audio
from myna.data.resample import resample
from myna.errors import MissingModelError
from myna.kernels.precision import choose
from myna.marks.search import listen
from myna.marks.tags import is_synthetic
from myna.marks.watermark import watermark

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SPEECH = ASSETS / "speech.wav"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(ASSETS / "lj.flac").samples[:, 24_000:48_000]


def codes_of(data: bytes) -> torch.Tensor:
    return torch.cat([packet.codes for packet in open_compressed(io.BytesIO(data)).packets()], dim=-1)


def test_readme_names_and_round_trip(myna, tiny_model, tmp_path):
    source = tmp_path / "speech.wav"
    source.write_bytes(SPEECH.read_bytes())
    outcome = myna("compress", source, "--model", tiny_model)
    assert outcome.code == 0, outcome
    assert "speech.myna" in outcome.out
    assert myna("decompress", tmp_path / "speech.myna", "--model", tiny_model).code == 0
    before, after = read_audio(source), read_audio(tmp_path / "speech_decompressed.wav")
    assert after.samples.shape == before.samples.shape
    assert after.sample_rate == before.sample_rate
    assert source.read_bytes() == SPEECH.read_bytes()


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_any_rate_and_channels_come_back_exactly(myna, tiny_model, tmp_path, speech, rate, channels):
    n = rate // 3 + 7 * channels
    one = resample(speech, 24_000, rate)
    samples = np.concatenate([np.roll(one, 50 * c, axis=1)[:, :n] for c in range(channels)])
    write_audio(tmp_path / "in.wav", samples, rate)
    assert myna("compress", tmp_path / "in.wav", tmp_path / "x.myna", "--model", tiny_model).code == 0
    assert myna("decompress", tmp_path / "x.myna", tmp_path / "out.flac", "--model", tiny_model).code == 0
    out = read_audio(tmp_path / "out.flac")
    assert (out.sample_rate, out.samples.shape) == (rate, (channels, n))


@pytest.mark.parametrize(("rate", "n"), [(24_000, 60_001), (16_000, 33_333), (44_100, 70_001)])
def test_codes_are_those_of_a_whole_file_run(tiny_model, speech, rate, n):
    samples = np.tile(resample(speech, 24_000, rate), 4)[:, :n]
    codec = load_codec(tiny_model)
    codes = codes_of(package.compress(package.data.audio.Audio(samples, rate), codec))
    whole = codec.encode(torch.from_numpy(resample(samples, rate, 24_000))[:, None])
    assert torch.equal(codes, whole.codes)


def test_decoded_audio_is_that_of_a_whole_file_run(tiny_model, speech):
    codec = load_codec(tiny_model)
    audio = package.decompress(package.compress(package.data.audio.Audio(speech, 24_000), codec), codec)
    with torch.inference_mode():
        whole = codec.decode(codec.encode(torch.from_numpy(speech)[:, None]))
    np.testing.assert_allclose(audio.samples, whole[:, 0].numpy(), atol=1e-5)


def test_lower_bitrate_out_of_a_file_is_that_of_encoding_at_it(myna, tiny_model, tmp_path):
    full, low, direct = (tmp_path / f"{name}.myna" for name in ("full", "low", "direct"))
    assert myna("compress", SPEECH, full, "--model", tiny_model).code == 0
    assert myna("compress", full, low, "--bitrate", "1").code == 0
    assert myna("compress", SPEECH, direct, "--model", tiny_model, "--bitrate", "1k").code == 0
    assert low.read_bytes() == direct.read_bytes()
    assert codes_of(low.read_bytes()).shape[1] == 2
    assert torch.equal(codes_of(low.read_bytes()), codes_of(full.read_bytes())[:, :2])


def test_target_size_takes_the_most_that_fits(myna, tiny_model, tmp_path):
    sizes = []
    for k in range(1, 5):
        path = tmp_path / f"{k}.myna"
        assert myna("compress", SPEECH, path, "--model", tiny_model, "--bitrate", k * 0.5).code == 0
        sizes.append(path.stat().st_size)
    for limit, k in [(sizes[1], 2), (sizes[2] - 1, 2), (sizes[3] + 1000, 4)]:
        for source in (SPEECH, tmp_path / "4.myna"):
            out = tmp_path / "fit.myna"
            args = ("compress", source, out, "--model", tiny_model, "--target-size", limit, "--force")
            assert myna(*args).code == 0
            assert out.read_bytes() == (tmp_path / f"{k}.myna").read_bytes()
    too_small = myna("compress", SPEECH, tmp_path / "no.myna", "--model", tiny_model, "--target-size", "100")
    too_small.failed_with(2, "100 bytes are too few")
    assert not (tmp_path / "no.myna").exists()


def test_a_compressed_file_becomes_no_other_format(myna, tiny_model, tmp_path):
    assert myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model).code == 0
    outcome = myna("compress", tmp_path / "x.myna", tmp_path / "x.ecdc", "--bitrate", "1")
    outcome.failed_with(2, "not a .ecdc")
    assert not (tmp_path / "x.ecdc").exists()


def test_the_library_reports_damage_and_refuses_other_weights(tiny_model, speech):
    codec = load_codec(tiny_model)
    data = package.compress(package.data.audio.Audio(speech, 24_000), codec)
    with pytest.warns(UserWarning, match="the file is damaged: packet 0"):
        audio = package.decompress(data[:200] + b"?" + data[201:], codec)
    assert audio.samples.shape == speech.shape
    with pytest.raises(MissingModelError, match=r"model that made it|other weights"):
        package.decompress(data)
    nothing = io.BytesIO()
    MynaWriter(nothing, header_for(codec, 24_000, 1)).close(0)
    assert package.decompress(nothing.getvalue(), codec).samples.shape == (1, 0)


def test_a_stretch_is_that_of_the_whole(myna, tiny_model, tmp_path):
    file = tmp_path / "x.myna"
    assert myna("compress", SPEECH, file, "--model", tiny_model).code == 0
    for name, more in (("all", ()), ("part", ("--start", 4.25, "--duration", 1.5))):
        out = tmp_path / f"{name}.wav"
        assert myna("decompress", file, out, "--model", tiny_model, "--float", *more).code == 0
    whole, part = read_audio(tmp_path / "all.wav").samples, read_audio(tmp_path / "part.wav").samples
    np.testing.assert_allclose(part, whole[:, 102_000:138_000], atol=1e-5)
    myna("decompress", file, tmp_path / "no.wav", "--model", tiny_model, "--start", 99).failed_with(
        3, "7.06 s"
    )


def test_folder_keeps_its_tree_and_goes_on_after_a_bad_file(myna, tiny_model, tmp_path):
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.wav").write_bytes(SPEECH.read_bytes())
    (source / "bad.wav").write_text("not audio at all")
    (source / "deep" / "er" / "c.flac").write_bytes((ASSETS / "speechocean.flac").read_bytes())
    (source / "notes.txt").write_text("not looked at")
    outcome = myna("compress", source, tmp_path / "out", "--model", tiny_model, "--json")
    assert outcome.code == 3
    report = json.loads(outcome.out)
    assert [Path(done["output"]).relative_to(tmp_path / "out").as_posix() for done in report["files"]] == [
        "a.myna",
        "deep/er/c.myna",
    ]
    assert [error["exit_code"] for error in report["errors"]] == [3]
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["a.myna", "c.myna"]
    assert myna("decompress", tmp_path / "out", tmp_path / "back", "--model", tiny_model).code == 0
    assert read_audio(tmp_path / "back" / "deep" / "er" / "c.wav").sample_rate == 16_000


def test_a_file_beside_its_recording_is_left_out_of_a_folder(myna, tiny_model, tmp_path):
    """A folder that has been compressed before, now at a lower bitrate: a.myna is a.wav's."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.wav").write_bytes(SPEECH.read_bytes())
        assert myna("compress", folder / f"{name}.wav", "--model", tiny_model).code == 0
    (folder / "b.wav").unlink()
    before = [(folder / f"{name}.myna").read_bytes() for name in "ab"]
    outcome = myna("compress", folder, tmp_path / "out", "--bitrate", "0.5", "--model", tiny_model)
    assert outcome.code == 0, outcome
    assert "a.myna is left out" in outcome.err
    assert "b.myna is left out" not in outcome.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.myna", "b.myna"]
    assert [(folder / f"{name}.myna").read_bytes() for name in "ab"] == before
    assert myna("compress", folder, "--bitrate", "0.5", "--model", tiny_model, "--force").code == 0
    assert len((folder / "a.myna").read_bytes()) < len(before[0])


def test_two_files_that_would_become_one_are_refused(myna, tiny_model, tmp_path):
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).write_bytes(SPEECH.read_bytes())
    myna("compress", tmp_path, "--model", tiny_model).failed_with(2, "a.flac", "a.wav", "rename")


def test_info_says_what_is_inside(myna, tiny_model, tmp_path):
    file = tmp_path / "x.myna"
    assert myna("compress", SPEECH, file, "--model", tiny_model).code == 0
    facts = json.loads(myna("info", file, "--json").out)
    assert facts["model"] == "myna-24k"
    assert facts["n_samples"] == read_audio(SPEECH).samples.shape[1]
    assert facts["bitrate"] == pytest.approx(8 * file.stat().st_size / facts["duration"])
    facts = json.loads(myna("info", SPEECH, "--json").out)
    assert (facts["sample_rate"], facts["channels"], facts["format"]) == (24_000, 1, "WAV")
    assert "24000 Hz" in myna("info", SPEECH).out


def test_json_report_and_quiet(myna, tiny_model, tmp_path):
    outcome = myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model, "--json")
    report = json.loads(outcome.out)
    assert report["bytes"] == (tmp_path / "x.myna").stat().st_size
    assert report["seconds"] == pytest.approx(7.058875)
    quiet = myna("decompress", tmp_path / "x.myna", tmp_path / "x.wav", "--model", tiny_model, "-q")
    assert quiet.code == 0
    assert quiet.out == ""


def test_every_input_format(myna, tiny_model, tmp_path, speech):
    import soundfile

    for suffix, kind in ((".mp3", "MP3"), (".ogg", "VORBIS"), (".opus", "OPUS"), (".flac", "PCM_16")):
        path = tmp_path / f"in{suffix}"
        if kind == "OPUS":
            soundfile.write(path, speech.T, 24_000, format="OGG", subtype="OPUS")
        else:
            soundfile.write(path, speech.T, 24_000)
        with AudioReader(path) as reader:
            n = sum(block.shape[1] for block in reader.blocks())
        assert myna("compress", path, tmp_path / "x.myna", "--model", tiny_model, "-f").code == 0
        assert (
            myna("decompress", tmp_path / "x.myna", tmp_path / "x.wav", "--model", tiny_model, "-f").code == 0
        )
        assert read_audio(tmp_path / "x.wav").samples.shape == (1, n)


def test_other_weights_are_refused_unless_named(myna, tiny_model, tmp_path):
    from myna.codec.checkpoint import save_checkpoint
    from myna.codec.myna import MynaCodec

    codec = load_codec(tiny_model)
    torch.manual_seed(1)
    save_checkpoint(MynaCodec(codec.config).eval(), tmp_path / "other.safetensors")  # type: ignore[arg-type]
    assert myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model).code == 0
    outcome = myna("decompress", tmp_path / "x.myna", tmp_path / "x.wav")
    assert outcome.code == 4, outcome
    outcome = myna("decompress", tmp_path / "x.myna", "--model", tmp_path / "other.safetensors")
    assert outcome.code == 0
    assert "not the ones that made the file" in outcome.err


def test_models_list_path_convert(myna, tiny_model, tmp_path):
    names = [row["name"] for row in json.loads(myna("models", "list", "--json").out)]
    assert names[:2] == ["myna-24k-v2", "myna-24k"]
    assert {"encodec-24k", "encodec-48k", "dac-16k", "dac-24k", "dac-44k"} <= set(names)
    assert myna("models", "path", "myna-24k").out.strip().endswith("myna-24k.safetensors")
    assert myna("models", "convert", tiny_model, tmp_path / "copy.safetensors").code == 0
    assert load_codec(tmp_path / "copy.safetensors").n_codebooks == 4
    myna("models", "path", "nonsense").failed_with(2, "nonsense")


def test_a_file_has_packets_of_five_seconds_and_a_pipe_of_one(myna, tiny_model, tmp_path, speech):
    write_audio(tmp_path / "in.wav", np.tile(speech, 7), 24_000)
    sizes = {}
    for name, options in (("file", ()), ("short", ("--packet", "1"))):
        out = tmp_path / f"{name}.myna"
        assert myna("compress", tmp_path / "in.wav", out, "--model", tiny_model, *options).code == 0
        opened = open_compressed(io.BytesIO(out.read_bytes()))
        rate = float(opened.info.frame_rate)
        sizes[name] = round(opened.info.packet_frames / rate, 2), out.stat().st_size
        assert codes_of(out.read_bytes()).equal(codes_of((tmp_path / "file.myna").read_bytes()))
    assert [seconds for seconds, _ in sizes.values()] == [5, 1]
    assert sizes["file"][1] < sizes["short"][1]


@pytest.mark.parametrize("seconds", ["0.05", "31", "nan"])
def test_packets_that_are_too_short_or_too_long_are_refused(myna, tiny_model, tmp_path, seconds):
    outcome = myna("compress", SPEECH, tmp_path / "x.myna", "--model", tiny_model, "--packet", seconds)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "0.1 to 30 seconds" in outcome.err
    assert not (tmp_path / "x.myna").exists()


def test_entropy_coding_pays_for_all_that_surrounds_the_codes():
    """In seven seconds; a longer file saves more."""
    data = package.compress(SPEECH)
    info = open_compressed(io.BytesIO(data)).info
    raw = info.n_samples / info.original_sample_rate * load_codec(info.model).bitrates[-1] / 8
    assert len(data) < 0.85 * raw


def test_commands_carry_mark_and_tag(myna, tmp_path, speech):
    write_audio(tmp_path / "said.wav", watermark(np.tile(speech[0], 2), 24_000), 24_000)
    assert myna("compress", tmp_path / "said.wav").code == 0
    assert json.loads(myna("info", tmp_path / "said.myna", "--json").out)["synthetic"] is True
    assert myna("compress", tmp_path / "said.myna", tmp_path / "cut.myna", "--bitrate", "2").code == 0
    for file in ("said", "cut"):
        assert myna("decompress", tmp_path / f"{file}.myna", tmp_path / "back.wav", "--force").code == 0
        with AudioReader(tmp_path / "back.wav") as reader:
            assert is_synthetic(reader.info.tags)
            assert listen(reader, quick=True).found
    facts = json.loads(myna("info", tmp_path / "back.wav", "--json").out)
    assert facts["watermark"] is True
    assert facts["synthetic_tag"] is True


def test_precision(myna, tiny_model, tmp_path):
    def facts(*arguments) -> str:
        return json.loads(myna(*arguments, "--json").out)["precision"]

    file, wav = tmp_path / "a.myna", tmp_path / "a.wav"
    given = "--model", tiny_model, "--force"
    assert facts("compress", SPEECH, file, *given) == "float32"
    assert facts("decompress", file, wav, *given, "--precision", "bf16") == "bf16"
    assert facts("decompress", file, wav, *given) == choose("auto", "codec decoder")
    narrow = myna("compress", SPEECH, file, *given, "--json", "--precision", "bf16")
    assert json.loads(narrow.out)["precision"] == "bf16"
    assert "some codes differ" in narrow.err
    myna("compress", SPEECH, file, *given, "--precision", "int4").failed_with(2, "auto, float32, bf16, int8")
    refused = myna("decompress", file, wav, *given, "--precision", "bf16", "--device", "cuda")
    refused.failed_with(2, "for CPUs, not for cuda")
