"""How long phones last: in plain numbers as in tensors."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from myna.tts.lm.durations import Drawn, Place, Stay, longest
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.text.phones import SYMBOLS as NAMES
from myna.tts.text.phones import Phones

SYMBOLS = Phones.from_ipa("hˈæloʊ wˈɜːld, ɡˈʊd.").tokens[0].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("speed", [0.6, 1.0, 1.7])
def test_plain_numbers_move_the_pointer_as_tensors_do(temperature, speed):
    options = SamplingOptions(duration_temperature=temperature, speed=speed, max_sound_frames=6)
    drawn, generator = Drawn(SYMBOLS, options, torch.device("cpu")), torch.Generator().manual_seed(0)
    place, stay = Place.begin(0), Stay.begin(0, torch.device("cpu"))
    visited = []
    for _ in range(400):
        # The likeliest is to stay, as with a model.
        logits = torch.randn(4, generator=generator) * 2 + torch.tensor([2.0, 0, 0, 0])
        numbers = torch.rand(2, generator=generator, dtype=torch.float64)
        place, stay = drawn.of_numbers(place, logits.tolist(), numbers.tolist()), drawn(stay, logits, numbers)
        assert (place.pointer, place.age) == (int(stay.pointer), int(stay.age))
        assert (place.stayed, place.until) == pytest.approx((float(stay.stayed), float(stay.until)))
        visited.append(place.pointer)
        if place.pointer >= len(SYMBOLS):
            place, stay = Place.begin(0), Stay.begin(0, torch.device("cpu"))
    assert len(SYMBOLS) in visited  # to the end, at least once
    assert any(after - before > 1 for before, after in pairwise(visited))  # over spaces
    assert any(after == before for before, after in pairwise(visited))


def test_no_sound_is_held_longer_than_people_hold_it():
    """By a model that never wants to move: a plosive is left first, vowels and pauses by the options' bounds."""
    options = SamplingOptions(max_sound_frames=40, max_pause_frames=60)
    drawn, lasted = Drawn(SYMBOLS, options, torch.device("cpu")), dict.fromkeys(range(len(SYMBOLS)), 0)
    place, stay = Place.begin(0), Stay.begin(0, torch.device("cpu"))
    logits, numbers = torch.tensor([50.0, 0, 0, 0]), torch.full((2,), 0.4, dtype=torch.float64)
    while place.pointer < len(SYMBOLS):
        lasted[place.pointer] += 1
        place, stay = drawn.of_numbers(place, logits.tolist(), numbers.tolist()), drawn(stay, logits, numbers)
        assert place.pointer == int(stay.pointer)
    of = {symbol: lasted[SYMBOLS.index(NAMES.index(symbol))] for symbol in "hwɡ"}
    assert of == {"h": 14, "w": 12, "ɡ": 12}
    assert all(lasted[at] == longest(symbol, options) for at, symbol in enumerate(SYMBOLS) if lasted[at])
    assert {lasted[at] for at, symbol in enumerate(SYMBOLS) if symbol == NAMES.index(",")} == {60}
    # What the options say is never exceeded.
    short = SamplingOptions(max_sound_frames=5, max_pause_frames=3)
    assert {longest(symbol, short) for symbol in SYMBOLS} == {5, 3}
