"""Folder in, corpus out: the same bytes however the work is done and however often it is cut short."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from myna.errors import InputError, UsageError
from myna.preparation.engine import LocalEngine
from myna.preparation.journal import CONFIG, FOLDER, Journal
from myna.preparation.options import PrepareOptions
from myna.preparation.prepare import prepare

HERE = Path(__file__).parent
RATE = 16000
OPTIONS = PrepareOptions(
    source="test",
    model="scripted",
    batch_size=2,
    unit_files=2,
    shard_mb=1,
    dev=0.2,
    test=0.2,
    quality=False,
    speakers=False,
    phonemes=False,
)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, speech):
    """Eleven, in six units: one is no audio, one is there twice, one has another's text."""
    import soundfile

    root = tmp_path_factory.mktemp("recordings")
    for i in range(9):
        other = np.interp(np.arange(0, len(speech), 0.8 + 0.06 * i), np.arange(len(speech)), speech)
        soundfile.write(root / f"r{i}.wav", other[: (2 + i % 4) * RATE], RATE)
    shutil.copy(root / "r3.wav", root / "r3 again.wav")
    (root / "bad.wav").write_bytes(b"RIFF")
    (root / "r5.txt").write_text("nothing of what the recogniser hears")
    return root


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """The recogniser of scripted.py, which workers can import, too, and its script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        patch.setenv("PYTHONPATH", path)
        script = tmp_path_factory.mktemp("script") / "script.json"
        script.write_text("{}")
        patch.setenv("MYNA_SCRIPT", str(script))
        import scripted

        yield scripted.scripted


@pytest.fixture(scope="module")
def reference(recordings, scripted, tmp_path_factory):
    """The corpus that two workers make, and what they said of it."""
    out = tmp_path_factory.mktemp("out") / "corpus"
    made = prepare(recordings, out, OPTIONS, LocalEngine(2), recogniser=scripted)
    return out, made


def content(out: Path) -> dict[str, str]:
    """Hashes of all files but the one that holds the folder's name."""
    assert not (out / FOLDER).exists()
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir() if p.name != CONFIG}


def test_the_corpus_has_every_piece_once(reference):
    out, made = reference
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == made.facts["pieces"] == 8
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert {(one["path"], one["reason"]) for one in dropped} == {
        ("bad.wav", "unreadable"),
        ("r3.wav", "duplicate"),
        ("r5.wav", "text disagrees"),
    }
    stored = {}
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json"):
                    stored[member.name] = (shard.name, json.load(tar.extractfile(member)))
    assert len(stored) == 8
    for row in rows:
        name, facts = stored[row["key"] + ".json"]
        assert {**facts, "shard": name} == row
        assert row["shard"].startswith(f"test-{row['split']}-")
    needed = {"key", "source", "split", "speaker", "text", "language", "duration", "sample_rate"}
    assert needed <= set(rows[0])
    assert made.facts["splits"].keys() == {"train", "dev", "test"}


def test_nobody_is_in_two_splits(reference):
    rows = [json.loads(line) for line in (reference[0] / "manifest.jsonl").read_text().splitlines()]
    splits = {}
    for row in rows:
        assert splits.setdefault(row["speaker"], row["split"]) == row["split"]


def test_the_report_says_what_is_in_it(reference):
    out, _ = reference
    page = (out / "report.md").read_text()
    assert "`bad.wav`" in page
    assert "duplicate" in page
    assert "8 pieces" in page
    assert (out / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "stats.json").read_text())["dropped"] == {
        "duplicate": 1,
        "text disagrees": 1,
        "unreadable": 1,
    }


def test_one_worker_makes_the_same_bytes(reference, recordings, scripted, tmp_path):
    prepare(recordings, tmp_path / "out", OPTIONS, LocalEngine(1), recogniser=scripted)
    assert content(tmp_path / "out") == content(reference[0])


PROGRAM = """
import sys
from myna.preparation.engine import LocalEngine
from myna.preparation.prepare import prepare
from chosen import OPTIONS
from scripted import scripted
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], OPTIONS, LocalEngine(2), recogniser=scripted)
"""


def test_killed_at_any_time_it_goes_on(reference, recordings, scripted, tmp_path):
    """What was finished before it was killed is not done again, and the bytes are the same."""
    (tmp_path / "script.json").write_text(json.dumps({"pause": 0.4}))
    (tmp_path / "program.py").write_text(PROGRAM)
    given = f"from myna.preparation.options import PrepareOptions\nOPTIONS = {OPTIONS!r}\n"
    (tmp_path / "chosen.py").write_text(given)
    out = tmp_path / "out"
    env = {**os.environ, "MYNA_SCRIPT": str(tmp_path / "script.json")}

    def finished():
        return {path.name: path.stat().st_mtime_ns for path in (out / FOLDER / "units").rglob("*.json")}

    run = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", recordings, out], env=env, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 300
        while len(finished()) < 2 and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    assert run.returncode == -signal.SIGKILL
    done = finished()
    assert len(done) >= 2
    assert not (out / CONFIG).exists()
    left = out / FOLDER / "units" / next(iter(done))[:2]  # as a worker that is killed leaves it
    (left / ".x.part").write_bytes(b"half")

    seen = []
    prepare(
        recordings,
        out,
        OPTIONS,
        LocalEngine(1),
        recogniser=scripted,
        progress=lambda what, done, total: seen.append(
            (what, done, finished() if (out / FOLDER).exists() else {})
        ),
    )
    assert seen[0][1] > 0  # not from the beginning
    assert all(done.items() <= files.items() for what, _, files in seen if what == "preparing")
    assert content(out) == content(reference[0])


class Idle:
    """An engine for a run in which there is nothing left to do."""

    def run(self, units, setup, on_done):
        raise AssertionError("a unit is done again")


@pytest.fixture(scope="module")
def units(recordings, scripted, tmp_path_factory):
    """A journal's folder of finished units, made in this process."""
    import torch
    from myna.preparation.readers import read_folder
    from myna.preparation.unit import Pipeline, plan

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    journal = Journal(tmp_path_factory.mktemp("units"))
    listing = read_folder(recordings, "auto", OPTIONS.source)
    for unit in plan(recordings.resolve(), listing.recordings, OPTIONS):
        journal.complete(unit, Pipeline(recordings.resolve(), OPTIONS, scripted(OPTIONS)))
    torch.set_num_threads(threads)
    return journal.root / "units"


@pytest.fixture
def out(units, tmp_path):
    """An output folder in which all that is left is to write the corpus."""
    shutil.copytree(units, tmp_path / "out" / FOLDER / "units")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "stop_at", ["manifest.jsonl", "test-train-000000.tar", "stats.json", "ready.json", CONFIG]
)
def test_cut_short_while_it_writes_it_goes_on(reference, recordings, scripted, out, monkeypatch, stop_at):
    """The last steps, ended at each file."""
    from myna.data import files
    from myna.preparation import assemble, journal, report, shards

    class Stop(BaseException):
        pass

    @contextlib.contextmanager
    def stopping(path, force=False):
        with files.atomic_output(path, force) as file:
            yield file
            if Path(path).name == stop_at:
                raise Stop

    with monkeypatch.context() as patch:
        for module in (assemble, journal, report, shards):
            patch.setattr(module, "atomic_output", stopping)
        with pytest.raises(Stop):
            prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    assert not (out / CONFIG).exists()
    prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    assert content(out) == content(reference[0])


def test_a_finished_corpus_is_left_alone_and_another_is_not_overwritten(recordings, scripted, out, units):
    first = prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    before = content(out)
    again = prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    assert again.finished_before
    assert again.facts == first.facts
    other = replace(OPTIONS, max_cer=0.5)
    with pytest.raises(UsageError, match=r"corpus made with max_cer 0\.3 instead of 0\.5; give --force"):
        prepare(recordings, out, other, Idle(), recogniser=scripted)
    assert content(out) == before
    with pytest.raises(AssertionError):  # it would begin, and the old corpus is still there
        prepare(recordings, out, other, Idle(), force=True, recogniser=scripted)
    assert {**before, CONFIG: ""}.keys() <= {path.name for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"unfinished run with max_cer 0\.5 instead of 0\.3"):
        prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    shutil.rmtree(out / FOLDER)
    shutil.copytree(units, out / FOLDER / "units")
    prepare(recordings, out, replace(OPTIONS), Idle(), force=True, recogniser=scripted)
    assert content(out) == before


def test_recordings_that_change_are_another_corpus(recordings, scripted, out, tmp_path):
    prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    copy = tmp_path / "copy"
    shutil.copytree(recordings, copy)
    with pytest.raises(UsageError, match="folder"):
        prepare(copy, out, OPTIONS, Idle(), recogniser=scripted)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_never_touched(recordings, scripted, tmp_path, force):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        prepare(recordings, tmp_path, OPTIONS, Idle(), force=force, recogniser=scripted)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_places_that_cannot_be(recordings, scripted, tmp_path):
    for out in (recordings, recordings.parent):
        with pytest.raises(UsageError, match="holds the recordings"):
            prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        prepare(recordings, tmp_path / "file", OPTIONS, Idle(), recogniser=scripted)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio"):
        prepare(tmp_path / "empty", tmp_path / "out", OPTIONS, Idle(), recogniser=scripted)
    assert not (tmp_path / "out").exists()


def test_killed_while_it_moves_the_corpus_and_called_with_other_options(
    recordings, scripted, out, monkeypatch
):
    """The old run is finished first, then the question is the usual one."""
    from myna.preparation import journal

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "publish", lambda self, config: sys.exit())
        with pytest.raises(SystemExit):
            prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)
    assert (out / FOLDER / "ready.json").exists()
    shard = next((out / FOLDER / "corpus").glob("*.tar"))
    shard.rename(out / shard.name)  # the first of the moves
    with pytest.raises(UsageError, match="holds a corpus made with max_cer"):
        prepare(recordings, out, replace(OPTIONS, max_cer=0.5), Idle(), recogniser=scripted)
    assert prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted).finished_before
    assert (out / shard.name).exists()


def test_two_runs_do_not_work_in_one_folder(recordings, scripted, out):
    with Journal(out).locked(), pytest.raises(UsageError, match="another myna prepare"):
        prepare(recordings, out, OPTIONS, Idle(), recogniser=scripted)


@pytest.mark.parametrize(("kind", "said"), [("deadly", "ends the process"), ("odd", "unexpected ValueError")])
def test_a_file_that_ends_the_process_costs_only_itself(
    recordings, scripted, tmp_path, monkeypatch, kind, said
):
    (tmp_path / "script.json").write_text(json.dumps({kind: "4"}))
    monkeypatch.setenv("MYNA_SCRIPT", str(tmp_path / "script.json"))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("r0.wav", "r1.wav", "r2.wav", "r4.wav"):  # r2 is the one of four seconds
        shutil.copy(recordings / name, folder)
    made = prepare(folder, tmp_path / "out", OPTIONS, LocalEngine(1), recogniser=scripted)
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [row["recording"] for row in rows] == ["r0.wav", "r1.wav", "r4.wav"]
    assert made.facts["dropped"] == {"unreadable": 1}
    assert said in (tmp_path / "out" / "report.md").read_text()


def test_nothing_to_keep_is_an_error_and_leaves_nothing(tmp_path, scripted):
    import soundfile

    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "silence.wav", np.zeros(RATE), RATE)
    with pytest.raises(InputError, match="nothing of 1 recordings could be kept"):
        prepare(tmp_path / "in", tmp_path / "out", OPTIONS, LocalEngine(1), recogniser=scripted)
    assert not (tmp_path / "out").exists()


def test_a_ray_cluster_makes_the_same_bytes(reference, recordings, scripted, tmp_path):
    pytest.importorskip("ray")
    from myna.preparation.ray_engine import RayEngine

    prepare(recordings, tmp_path / "out", OPTIONS, RayEngine(workers=2), recogniser=scripted)
    assert content(tmp_path / "out") == content(reference[0])


def test_myna_train_reads_it(reference, tmp_path):
    from myna.training.train import train

    out, _ = reference
    data = [f"data.corpus={out}", f"data.cache={tmp_path / 'cache'}"]
    overrides = [*data, f"output={tmp_path / 'run'}", "save_every_steps=null"]
    summary = train("myna-24k-tiny", overrides, quiet=True)
    assert summary.steps == 8
    assert summary.output.exists()
