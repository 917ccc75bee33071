import json
import weakref
from dataclasses import replace

import pytest
from myna.apps.evaluate import app
from myna.errors import InputError, UsageError
from myna.evaluation.clips import Clips, load_clips
from myna.evaluation.codec import report as codec_report
from myna.evaluation.codec.opus import ogg_payload, opus
from myna.evaluation.codec.report import FILES, EvaluationOptions, evaluate_codec
from myna.evaluation.codec.systems import through_codec
from typer.testing import CliRunner

QUICK = EvaluationOptions(opus=(8000,), metrics=("si_sdr", "mel"), limit=2)


@pytest.fixture
def report(scalar_codec, shard):
    return evaluate_codec([scalar_codec], [shard], QUICK)


def row_of(report, system, n_codebooks=None):
    return next(r for r in report.rows if (r.system, r.n_codebooks) == (system, n_codebooks))


def test_rows_cover_every_system_and_quality_follows_the_bitrate(report):
    assert [(r.system, r.n_codebooks) for r in report.rows] == [
        ("uncompressed", None),
        ("opus", None),
        ("scalar", 1),
        ("scalar", 2),
        ("scalar", 3),
    ]
    one, two, three = (row_of(report, "scalar", k) for k in (1, 2, 3))
    assert one.scores["si_sdr"] < two.scores["si_sdr"] < three.scores["si_sdr"]
    assert one.scores["mel"] > two.scores["mel"] > three.scores["mel"]
    assert row_of(report, "uncompressed").scores["mel"] == 0
    assert (report.n_clips, report.seconds) == (2, pytest.approx(2.0))


def test_bitrates_are_those_of_the_bytes(report, scalar_codec, shard):
    """4 bits a sample at 4 kHz and codebook, and a little for the file around them."""
    for k in (1, 2, 3):
        row = row_of(report, "scalar", k)
        assert row.nominal == 16000 * k
        assert row.nominal < row.bitrate < row.nominal * 1.1
    clip = load_clips([shard], 24000)[0]
    outcomes = dict(through_codec(scalar_codec, clip, [1, 3]))
    assert outcomes[1].n_bytes < outcomes[3].n_bytes
    assert len(outcomes[3].wav) == len(clip.wav)


def test_one_clip_at_a_time_is_in_memory(scalar_codec, shard, monkeypatch):
    alive: list[weakref.ref] = []
    most = 0
    decode = Clips.__getitem__

    def counted(self, index):
        nonlocal most
        clip = decode(self, index)
        alive.append(weakref.ref(clip.wav))
        most = max(most, sum(ref() is not None for ref in alive))
        return clip

    monkeypatch.setattr(Clips, "__getitem__", counted)
    report = evaluate_codec([scalar_codec], [shard], EvaluationOptions(opus=(), metrics=("si_sdr",)))
    assert report.n_clips == 4
    assert report.seconds == pytest.approx(4.0)
    assert len(alive) > 4
    assert most <= 3  # the first, whose spectrograms are drawn, the last one and the next


def test_opus_gives_what_was_asked_for(speech):
    small, large = opus(speech, 24000, 6000), opus(speech, 24000, 16000)
    seconds = len(speech) / 24000
    assert len(small.wav) == len(speech) == len(large.wav)
    assert small.payload_bytes < small.n_bytes
    assert 8 * small.payload_bytes / seconds == pytest.approx(6000, rel=0.3)
    assert 8 * large.payload_bytes / seconds == pytest.approx(16000, rel=0.3)
    with pytest.raises(UsageError, match="expected 6 to 256 kbps"):
        opus(speech, 24000, 2000)


def test_the_payload_of_an_ogg_file_by_hand():
    def page(*segments: bytes) -> bytes:
        return b"OggS" + bytes(22) + bytes([len(segments), *map(len, segments)]) + b"".join(segments)

    assert ogg_payload(page(b"OpusHead") + page(b"OpusTags") + page(b"abc", b"de") + page(b"f")) == 6


def test_codebook_use_counts_the_frames_of_all_clips(report):
    use = report.use["scalar"]
    assert use.n_frames == 2 * 4000
    assert len(use.used) == 3
    assert all(0 < u <= 1 for u in use.used)
    assert all(1 <= p <= 16 for p in use.perplexity)


def test_tables_and_json_say_the_same(report):
    parsed = json.loads(report.to_json())
    assert len(parsed["rows"]) == len(report.rows)
    markdown = report.to_markdown().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown[: 2 + len(report.rows)]
    ]
    assert {len(row) for row in cells} == {len(cells[0])}
    for row, line in zip(report.rows, cells[2:], strict=True):
        assert line[0] == row.system
        assert float(line[3]) == pytest.approx(row.bitrate / 1000, abs=0.006)
    assert "scalar" in report.to_table(width=200)


def test_a_folder_gets_the_report_and_the_pictures_or_nothing(scalar_codec, shard, tmp_path, monkeypatch):
    out = tmp_path / "new" / "report"
    evaluate_codec([scalar_codec], [shard], QUICK, out)
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)
    for name in ("rate_quality.png", "spectrograms.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    before = (out / "report.json").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        evaluate_codec([scalar_codec], [shard], QUICK, out)

    monkeypatch.setattr(codec_report, "through_opus", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_codec([scalar_codec], [shard], QUICK, out, force=True)
    assert (out / "report.json").read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        evaluate_codec([scalar_codec], [shard], QUICK, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def interrupted(*_):
    raise KeyboardInterrupt


def test_bitrates_choose_codebooks_and_impossible_ones_are_refused(scalar_codec, shard):
    options = EvaluationOptions(bitrates=(40000, 32000), opus=(), metrics=("si_sdr",), limit=1)
    rows = evaluate_codec([scalar_codec], [shard], options).rows
    assert [r.n_codebooks for r in rows] == [None, 2]
    with pytest.raises(UsageError, match="below the lowest of scalar"):
        evaluate_codec([scalar_codec], [shard], EvaluationOptions(bitrates=(1000,)))
    with pytest.raises(UsageError, match="Opus takes 6 to 256 kbps"):
        EvaluationOptions(opus=(1000,))
    with pytest.raises(InputError, match="does not exist"):
        evaluate_codec([scalar_codec], ["no/such/file.wav"], QUICK)


def test_weights_of_one_codec_are_told_apart(scalar_codec, shard, monkeypatch):
    """Weights of two trainings, beside those that ship: all have the same name inside."""
    monkeypatch.setattr(codec_report, "load_codec", lambda path, device: scalar_codec)
    models = ["scalar", "runs/a.safetensors", "runs/b.safetensors", "runs/b.safetensors", scalar_codec]
    found = evaluate_codec(models, [shard], replace(QUICK, opus=(), bitrates=(16000,)))
    names = ["scalar", "scalar (runs/a.safetensors)", "scalar (runs/b.safetensors)"]
    names += ["scalar (runs/b.safetensors) 2", "scalar 2"]
    assert [row.system for row in found.rows] == ["uncompressed", *names]
    assert list(found.use) == names
    assert evaluate_codec(["runs/a.safetensors"], [shard], replace(QUICK, opus=())).rows[1].system == "scalar"


def test_the_command(scalar_codec, shard, monkeypatch):
    monkeypatch.setattr(codec_report, "load_codec", lambda name, device: scalar_codec)
    quick = ["codec", str(shard), "--metric", "si_sdr", "--limit", "1", "--opus", "8"]
    result = CliRunner().invoke(app, [*quick, "--json"])
    assert result.exit_code == 0, result.output
    assert {row["system"] for row in json.loads(result.stdout)["rows"]} == {"uncompressed", "opus", "scalar"}
    result = CliRunner().invoke(app, [*quick, "--markdown"])
    assert result.stdout.startswith("| codec | codebooks |")
    result = CliRunner().invoke(app, ["codec"])
    assert isinstance(result.exception, UsageError)
    result = CliRunner().invoke(app, [*quick, "--json", "--markdown"])
    assert isinstance(result.exception, UsageError)
