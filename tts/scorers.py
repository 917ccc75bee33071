"""The scorers that can be had on this machine."""

from __future__ import annotations

from .registry import CLVP_FILE, FLOW_FILES, weights_file
from .rerank.base import Scorer


def shipped_scorers() -> tuple[Scorer, ...]:
    """Beside the aligner: by speaker vectors, by Whisper and by CLVP where their weights are. Each is loaded when it is
    first asked."""
    from .rerank.clvp import CLVPScorer
    from .rerank.likeness import Likeness
    from .rerank.recogniser import WhisperScorer

    found: list[Scorer] = [Likeness()]
    if WhisperScorer.is_installed():
        found.append(WhisperScorer())
    clvp, tokens = (weights_file(name) for name in (CLVP_FILE, FLOW_FILES["tokens"]))
    if clvp.is_file() and tokens.is_file():
        found.append(CLVPScorer(clvp, tokens))
    return tuple(found)
