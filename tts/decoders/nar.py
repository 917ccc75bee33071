"""VALL-E's non-autoregressive model (Wang et al. 2023, section 4.2.2): the other codebooks, all frames of a chunk at
once, from the AR's codebooks (the first, or several coarse ones), the phones and a recorded prompt.

    frame:   codes known so far  +  the phone that is being spoken  +  since how many frames
                                          |
            transformer, full inside a chunk and towards all before it; norms adapt to the group and the voice
                                          |
                              the codes of the next group of codebooks

Each group of codebooks is a pass: ((1,), (2,), ...) are VALL-E's seven stages, ((1,), (2, 3), (4, 5, 6, 7)) is three
passes. A chunk never sees the frames after it, so speech leaves while the AR still runs; the passes keep a cache each.
The prompt sees only itself, so that a voice is read once, whatever it says afterwards.

The first codebooks may also be speech tokens (`codec.mel`): a frame of 40 ms then has a phone in each half, and the
prompt is read as mel, too, beside its codes.

Shapes: B batch, P phones, K codebooks, N given ones, V codebook_size, T frames, H places of a frame, W width, G groups
of codebooks, C channels of the condition, F numbers of a frame of mel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...layers.streaming import State, tree_map
from ...layers.transformer import Transformer, TransformerConfig
from ..lm.batch import Prompt, SpeechBatch
from ..lm.code_embedding import CodeHead, CodeSumEmbedding, corrupt, nearest_rows
from ..lm.pointer import phone_ages, phones_at, spoken_in
from ..lm.text_encoder import TextEncoder, TextEncoderConfig
from ..text.phones import N_SYMBOLS

Choice = Literal["expected", "likeliest", "drawn"]

_CHUNK_RANGE = (6, 100)  # frames: the scales of the chunks drawn in training
_WHOLE = 0.1  # share of the training examples that are one chunk


@dataclass(frozen=True)
class NARConfig:
    """Dimensions and training options; the defaults make a model of 9 million parameters."""

    name: str = "myna-nar"
    n_codebooks: int = 8
    n_given: int = 1  # codebooks, from the first, that the AR says
    codebook_size: int = 1024
    codebook_dim: int = 64  # of the codec's vectors
    groups: tuple[tuple[int, ...], ...] = ((1,), (2, 3), (4, 5, 6, 7))  # codebooks from 0; one pass each
    chunks: tuple[int, ...] = (12, 25, 50)  # frames that are filled at once, the last repeats
    n_symbols: int = N_SYMBOLS
    width: int = 320
    depth: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden: int = 640
    text_depth: int = 2
    condition: int = 64  # channels by which the norms know the group and the voice
    context: int = 2048  # frames that attention reaches back, the prompt's included
    places: int = 1  # of a frame, each with a phone of its own
    max_age: int = 24  # places; a phone that lasts longer counts as this old
    mel: int = 0  # numbers of a frame of the prompt's mel, read beside its codes; 0: not read
    extra: int = 32  # learned channels of a code beside the codec's vector
    dropout: float = 0.0
    code_noise: float = 0.0  # share of the known codes that training replaces by a neighbouring one

    def __post_init__(self) -> None:
        order = [k for group in self.groups for k in group]
        given = self.n_given
        rest = list(range(given, self.n_codebooks))
        if given < 1 or not rest or not all(self.groups) or order != rest:
            raise ValueError(
                f"groups must hold the codebooks {given} (n_given) to {self.n_codebooks - 1} once, in order, got "
                f"{self.groups}"
            )
        if not self.chunks or min(self.chunks) < 1 or max(self.chunks) > self.context:
            raise ValueError(
                f"chunks are lengths of 1 to {self.context} frames (the context), got {self.chunks}"
            )


@dataclass(frozen=True)
class NARResult:
    """loss: nats a code, the mean over target frames of the mean over the codebooks of the frame's group.

    Of each group, (G,): losses in nats a code; accuracy, how often the code is the likeliest; n_frames, the target's
    frames they are taken over. codebook_accuracy (K - 1,): that of each codebook from the second, 0 of those given.
    Groups without a frame have zeros.
    """

    loss: Tensor
    losses: Tensor
    accuracy: Tensor
    n_frames: Tensor
    codebook_accuracy: Tensor


@dataclass(frozen=True)
class NAROptions:
    """How codes are chosen.

    choice: "expected" takes the code whose vector is nearest to the mean of what may follow (minimum Bayes risk under
    squared error, after Kumar and Byrne 2004): where the model is unsure, that is a faint one, while the likeliest and
    drawn ones are loud and mostly wrong; "likeliest", or "drawn" at `temperature`.   voice_guidance: how far to move
    from what would be said without the prompt (classifier-free guidance); 1 is off, anything else doubles the work.
    chunks: frames that are filled at once, the last repeats; None: the model's.   seed: of the draws.
    """

    choice: Choice = "expected"
    temperature: float = 1.0
    voice_guidance: float = 1.0
    chunks: tuple[int, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice is one of {', '.join(get_args(Choice))}, got {self.choice!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.chunks is not None and (not self.chunks or min(self.chunks) < 1):
            raise ValueError(f"chunks are lengths of at least 1 frame, got {self.chunks}")


class NARState(NamedTuple):
    """What a chunk hands to the next. A step writes into the caches: `NARModel.fork` it to keep it."""

    transformer: State  # position and caches, with a row a group
    condition: Tensor  # (G, C) that the norms adapt to
    pointer: Tensor  # (1,) the last frame's phone,
    age: Tensor  # (1,) and for how long it had lasted


class NARModel(nn.Module):
    """P(codes of a group of codebooks | lower codebooks, phones, prompt), frame by frame independent.

    rows: the codec's codebook vectors (K, V, d), `codec.rows()`; None when a checkpoint follows.
    """

    neighbours: Tensor
    vectors: Tensor  # (K - N, V, d) of the codebooks to be filled
    first_book: Tensor

    def __init__(self, config: NARConfig | None = None, rows: Tensor | None = None):
        super().__init__()
        config = config or NARConfig()
        self.config = config
        shape = (config.n_codebooks, config.codebook_size, config.codebook_dim)
        if rows is None:
            rows = torch.zeros(shape)
        if tuple(rows.shape) != shape:
            raise ValueError(
                f"the codec's vectors have the shape {tuple(rows.shape)}, the config asks for {shape}"
            )
        width, n_groups, n_lower = config.width, len(config.groups), config.groups[-1][0]
        self.text_encoder = TextEncoder(
            TextEncoderConfig(
                n_symbols=config.n_symbols,
                width=width,
                depth=config.text_depth,
                n_heads=config.n_heads,
                n_kv_heads=config.n_kv_heads,
                hidden=config.hidden,
                dropout=config.dropout,
            )
        )
        self.prompt_embedding = CodeSumEmbedding(rows, width, config.extra)
        self.response_embedding = CodeSumEmbedding(rows[:n_lower], width, config.extra)
        if config.mel:
            self.prompt_mel = nn.Linear(config.mel, width)
        if config.places > 1:
            self.places = nn.Linear(config.places * width, width, bias=False)
        self.segment = nn.Embedding(2, width)  # prompt, target
        self.age = nn.Embedding(config.max_age + 1, width)
        self.no_phone = nn.Parameter(torch.randn(width) * 0.5)  # no transcript, or hidden text
        self.group = nn.Embedding(n_groups, config.condition)
        self.voice = nn.Sequential(nn.Linear(width, 2 * config.condition), nn.SiLU())
        self.voice_out = nn.Linear(2 * config.condition, config.condition)
        for table in (self.segment, self.age):
            nn.init.normal_(table.weight, 0, 0.5)
        self.transformer = Transformer(
            TransformerConfig(
                width=width,
                depth=config.depth,
                n_heads=config.n_heads,
                n_kv_heads=config.n_kv_heads,
                hidden=config.hidden,
                context=config.context,
                condition=config.condition,
                dropout=config.dropout,
            )
        )
        self.heads = nn.ModuleList([CodeHead(book, width, config.extra) for book in rows[config.n_given :]])
        self.register_buffer("first_book", torch.tensor([g[0] for g in config.groups]), persistent=False)
        self.register_buffer("neighbours", self._nearest(), persistent=False)
        self.register_buffer("vectors", self._vectors(), persistent=False)
        self.register_load_state_dict_post_hook(_find_neighbours)

    # ---- training

    def forward(self, batch: SpeechBatch, group: Tensor, chunks: Sequence[int] | None = None) -> NARResult:
        """How well the codes of one group of codebooks an example are told, all lower ones given.

        group: (B,) indices into config.groups.   chunks: lengths in frames, the last repeats; None: drawn at random
        in training, those of the config otherwise.
        """
        batch = batch.without_hidden_prompts()
        frames = torch.arange(batch.codes.shape[-1], device=batch.codes.device)
        inside = frames < batch.n_frames[:, None]
        target = inside & (frames >= batch.n_prompt[:, None])
        x, condition = self._inputs(batch, group)
        blocks = torch.where(inside, self._blocks(batch, chunks), len(frames) + 1)  # padding: nobody sees it
        hidden = self.transformer(x.transpose(1, 2), blocks, condition).transpose(1, 2)
        return self._losses(hidden, batch.codes, group, target)

    def _inputs(self, batch: SpeechBatch, group: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer reads, (B, T, W), and what its norms adapt to, (B, C)."""
        pointer = torch.where(batch.drop_text[:, None], -1, batch.pointer)
        frames = torch.arange(batch.codes.shape[-1], device=pointer.device)
        in_prompt = frames < batch.n_prompt[:, None]
        # Wherever the prompt ends, phones spoken in it are its own, the rest the target's.
        own = in_prompt.repeat_interleave(self.config.places, 1)
        n_own = torch.where(own, pointer, -1).amax(dim=1) + 1
        encoded = self.text_encoder(batch.phones, batch.n_phones, n_own)
        spoken = phones_at(encoded, pointer, self.no_phone)
        spoken = self._of_frames(spoken + self.age(phone_ages(pointer).clamp(max=self.config.max_age)))
        lower = batch.codes[:, : len(self.response_embedding.rows)]
        known = self.response_embedding(self._noisy(lower), self.first_book[group])
        # Only the first frames can be prompts: the sum over all codebooks is the dearest of the embeddings.
        reach = int(batch.n_prompt.max())
        prompt = self.prompt_embedding(batch.codes[:, :, :reach])
        if self.config.mel and batch.mel is not None:
            prompt = prompt + self.prompt_mel(batch.mel[:, :reach])
        head = torch.where(in_prompt[:, :reach, None], prompt, known[:, :reach])
        x = torch.cat([head, known[:, reach:]], dim=1) + spoken + self.segment((~in_prompt).long())
        return x, self._condition(group, prompt, in_prompt[:, :reach])

    def _of_frames(self, x: Tensor) -> Tensor:
        """What is spoken in each place (B, T H, W) -> in each frame (B, T, W)."""
        if self.config.places == 1:
            return x
        return self.places(x.unflatten(1, (-1, self.config.places)).flatten(2))

    def _nearest(self) -> Tensor:
        """The codes that noise may replace each known one by, (books, V, n)."""
        rows = self.response_embedding.rows
        if not self.config.code_noise:
            return torch.zeros(0, dtype=torch.long, device=rows.device)
        return torch.stack([nearest_rows(book) for book in rows])

    def _vectors(self) -> Tensor:
        return torch.stack([self._head(k).rows for k in range(self.config.n_given, self.config.n_codebooks)])

    def _noisy(self, codes: Tensor) -> Tensor:
        share = self.config.code_noise
        if not (self.training and share):
            return codes
        books = range(codes.shape[1])
        return torch.stack([corrupt(codes[:, k], self.neighbours[k], share) for k in books], dim=1)

    def _condition(self, group: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        """group (B,), embedded prompt (B, T, W) and which of its frames are (B, T) -> (B, C)."""
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        voice = (self.voice(prompt) * weight[..., None].to(prompt.dtype)).sum(dim=1)
        return self.group(group) + self.voice_out(voice)

    def _blocks(self, batch: SpeechBatch, chunks: Sequence[int] | None) -> Tensor:
        """Which chunk each frame is in, (B, T): 0 the prompt, from 1 the target's."""
        b, _, t = batch.codes.shape
        device = batch.pointer.device
        if chunks is None and self.training:
            lengths = _random_chunks(b, t, device)
        else:
            first, last = tuple(chunks or self.config.chunks), (chunks or self.config.chunks)[-1]
            lengths = torch.tensor([*first, *[last] * (t // last)], device=device).expand(b, -1)
        ends = lengths.cumsum(dim=1).contiguous()
        place = torch.arange(t, device=device) - batch.n_prompt[:, None]
        chunk = torch.searchsorted(ends, place.contiguous(), right=True) + 1
        return torch.where(place < 0, 0, chunk)

    def _losses(self, hidden: Tensor, codes: Tensor, group: Tensor, target: Tensor) -> NARResult:
        zero = torch.zeros((), device=hidden.device)
        total, losses, accuracy, n_frames = zero, [], [], []
        by_codebook = torch.zeros(self.config.n_codebooks - 1, device=hidden.device)
        for g, books in enumerate(self.config.groups):
            here = target & (group == g)[:, None]
            h, true = hidden[here], codes.transpose(1, 2)[here]  # (n, W), (n, K)
            n = len(h)
            n_frames.append(n)
            if n == 0:
                losses.append(zero)
                accuracy.append(zero)
                continue
            logits = torch.cat([self._head(k)(h) for k in books]).float()
            wanted = true[:, list(books)].t().flatten()
            loss = F.cross_entropy(logits, wanted)
            total = total + loss * n
            losses.append(loss.detach())
            right = (logits.detach().argmax(dim=-1) == wanted).float()
            accuracy.append(right.mean())
            by_codebook[books[0] - 1 : books[-1]] = right.view(len(books), n).mean(dim=1)
        counts = torch.tensor(n_frames, device=hidden.device)
        parts = (torch.stack(losses), torch.stack(accuracy), counts, by_codebook)
        return NARResult(total / max(1, sum(n_frames)), *parts)

    def _head(self, codebook: int) -> CodeHead:
        return cast(CodeHead, self.heads[codebook - self.config.n_given])

    # ---- generation, chunk by chunk

    @torch.inference_mode()
    def encode_phones(self, phones: Tensor, prompt: Prompt | None = None) -> Tensor:
        """Phones to be said (3, P), after a prompt -> (1, P, W)."""
        own, _ = spoken_in(prompt)
        n, both = own.shape[1], torch.cat([own.to(phones.device), phones], dim=1)
        return self._encode(both, n)[:, n:]

    def _encode(self, phones: Tensor, n_own: int) -> Tensor:
        if phones.shape[1] == 0:
            return self.no_phone.new_zeros(1, 0, self.config.width)
        counts = [torch.tensor([n], device=phones.device) for n in (phones.shape[1], n_own)]
        return self.text_encoder(phones[None], *counts)

    @torch.inference_mode()
    def init_state(self, prompt: Prompt | None = None, mel: Tensor | None = None) -> NARState:
        """The state before the first frame, the prompt read: it serves every utterance in that voice. mel (T, F): of
        the prompt, for a model that reads it. Raises InputError for a prompt that does not fit."""
        g = len(self.config.groups)
        device = self.no_phone.device
        groups = torch.arange(g, device=device)
        state = self.transformer.init_state(g, like=self.no_phone.detach())
        # As in training, no phone lasts from the prompt into the target.
        nowhere = torch.full((1,), -2, device=device)
        no_age = torch.zeros_like(nowhere)
        codes = torch.zeros(self.config.n_codebooks, 0, dtype=torch.long) if prompt is None else prompt.codes
        self._check_prompt(codes)
        n = codes.shape[1]
        embedded = self.prompt_embedding.few(codes[None].to(device))
        if self.config.mel and mel is not None:
            embedded = embedded + self.prompt_mel(mel[None].to(device))
        everywhere = torch.ones(1, n, device=device)
        condition = self._condition(groups, embedded, everywhere)
        if prompt is not None and n:
            own, at = spoken_in(prompt)
            if self.config.places > 1:  # no phones of such prompts are known
                own, at = own[:, :0], torch.full((n * self.config.places,), -1)
            encoded = self._encode(own.to(device), own.shape[1])
            spoken, *_ = self._spoken(encoded, at[None].to(device), nowhere, no_age)
            x = embedded + spoken + self.segment.weight[0]
            _, state = self.transformer.step(
                x.expand(g, -1, -1).transpose(1, 2), state, full=True, condition=condition, reach=n
            )
        return NARState(state, condition, nowhere, no_age)

    @torch.inference_mode()
    def fork(self, state: NARState) -> NARState:
        """An independent copy. Only what the caches hold is copied, not their empty slots, which are most of them."""
        position, caches = state.transformer
        n = frames_in(state)

        def copied(cache: Tensor) -> Tensor:
            fresh = cache.new_zeros(cache.shape)  # unlike zeros_like, costs nothing for slots never used
            fresh[:, :, :n] = cache[:, :, :n]
            return fresh

        forked = tuple((copied(keys), copied(values)) for keys, values in caches)
        copy = tree_map(lambda t: t.clone(), state._replace(transformer=None))
        return copy._replace(transformer=(position.clone(), forked))

    @torch.inference_mode()
    def step(
        self,
        first: Tensor,
        pointer: Tensor,
        encoded: Sequence[Tensor],
        states: Sequence[NARState],
        options: NAROptions,
        generator: torch.Generator | None = None,
        reaches: Sequence[int | None] = (None, None),
    ) -> tuple[Tensor, tuple[NARState, ...]]:
        """One chunk: first codebooks (1, N, T), pointer (1, T H) -> codes (1, K, T) and the next states.

        encoded, states: what `encode_phones` and `init_state` gave with the prompt, and for guidance as a second entry
        without.   reaches: of each state, the frames that it will hold after this chunk, or more; None: the context.
        """
        t = first.shape[-1]
        spoken, following = [], []
        for phones, state in zip(encoded, states, strict=True):
            said, last, age = self._spoken(phones, pointer, state.pointer, state.age)
            spoken.append(said + self.segment.weight[1])
            following.append(state._replace(pointer=last, age=age))
        codes = first
        for g, books in enumerate(self.config.groups):
            known = self.response_embedding.few(codes)
            hidden = [
                self._pass(known + said, g, state, reach)
                for said, state, reach in zip(spoken, following, reaches[: len(states)], strict=True)
            ]
            drawn = [self._choose(k, [self._head(k)(h) for h in hidden], options, generator) for k in books]
            codes = torch.cat([codes, torch.stack(drawn, dim=1)], dim=1)
        return codes, tuple(self._moved(state, t) for state in following)

    def _moved(self, state: NARState, n_frames: int) -> NARState:
        """All groups have written their frames."""
        position, caches = state.transformer
        return state._replace(transformer=(position + n_frames, caches))

    def _spoken(
        self, encoded: Tensor, pointer: Tensor, before: Tensor, age: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is spoken in each frame, (1, T, W), and the pointer (1, T H)'s last, and its age."""
        ages = phone_ages(pointer, before, age)
        said = phones_at(encoded, pointer, self.no_phone) + self.age(ages.clamp(max=self.config.max_age))
        return self._of_frames(said), pointer[:, -1], ages[:, -1]

    def _pass(self, x: Tensor, group: int, state: NARState, reach: int | None) -> Tensor:
        """x (1, T, W) -> (1, T, W) by the weights as `group` sees them, through the group's own cache."""
        (position, caches), condition, *_ = state
        row = slice(group, group + 1)
        own = position[row], tuple((keys[row], values[row]) for keys, values in caches)  # written in place
        y, _ = self.transformer.step(x.transpose(1, 2), own, full=True, condition=condition[row], reach=reach)
        return y.transpose(1, 2)

    def _choose(
        self, codebook: int, logits: list[Tensor], options: NAROptions, generator: torch.Generator | None
    ) -> Tensor:
        """Logits (1, T, V), with the prompt and perhaps without -> codes (1, T)."""
        one = logits[0]
        if len(logits) > 1:
            one = logits[1] + options.voice_guidance * (one - logits[1])
        if options.choice == "likeliest":
            return one.argmax(dim=-1)
        p = torch.softmax(one.float() / options.temperature, dim=-1)
        if options.choice == "drawn":
            return torch.multinomial(p[0], 1, generator=generator)[:, 0][None]
        vectors = self.vectors[codebook - self.config.n_given].float()
        return (vectors.square().sum(dim=-1) - 2 * (p @ vectors) @ vectors.t()).argmin(dim=-1)

    def _check_prompt(self, codes: Tensor) -> None:
        k, n = codes.shape
        if k != self.config.n_codebooks or (n and int(codes.max()) >= self.config.codebook_size):
            raise InputError(
                f"the voice's codes ({k} codebooks) are not of the codec that {self.config.name} fills "
                f"({self.config.n_codebooks} of {self.config.codebook_size}); make the voice again with `myna voices "
                "add`"
            )
        if 2 * n > self.config.context:
            raise InputError(
                f"the voice's prompt has {n} frames, {self.config.name} takes {self.config.context // 2} at most; "
                "make the voice again with `myna voices add`, from a shorter recording"
            )


def frames_in(state: NARState) -> int:
    """Those that it holds, the prompt's included; waits for a GPU."""
    return int(state.transformer[0][0])


def _find_neighbours(model: NARModel, _: object) -> None:
    """After weights have been loaded: with them came the codec's vectors."""
    model.neighbours, model.vectors = model._nearest(), model._vectors()


def _random_chunks(batch: int, n_frames: int, device: torch.device) -> Tensor:
    """Chunk lengths (B, n) that together are at least n_frames: around a scale of each row's own, or one for all."""
    low, high = _CHUNK_RANGE
    scale = low * (high / low) ** torch.rand(batch, 1, device=device)
    n = n_frames // low + 1
    lengths = (scale * (0.5 + torch.rand(batch, n, device=device))).long().clamp(min=low)
    whole = torch.rand(batch, 1, device=device) < _WHOLE
    return torch.where(whole, n_frames, lengths)
