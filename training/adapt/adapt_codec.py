"""A codec adapted to a voice: `CodecPart` in the loop of all parts, without texts and without speech models.

prepared corpus -> clips of one person, a tenth kept apart --> the codec's decoder --> an adapter of the voice
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch

from ...codec import Codec
from ...data.files import output_errors
from ...tts.lm.adapter import Adapter
from ..engine.interrupt import Interrupt
from ..engine.same_run import describe
from .adapt import Adapted
from .codec_part import CodecPart
from .loop import Progress, learn
from .material import gather
from .recipe import AdaptRecipe


class AdaptingCodec:
    """A codec's decoder and one voice.

    codec: whose decoder is adapted.   corpus: prepared.   work: folder of what is kept between two sittings.
    note: is told, a line each, what is left out. Raises UsageError for a codec that cannot be adapted, InputError as
    `gather`.
    """

    def __init__(
        self,
        codec: Codec,
        corpus: Path,
        work: Path,
        recipe: AdaptRecipe,
        note: Callable[[str], None] = lambda line: None,
    ):
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.codec, self.work, self.recipe = codec, work, recipe
        with output_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        self.material = gather(corpus, work, codec, None, recipe.held_out, False, note)

    def run(
        self,
        minutes: float,
        interrupt: Interrupt,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> Adapted:
        """Let it learn for so many minutes at most. What is `before` and `now` are distances of recordings kept apart,
        negative, and no words."""
        part = CodecPart(self.codec, self.material, self.recipe)
        learned = learn(
            part,
            self.recipe.codec,
            part.measure,
            self.work / f"{part.name}.pt",
            self._identity(part),
            self.recipe.seed,
            minutes,
            self.recipe.patience,
            0.0,
            interrupt,
            report,
        )
        adapters = {}
        if learned.weights is not None:
            facts = {
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "seconds_of_speech": round(self.material.seconds, 1),
                "minutes": round(learned.minutes, 2),
                "steps": learned.steps,
                "model": self.codec.name,
                "distance_before": round(-learned.before.likeness, 4),
                "distance": round(-learned.best.likeness, 4),
            }
            adapters[part.name] = Adapter(learned.weights.half(), part.base, facts)
        return Adapted(adapters, learned.before, learned.best, self.material.seconds, interrupt.requested)

    def _identity(self, part: CodecPart) -> str:
        told = [
            part.base,
            describe(self.recipe),
            sorted(self.material.person.vectors),
            sorted(self.material.held),
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()
