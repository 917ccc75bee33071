"""The vocoder: a stream that makes what the whole makes, whatever the chunks, and a pitch that is found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from myna.errors import InputError, MissingModelError
from myna.layers.harmonic import HIGHEST, LOWEST, PITCHES, Sound, pitch_place
from myna.layers.source_filter import SourceFilterState
from myna.layers.streaming import tree_map
from myna.tts.decoders.vocoder import KnownVoice, Vocoder, VocoderConfig, VocoderState
from myna.tts.decoders.vocoder_stream import VocoderStream
from myna.tts.registry import load_vocoder, save_model

SMALL = VocoderConfig(
    n_codebooks=4,
    n_coarse=2,
    codebook_size=32,
    codebook_dim=8,
    hidden=12,
    width=16,
    depth=2,
    fine_width=16,
    fine_depth=1,
    voice_width=16,
    voice=6,
    bands=20,
    depth_before=1,
    prompt_bands=10,
    prompt_width=8,
    prompt_heads=2,
)


def vocoder(config: VocoderConfig = SMALL) -> Vocoder:
    torch.manual_seed(0)
    net = Vocoder(config, torch.randn(config.n_codebooks, config.codebook_size, config.codebook_dim)).eval()
    with torch.no_grad():
        for part in (net.net, net.listening, net.deep):  # blocks begin as the identity
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        net.deep.layers[-1].linear.bias[PITCHES] = 0.3  # pyright: ignore (mostly voiced)
        net.deep.layers[-1].linear.bias[PITCHES + 1 :] += 4  # pyright: ignore (loud)
    return net


def prompt(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (1, K, P) and a mel spectrogram (1, M, P)."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(SMALL.codebook_size, (1, SMALL.n_codebooks, n), generator=generator)
    return codes, torch.randn(1, SMALL.prompt_bands, n, generator=generator)


def speech(n: int) -> tuple[torch.Tensor, torch.Tensor, KnownVoice]:
    generator = torch.Generator().manual_seed(n)
    codes = torch.randint(SMALL.codebook_size, (SMALL.n_coarse, n), generator=generator)
    return (
        codes,
        torch.randn(n, SMALL.hidden, generator=generator),
        KnownVoice(
            torch.randn(1, SMALL.voice, generator=generator),
            torch.randn(1, 2, 9, 4, generator=generator),
            torch.randn(1, 2, 9, 4, generator=generator),
        ),
    )


def say(
    net: Vocoder, codes: torch.Tensor, hidden: torch.Tensor, voice: KnownVoice, sizes: list[int]
) -> torch.Tensor:
    stream, parts, at = VocoderStream(net, voice, seed=3), [], 0
    for n in sizes:
        parts.append(stream.push(codes[:, at : at + n], hidden[at : at + n]))
        at += n
    return torch.cat([*parts, stream.flush()])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 29])
def test_the_stream_makes_all_the_samples_whatever_the_chunks(n):
    net, inputs = vocoder(), speech(n)
    whole = say(net, *inputs, [n])
    assert whole.shape == (n * SMALL.frame_size,)
    assert float(whole.abs().max()) > 0.01
    # A millionth of the pitch, which chunks of other lengths round otherwise, is a hundredth of a turn of the highest
    # harmonic after a second.
    bound = 1e-2 * float(whole.abs().max())
    torch.testing.assert_close(say(net, *inputs, [1] * n), whole, atol=bound, rtol=0)
    torch.testing.assert_close(say(net, *inputs, [n // 2, 0, n - n // 2]), whole, atol=bound, rtol=0)


def test_the_stream_is_what_training_hears():
    """The same pitch, voicing and noise through `render` give the stream's samples, but for the last hop."""
    net, (codes, hidden, voice) = vocoder(), speech(29)
    with torch.no_grad():
        sound = net(codes[None], hidden[None], voice)
        voiced, pitch = sound.voicing > 0, sound.pitch()
        assert 0 < float(voiced.float().mean()) < 1  # both happen
        held, last = [], pitch[0, 0]
        for on, hz in zip(voiced[0], pitch[0], strict=True):
            last = hz if on else last
            held.append(last)
        generator = torch.Generator().manual_seed(3)
        noise = torch.cat([torch.randn(1, SMALL.hop, generator=generator) for _ in held], dim=1)
        wav = net.render(sound.sharpened(), torch.stack(held)[None], voiced, noise)[0]
    streamed = say(net, codes, hidden, voice, [10, 19])
    bound = 1e-2 * float(wav.abs().max())
    torch.testing.assert_close(streamed[: -SMALL.hop], wav[: -SMALL.hop], atol=bound, rtol=0)


def test_sharpening_keeps_the_slope_and_raises_the_peaks():
    bands = torch.arange(96) / 96
    slope, peaks = -3 * bands, torch.sin(2 * torch.pi * 6 * bands)
    envelope = (slope + peaks)[None, :, None]
    sound = Sound(torch.zeros(1, PITCHES, 1), torch.zeros(1, 1), envelope, envelope + 1)
    sharp = sound.sharpened(1.5)
    inner = slice(25, 70)  # where the means have all their bands
    expected = (slope + 1.5 * peaks)[inner]
    torch.testing.assert_close(sharp.harmonic[0, inner, 0], expected, atol=0.15, rtol=0)
    torch.testing.assert_close(sharp.noise, sharp.harmonic + 1)
    assert sharp.pitch_logits is sound.pitch_logits
    torch.testing.assert_close(sound.sharpened(1.0).harmonic, envelope)


def test_it_looks_ahead_as_far_as_it_says():
    net, (codes, hidden, voice) = vocoder(), speech(20)
    other = hidden.clone()
    other[12:] += 5
    stream, changed = (say(net, codes, h, voice, [20]) for h in (hidden, other))
    same = (12 - SMALL.look_ahead) * SMALL.frame_size
    # The filter's last hop before it is one that a window of the changed frames reaches into.
    torch.testing.assert_close(stream[: same - SMALL.hop], changed[: same - SMALL.hop], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(stream[same : same + SMALL.frame_size], changed[same : same + SMALL.frame_size])


def test_the_voice_is_heard():
    net, (codes, hidden, voice) = vocoder(), speech(20)
    with torch.no_grad():
        whole, other = (net.voice(*prompt(40, seed)) for seed in (0, 1))
    assert whole.vector.shape == (1, SMALL.voice)
    assert whole.keys.shape == whole.values.shape == (1, 2, 40, 4)
    said = say(net, codes, hidden, whole, [20])
    frames_only = dataclasses.replace(whole, keys=other.keys, values=other.values)
    for changed in (other, frames_only, net.no_voice(1, voice.vector)):
        assert not torch.allclose(said, say(net, codes, hidden, changed, [20]), atol=1e-3)


def test_a_hidden_voice_is_none_and_each_row_has_its_own():
    net, (codes, hidden, _) = vocoder(), speech(8)
    with torch.no_grad():
        first, second = (net.voice(*prompt(12, seed)) for seed in (0, 1))
        both = KnownVoice(*(torch.cat(parts) for parts in zip(fields(first), fields(second), strict=True)))
        half = both.hidden(torch.tensor([True, False]))
        batch = codes.expand(2, -1, -1), hidden.expand(2, -1, -1)
        found = net(*batch, half).harmonic
        alone = [net(codes[None], hidden[None], v).harmonic for v in (net.no_voice(1, hidden), second)]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-4, rtol=1e-4)


def fields(voice: KnownVoice) -> tuple[torch.Tensor, ...]:
    return voice.vector, voice.keys, voice.values


def test_a_listening_that_has_learned_nothing_adds_nothing():
    torch.manual_seed(0)
    net = Vocoder(SMALL, torch.randn(SMALL.n_codebooks, SMALL.codebook_size, SMALL.codebook_dim)).eval()
    x = torch.randn(1, SMALL.width, 5)
    with torch.no_grad():
        assert torch.equal(net.listening(x, speech(5)[2]), x)


@pytest.mark.parametrize("hz", [61.0, 110.0, 243.0, 540.0])
def test_a_pitch_is_read_between_its_classes(hz):
    places = torch.arange(PITCHES, dtype=torch.float32)
    logits = -0.5 * (places - pitch_place(torch.tensor(hz))).square()
    found = Sound(
        logits[None, :, None], torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    ).pitch()
    assert float(found) == pytest.approx(hz, rel=0.004)
    assert float(pitch_place(torch.tensor(LOWEST))) == pytest.approx(0, abs=1e-3)
    assert float(pitch_place(torch.tensor(HIGHEST))) == pytest.approx(PITCHES - 1, abs=1e-2)


def test_wrong_use_is_refused():
    net, (codes, hidden, voice) = vocoder(), speech(5)
    stream = VocoderStream(net, voice)
    with pytest.raises(ValueError, match="same length"):
        stream.push(codes, hidden[:3])
    with pytest.raises(ValueError, match="same length"):
        stream.push(codes[:1], hidden)
    stream.flush()
    for call in (stream.flush, lambda: stream.push(codes, hidden)):
        with pytest.raises(ValueError, match="flushed"):
            call()
    with pytest.raises(ValueError, match="depth_before"):
        Vocoder(dataclasses.replace(SMALL, depth_before=3))
    with pytest.raises(ValueError, match="shape"):
        Vocoder(SMALL, torch.zeros(1, 2, 3))


def test_a_checkpoint_gives_the_same_vocoder_and_refuses_what_is_none(tmp_path):
    net, path = vocoder(), tmp_path / "vocoder.safetensors"
    save_model(net, path, "0123456789abcdef", {"ar_hash": "f" * 16})
    again = load_vocoder(path, codec_hash="0123456789abcdef" + "0" * 48)
    assert again.config == SMALL
    inputs = speech(6)
    assert torch.equal(say(net, *inputs, [6]), say(again, *inputs, [6]))
    with pytest.raises(MissingModelError, match="speaks the codes of the codec"):
        load_vocoder(path, codec_hash="1" * 64)
    assert load_vocoder(path, ar_hash="f" * 64).config == SMALL
    with pytest.raises(
        MissingModelError, match=r"hidden states of the AR f+, but the AR here is 0+; .*train it anew"
    ):
        load_vocoder(path, ar_hash="0" * 64)
    save_model(net, path, "0123456789abcdef", {})
    with pytest.raises(MissingModelError, match="unknown hash"):
        load_vocoder(path, ar_hash="0" * 64)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError):
        load_vocoder(path)


def test_other_dimensions_are_kept(tmp_path):
    config = dataclasses.replace(SMALL, bands=24, look_ahead=1)
    path = tmp_path / "vocoder.safetensors"
    save_model(vocoder(config), path, "0" * 16, {})
    assert load_vocoder(path).config == config


def test_a_step_does_not_read_back(no_synchronisation):
    net = vocoder()
    codes, hidden, voice = speech(20)
    stream = VocoderStream(net, voice)
    stream.push(codes[:, :8], hidden[:8])
    with no_synchronisation():
        for first in (8, 12, 16):
            said = stream.push(codes[:, first : first + 4], hidden[first : first + 4])
            assert said.shape == (4 * net.config.frame_size,)


def leaves(tree: object) -> list[object]:
    if isinstance(tree, tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [] if tree is None else [tree]


def test_a_state_is_a_named_tuple_of_tensors_that_goes_on_where_it_was():
    net = vocoder()
    codes, hidden, voice = speech(24)
    stream = VocoderStream(net, voice)
    stream.push(codes[:, :12], hidden[:12])
    kept = tree_map(lambda t: t.clone(), stream.state)
    assert isinstance(kept, VocoderState)
    assert isinstance(kept.synthesis, SourceFilterState)
    found = []
    for state in (stream.state, kept):
        with torch.no_grad():
            out, state = net.advance(
                net.inputs(codes[None, :, 12:], hidden[None, 12:], voice.vector), voice, state
            )
            noise = torch.ones(1, out.shape[-1] * SMALL.hop)
            wav, state = net.sounding(net.sound(out), noise, state)
        found.append((wav, state))
    assert torch.equal(found[0][0], found[1][0])
    # What is counted is over with the first frames: from then on a step changes tensors alone, in shapes that stay.
    later = [(leaf.shape if isinstance(leaf, torch.Tensor) else leaf) for leaf in leaves(found[0][1])]
    assert later == [(leaf.shape if isinstance(leaf, torch.Tensor) else leaf) for leaf in leaves(kept)]
    assert (kept.early, kept.lag) == (0, 0)
