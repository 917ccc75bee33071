"""A voice adapted: first the AR to how the person speaks, then the decoder to how they sound.

    prepared corpus -> clips of one person, a tenth kept apart --> AR (with texts) --> decoder --> adapters of the voice

Each part learns beside frozen weights and is kept as it was best; a part that gains nothing is left out. What is in the
work folder lets a run that was stopped go on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import torch

from ...codec.checkpoint import weights_hash
from ...codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ...data.checkpoint import load_checkpoint
from ...data.files import atomic_output, output_errors
from ...errors import MissingModelError, UsageError
from ...tts.aligner import Aligner
from ...tts.decoders.flow.sound import FlowSpeechDecoder
from ...tts.lm.adapter import Adapter
from ...tts.lm.ar import ARModel
from ...tts.lm.batch import Prompt
from ...tts.lm.token_ar import TokenAR
from ...tts.registry import FLOW_FILES, weights_file
from ...tts.text.phonemes import phonemize
from ...tts.text.phones import Phones
from ...tts.valle import Valle
from ..engine.interrupt import Interrupt
from ..engine.same_run import describe
from .flow_part import FlowPart
from .judge import SENTENCES, Judge, Measured, judged_by
from .loop import Learned, Progress, learn
from .material import Material, gather, others
from .parts import ARPart, Part, SpeakingPart, as_adapter
from .recipe import AdaptRecipe, PartSection
from .strength import as_strong_as_words_bear
from .token_ar_part import TokenARPart

ADAPTABLE = ("flow",)  # decoders
# Of likeness, for a nat a phone, when clips are compared: likeness decides, unless the words differ by much. Shares of
# an adapter pay .06 nats for their first .04 of likeness and .28 for their last .01 (docs/log.md, "What an adapter
# costs in words, counted").
_CLEARNESS = 0.1
# How long the strength of a decoder takes to choose, in times that its sentences are said: by the AR as it was and as
# it has learned, and by the decoder at four or five strengths.
_CHOICE = 3.0


@dataclass(frozen=True)
class Adapted:
    """adapters: by part; empty where nothing was gained.   before, now: how the voice was judged, None for what was not
    judged.   seconds: of speech that it learned from.   interrupted: it may be gone on with."""

    adapters: Mapping[str, Adapter]
    before: Measured | None
    now: Measured | None
    seconds: float
    interrupted: bool


class Adapting:
    """One voice, adapted.

    models: that speak, with the decoder that is to be adapted.   work: folder of what is kept between two sittings.
    given: texts were the user's.   note: is told, a line each, what is left out.
    """

    def __init__(
        self,
        models: Valle,
        decoder: str,
        aligner: Aligner | None,
        corpus: Path,
        work: Path,
        recipe: AdaptRecipe,
        given: bool = False,
        note: Callable[[str], None] = lambda line: None,
    ):
        if decoder not in ADAPTABLE:
            raise UsageError(f"the decoder {decoder} cannot be adapted; choose {' or '.join(ADAPTABLE)}")
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.models, self.decoder, self.aligner, self.work, self.recipe, self.note = (
            *(models, decoder, aligner, work, recipe, note),
        )
        with output_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        codec = models.codec
        self.material = gather(corpus, work, codec, aligner, recipe.held_out, given, note)
        if self.material.speech is None:
            note("no texts: only the decoder is adapted, by its speech tokens; the AR stays as it is")
        self.others: Material | None = None
        if recipe.others.corpus is not None and aligner is not None:
            wanted = recipe.others
            assert wanted.corpus is not None
            self.others = others(wanted.corpus, wanted.utterances, codec, aligner, work, recipe.seed)

    def choose(
        self,
        prompts: Sequence[Prompt],
        minutes: float,
        interrupt: Interrupt,
        stage: Callable[[str], None] = lambda what: None,
    ) -> int:
        """Which of several prompts of one person says sentences most like the recordings, and most clearly; the mean
        speaker vector in all of them, as the adapted voice will read it. What a clip of a few seconds is like decides
        more than its speaker vector tells.

        minutes: after so many no further one is heard, nor after an interrupt; the first is what there is then.
        """
        stage("choosing which clip the voice is read from")
        path = self.work / "prompt.json"
        told = hashlib.sha256("".join(self._identity(prompt, None, {}) for prompt in prompts).encode())
        kept = _read_json(path)
        if kept.get("of") == told.hexdigest():
            return kept["chosen"]
        begun, scores = time.monotonic(), list[float]()
        speaker = self.material.speaker()
        for prompt in prompts:
            if scores and (interrupt.requested or time.monotonic() - begun > 60 * minutes):
                break
            plain = dataclasses.replace(prompt, adapters={})
            if prompt.speaker is not None:
                plain = dataclasses.replace(plain, speaker=speaker.to(prompt.speaker))
            judged = self._judge(plain, self.recipe.sentences).measure({})
            scores.append(judged.likeness + _CLEARNESS * judged.words)
        chosen = scores.index(max(scores))
        if not interrupt.requested:
            with atomic_output(path, force=True) as file:
                file.write(json.dumps({"of": told.hexdigest(), "chosen": chosen}).encode())
        return chosen

    def run(
        self,
        prompt: Prompt,
        minutes: float,
        interrupt: Interrupt,
        report: Callable[[Progress], None] = lambda progress: None,
        stage: Callable[[str], None] = lambda what: None,
    ) -> Adapted:
        """prompt: of the voice; adapters that it has already are not used.   minutes: for all of it; however long the
        listening takes, the decoder learns for a third of them.   report, stage: are told how it goes. Raises what the
        models raise, OutputError."""
        begun = time.monotonic()
        prompt = dataclasses.replace(prompt, adapters={})
        stage("listening to the voice as it is")
        judge = self._judge(prompt, self.recipe.sentences)
        before = judge.measure({})
        a_sentence = (time.monotonic() - begun) / len(judge.sentences) / 60
        choosing = _CHOICE * a_sentence * self.recipe.last_sentences  # minutes
        adapters: dict[str, Adapter] = {}
        used = 0.0
        if self.material.speech is not None and self.recipe.ar.share:
            stage("adapting how it speaks")
            learned, part = self._ar(prompt, minutes, interrupt, report)
            used = learned.minutes
            if learned.weights is not None:
                candidate = self._kept(part, learned, before, None)
                now = judge.measure({part.name: candidate})
                if self._holds(before, now):
                    adapters[part.name] = candidate
                else:
                    self.note(
                        "the AR stays as it is: with what it learned the voice was less like the recordings"
                    )
            if interrupt.requested:
                now = judge.measure(adapters)
                gained = now.likeness > before.likeness
                return Adapted(adapters if gained else {}, before, now, self.material.seconds, True)
        stage("adapting how it sounds")
        part = self._decoder_part()
        learned = learn(
            part,
            self._section(self.decoder),
            lambda: judge.measure({**adapters, self.decoder: as_adapter(part)}),
            self.work / f"{self.decoder}.pt",
            self._identity(prompt, part, adapters),
            self.recipe.seed,
            max(minutes / 3, minutes - max(used, (time.monotonic() - begun) / 60) - choosing),
            self.recipe.patience,
            self.recipe.words_meanwhile,
            interrupt,
            report,
        )
        if learned.weights is None:
            now = judge.measure(adapters) if adapters else before
        else:
            now, decoders = learned.best, self._kept(part, learned, before, learned.best)
            if interrupt.requested:  # whoever stops it does not wait for more listening
                adapters[self.decoder] = decoders
            else:
                stage("choosing how much of it is used")
                adapters, before, now = self._strengthened(prompt, adapters, decoders)
        if now.likeness <= before.likeness:
            adapters, now = {}, before
        return Adapted(adapters, before, now, self.material.seconds, interrupt.requested)

    def _strengthened(
        self, prompt: Prompt, adapters: Mapping[str, Adapter], decoders: Adapter
    ) -> tuple[dict[str, Adapter], Measured, Measured]:
        """The adapters with that of the decoder, as far as the words bear it, and how the voice is judged as it was and
        with them, by more sentences than while it learned: this one choice stays, and a few say too little of words.

        All of them together may cost `words_kept`: what the AR has gained may be spent on likeness, and where it has
        lost so much that nothing is left for the decoder, it stays as it was."""
        judge = self._judge(prompt, self.recipe.last_sentences)
        before = judge.measure({})
        least = before.words - self.recipe.words_kept
        for beside in (dict(adapters), {})[: 1 + bool(adapters)]:

            def measure(adapter: Adapter, beside: Mapping[str, Adapter] = beside) -> Measured:
                return judge.measure({**beside, self.decoder: adapter})

            found = as_strong_as_words_bear(decoders, least, measure, self.material.likeness())
            if found is None:
                continue
            adapter, now = found
            if len(beside) < len(adapters):
                self.note("the AR stays as it is: with what it learned the words were less clear")
            strength = adapter.facts["strength"]
            if not strength:
                self.note("of what the decoder learned the mean voice alone is used, for the words' sake")
            elif strength < 1:
                self.note(f"{100 * strength:.0f} % of what the decoder learned is used, for the words' sake")
            judged = {"likeness_before": round(before.likeness, 4), "likeness": round(now.likeness, 4)}
            adapter = dataclasses.replace(adapter, facts={**adapter.facts, **judged})
            return {**beside, self.decoder: adapter}, before, now
        self.note("the decoder stays as it is: with what it learned the words were less clear")
        without = judge.measure(adapters) if adapters else before
        return (dict(adapters), before, without) if without.words >= least else ({}, before, before)

    # ---- the parts

    def _ar(
        self,
        prompt: Prompt,
        minutes: float,
        interrupt: Interrupt,
        report: Callable[[Progress], None],
    ) -> tuple[Learned, SpeakingPart]:
        """Judged by how probable the sentences kept apart are: cheaper than to say them."""
        part = self._ar_part()
        learned = learn(
            part,
            self.recipe.ar,
            lambda: Measured(-part.held_loss(), 0.0),
            self.work / f"{part.name}.pt",
            self._identity(prompt, part, {}),
            self.recipe.seed,
            minutes * self.recipe.ar.share,
            self.recipe.patience,
            self.recipe.words_slack,
            interrupt,
            report,
        )
        return learned, part

    def _ar_part(self) -> SpeakingPart:
        ar = cast("ARModel | TokenAR", self.models._original)
        if isinstance(ar, ARModel):
            return ARPart(ar, self.material, self.others, self.recipe)
        tokenizer = cast(FlowSpeechDecoder, self.models.decoder(self.decoder)).tokenizer
        assert tokenizer is not None
        return TokenARPart(ar, tokenizer, self.material, self.others, self.work, self.recipe)

    def _decoder_part(self) -> Part:
        decoder = self.models.decoder(self.decoder)
        assert isinstance(decoder, FlowSpeechDecoder)
        tokenizer = decoder.tokenizer or _tokenizer()
        return FlowPart(
            decoder._original,
            tokenizer,
            decoder.tokenizer is not None and decoder.options.tokens,
            self.material,
            self.others,
            self.work,
            self.recipe,
        )

    def _section(self, part: str) -> PartSection:
        return getattr(self.recipe, part)

    def _judge(self, prompt: Prompt, n: int) -> Judge:
        """n: sentences that it says each time."""
        material = self.material
        keys = sorted(material.held)
        references = torch.stack([material.person.vectors[key] for key in keys])
        own: list[Phones] = []
        if material.speech is not None:
            own = [material.speech[i].phones for i in material.kept_apart()]
        sentences = judged_by(own, [phonemize(text) for text in SENTENCES], n)
        return Judge(self.models, self.decoder, prompt, sentences, references, self.aligner, self.recipe.seed)

    def _holds(self, before: Measured, now: Measured) -> bool:
        return now.likeness >= before.likeness - 0.01 and now.words >= before.words - self.recipe.words_slack

    def _kept(self, part: Part, learned: Learned, before: Measured, now: Measured | None) -> Adapter:
        assert learned.weights is not None
        facts = {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds_of_speech": round(self.material.seconds, 1),
            "minutes": round(learned.minutes, 2),
            "steps": learned.steps,
            "likeness_before": round(before.likeness, 4),
            "likeness": None if now is None else round(now.likeness, 4),
        }
        return Adapter(learned.weights.half(), part.base, facts, part.speaker)

    def _identity(self, prompt: Prompt, part: Part | None, adapters: Mapping[str, Adapter]) -> str:
        """Of a run: what is learned from, beside which weights, how, and for which prompt."""
        # How much of it is used at last does not change what is learned.
        learned = self.recipe.model_copy(update={"words_kept": 0.0, "last_sentences": 1})
        told: list[Any] = [describe(learned), sorted(self.material.person.vectors)]
        told[:0] = [self.models.fingerprint(self.decoder)] if part is None else [part.name, part.base]
        told += [sorted(self.material.held), [adapter.digest() for adapter in adapters.values()]]
        digest = hashlib.sha256(json.dumps(told).encode())
        digest.update(prompt.codes.numpy().tobytes() + weights_hash(self.models.codec).encode())
        if part is not None and part.speaker is not None:
            digest.update(part.speaker.numpy().tobytes())
        return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """What was kept; nothing where it is not there, or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("chosen"), int) else {}


def _tokenizer() -> SpeechTokenizer | None:
    """That which ships, where it is installed."""
    path = weights_file(FLOW_FILES["tokens"])
    try:
        return load_checkpoint(SpeechTokenizer, SpeechTokensConfig, path, "tokens")
    except MissingModelError:
        return None
