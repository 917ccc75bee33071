"""What the server counts, for Prometheus. Nothing that says who asked for what."""

from __future__ import annotations

from typing import Any

_SECONDS = (0.1, 0.2, 0.35, 0.5, 1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry: Any = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("myna_requests", "Requests answered.", ("route", "status"), **own)
        self.seconds = Histogram(
            "myna_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            **own,
        )
        self.first_audio = Histogram(
            "myna_first_audio_seconds", "From a request to its first sound.", buckets=_SECONDS, **own
        )
        self.speech = Counter("myna_speech_seconds", "Seconds of speech made.", **own)
        self.transcribed = Counter("myna_transcribed_seconds", "Seconds of recordings transcribed.", **own)
        self.cancelled = Counter("myna_cancelled", "Requests whose client went.", ("route",), **own)
        self.active = Gauge("myna_active_requests", "Requests that are worked on.", ("kind",), **own)
        self.waiting = Gauge("myna_waiting_requests", "Requests that wait.", ("kind",), **own)
        self.ar_steps = Gauge("myna_ar_steps", "Steps of the speech model.", **own)
        self.ar_frames = Gauge("myna_ar_frames", "Frames made in them: their ratio is the mean batch.", **own)

    def render(self) -> tuple[bytes, str]:
        """The page and its type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
