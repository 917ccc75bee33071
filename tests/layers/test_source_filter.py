"""Pulses and noise through filters: the pitch and the envelope that were asked for, in chunks as in one piece."""

from __future__ import annotations

import math

import pytest
import torch
from myna.layers.source_filter import EnvelopeFilter, Source

RATE, HOP, BANDS = 24_000, 240, 40


def filtered(signal: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
    layer = EnvelopeFilter(RATE, HOP, envelope.shape[1])
    state = layer.init_state(1, signal, signals=1)
    return layer.step([signal], [envelope], state)[0]


@pytest.mark.parametrize("hz", [60.0, 101.3, 220.0, 549.0])
def test_pulses_have_the_pitch_unit_power_and_a_flat_spectrum(hz):
    source = Source(RATE, HOP)
    wav, _ = source.step(torch.full((1, 100), hz), source.init_state(1, torch.zeros(1)))
    assert wav.shape == (1, RATE)
    assert float(wav.square().mean()) == pytest.approx(1, rel=0.02)
    spectrum = torch.fft.rfft(wav[0] * torch.hann_window(RATE)).abs()  # a bin a hertz
    harmonics = torch.tensor(
        [float(spectrum[round(k * hz) - 1 : round(k * hz) + 2].max()) for k in (1, 2, 5, 10)]
    )
    assert harmonics.min() > 0.8 * harmonics.max()
    between = torch.tensor([float(spectrum[round((k + 0.5) * hz)]) for k in (1, 2, 5, 10)])
    assert between.max() < 0.01 * harmonics.max()


def test_a_gliding_pitch_never_jumps():
    source = Source(RATE, HOP)
    glide = torch.linspace(100, 200, 50)[None]
    state = source.init_state(1, torch.zeros(1))
    turns = []
    for hop in glide.split(1, dim=1):
        _, state = source.step(hop, state)
        turns.append(float(state[0, 0]))
    # Whole turns aside, the phase at the end of a hop is the integral of the straight lines between the pitches.
    middle = torch.cat([glide[0, :1], (glide[0, 1:] + glide[0, :-1]) / 2]).double()
    expected = (middle * HOP / RATE).cumsum(0)
    slope = (glide[0, 1:] - glide[0, :-1]).double() / (
        2 * RATE
    )  # sums reach the end of each sample, not its middle
    expected[1:] += slope.cumsum(0)
    off = (torch.tensor(turns, dtype=torch.float64) - expected) % 1
    assert float(torch.minimum(off, 1 - off).max()) < 1e-6


def test_the_filter_gives_the_envelope():
    shape = torch.linspace(0, -6, BANDS) + torch.sin(torch.arange(BANDS) / 3)
    impulse = torch.zeros(1, 20 * HOP)
    impulse[0, 10 * HOP] = 1  # where one window has its top, and nothing else reaches
    out = filtered(impulse, shape[None, :, None].expand(1, -1, 20))
    got = torch.fft.rfft(out[0], 48_000).abs().log()
    mel = 2595 * torch.log10(1 + torch.arange(len(got)) * RATE / 48_000 / 700)
    place = mel / mel[-1] * (BANDS - 1)
    low = place.floor().long().clamp(max=BANDS - 2)
    expected = shape[low] + (place - low) * (shape[low + 1] - shape[low])
    assert float((got - expected)[100:-100].abs().mean()) < 0.1


def test_a_pulse_sounds_when_it_comes_and_not_before():
    impulse = torch.zeros(1, 20 * HOP)
    impulse[0, 10 * HOP] = 1
    envelope = -torch.linspace(0, 5, BANDS)[None, :, None].expand(1, -1, 20)
    out = filtered(impulse, envelope)[0]
    at = 11 * HOP  # one hop late
    assert float(out[:at].square().sum()) < 1e-4 * float(out.square().sum())
    assert float(out[at : at + 48].square().sum()) > 0.8 * float(out.square().sum())


def test_chunks_of_hops_make_what_the_whole_makes():
    generator = torch.Generator().manual_seed(0)
    pitch = 100 + 50 * torch.rand(2, 31, generator=generator)
    envelopes = [torch.randn(2, BANDS, 31, generator=generator) for _ in range(2)]
    noise = torch.randn(2, 31 * HOP, generator=generator)

    def run(sizes: list[int]) -> torch.Tensor:
        source, layer = Source(RATE, HOP), EnvelopeFilter(RATE, HOP, BANDS)
        state, filter_state, at, out = source.init_state(2, noise), layer.init_state(2, noise), 0, []
        for n in sizes:
            hops = slice(at, at + n)
            pulses, state = source.step(pitch[:, hops], state)
            parts = [pulses, noise[:, at * HOP : (at + n) * HOP]]
            wav, filter_state = layer.step(parts, [e[..., hops] for e in envelopes], filter_state)
            out.append(wav)
            at += n
        return torch.cat(out, dim=1)

    whole = run([31])
    assert whole.shape == (2, 31 * HOP)
    torch.testing.assert_close(run([1, 0, 5, 25]), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run([1] * 31), whole, atol=1e-4, rtol=1e-4)


def test_an_envelope_can_be_learned():
    """Gradients reach the envelope: it finds the colour of a noise from its spectrum alone."""
    torch.manual_seed(0)
    truth = torch.linspace(0, -4, BANDS)
    noise = torch.randn(1, 40 * HOP)
    target = filtered(noise, truth[None, :, None].expand(1, -1, 40))
    envelope = torch.full((BANDS,), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([envelope], lr=0.1)

    def spectrum(wav: torch.Tensor) -> torch.Tensor:
        return torch.stft(wav, 512, window=torch.hann_window(512), return_complex=True).abs().mean(-1).log()

    for _ in range(60):
        out = filtered(torch.randn(1, 40 * HOP), envelope[None, :, None].expand(1, -1, 40))
        loss = (spectrum(out) - spectrum(target)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((envelope.detach() - truth).abs().mean()) < 0.35
    assert math.isfinite(float(loss.detach()))
