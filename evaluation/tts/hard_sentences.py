"""Sentences on which small autoregressive models fail: they skip, repeat, never end, or say half a number.

Always the same, so that two models can be compared. The kinds are those that robustness is usually judged by (the
fifty of FastSpeech, Ren et al. 2019, appendix: repetitions, letters, numbers, very short and very long ones), in words
of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HardSentence:
    """also: other ways in which a recogniser may write the same sounds down, all equally right."""

    kind: str
    text: str
    also: tuple[str, ...] = ()


HARD_SENTENCES = (
    HardSentence("one word", "Yes."),
    HardSentence("one word", "Tomorrow."),
    HardSentence("two words", "Good morning."),
    HardSentence("two words", "Thank you."),
    HardSentence("repeated", "No, no, no, no!"),
    HardSentence("repeated", "It was very, very, very, very cold in that very old house."),
    HardSentence("numbers", "The bill for 2,450 bricks came to $1,385.60 in 1997."),
    HardSentence(
        "numbers",
        "Her number is five five five, zero one four two.",
        (
            "Her number is 555-0142.",
            "Her number is 5550142.",
            "Her number is five five five, oh one four two.",
        ),
    ),
    HardSentence(
        "numbers",
        "Train 47 leaves at 6:15 on May 3rd.",
        ("Train 47 leaves at 615 on May 3rd.", "Train 47 leaves at six fifteen on May third."),
    ),
    HardSentence(
        "tongue twister", "She sells sea shells by the sea shore.", ("She sells seashells by the seashore.",)
    ),
    HardSentence("tongue twister", "Peter Piper picked a peck of pickled peppers."),
    HardSentence(
        "tongue twister",
        "Six slick swans swam swiftly south.",
        ("6 slick swans swam swiftly south.",),
    ),
    HardSentence(
        "letters",
        "A, B, C, D, E, F, G.",
        ("ABCDEFG", "A-B-C-D-E-F-G", "A B C D E F G", "A, B, C, D, E, F, and G."),
    ),
    HardSentence("letters", "The code is X, Q, K, W.", ("The code is XQKW.", "The code is X-Q-K-W.")),
    HardSentence("question", "Did you really think that nobody would notice?"),
    HardSentence("question", "Where were you when the lights went out?"),
    HardSentence("exclamation", "What a wonderful surprise this is!"),
    HardSentence("names", "Doctor Ivanova met Professor Nguyen in Reykjavik."),
    HardSentence(
        "sixty words",
        "When the last of the boats had come back to the harbour and the men had carried their baskets up the "
        "path to the market, the woman who kept the light climbed the stairs once more, looked out over the dark "
        "water, counted the lanterns along the quay, and found, as she did every night, that one was missing again.",
        (
            "When the last of the boats had come back to the harbor and the men had carried their baskets up the "
            "path to the market, the woman who kept the light climbed the stairs once more, looked out over "
            "the dark water, counted the lanterns along the quay, and found, as she did every night, that one was "
            "missing again.",
        ),
    ),
)
