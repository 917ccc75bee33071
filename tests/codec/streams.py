"""A codec's streams against its offline pass."""

from __future__ import annotations

import torch
from myna.codec import Codec
from torch import Tensor


def assert_streams_like_offline(
    codec: Codec, wav: Tensor, longest: int, seeds: int, tolerance: float
) -> Tensor:
    """Codes equal, audio within `tolerance`, for wav (B, C, N) cut at random into pieces below `longest`. Returns the
    audio that the last stream made, as long as its frames are."""
    whole = codec.encode(wav)
    audio = codec.decode(whole)
    streamed = audio
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        encoder, decoder = codec.encoder_stream(len(wav)), codec.decoder_stream(len(wav))
        codes, out, i = [], [], 0
        while i < wav.shape[-1]:
            n = int(torch.randint(0, longest, (), generator=draw))
            codes.append(encoder.push(wav[..., i : i + n]))
            out.append(decoder.push(codes[-1]))
            i += n
        codes.append(encoder.flush())
        out += [decoder.push(codes[-1]), decoder.flush()]
        assert torch.equal(torch.cat(codes, -1), whole.codes)
        streamed = torch.cat(out, -1)
        torch.testing.assert_close(streamed[..., : wav.shape[-1]], audio, atol=tolerance, rtol=0)
    return streamed
