"""The metadata tag of synthetic speech, beside the inaudible watermark."""

from __future__ import annotations

from collections.abc import Mapping

SYNTHETIC = "Synthetic speech by Myna: made by a computer, not recorded from a person; watermarked"


def synthetic_tags(voice: str | None = None) -> dict[str, str]:
    """Tags for `data.audio.open_writer`.   voice: the name of the cloned voice."""
    return {"software": "Myna", "comment": f"{SYNTHETIC}. Voice: {voice}" if voice else SYNTHETIC}


def is_synthetic(tags: Mapping[str, str]) -> bool:
    """Whether a file's tags say that it is ours."""
    return tags.get("comment", "").startswith(SYNTHETIC)
