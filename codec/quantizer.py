"""Residual vector quantisation, with codebooks of either kind.

    latents --(-)--> codebook 1 --(-)--> codebook 2 ... each quantises what the ones before left over

EnCodec's codebooks follow the data by an exponential moving average (Défossez et al. 2022, section 3.2; k-means
start, dead codes replaced); DAC's are factorized and L2-normalised and learn by gradient (Kumar et al. 2023,
section 3.2). Shapes: B batch, D latent channels, T frames, K codebooks, V codebook_size, d codebook_dim, M paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.packed import packed


@dataclass(frozen=True)
class CodebookResult:
    """One codebook's answer: quantized (B, D, T), codes (B, T), and its losses for each example, (B,)."""

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


@dataclass(frozen=True)
class QuantizedResult:
    """quantized (B, D, T), codes (B, K, T), losses (scalars, means over the examples that used each codebook)."""

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


def kmeans(vectors: Tensor, k: int, iterations: int = 10) -> Tensor:
    """Lloyd's algorithm: centres (k, d) of vectors (n, d). Empty clusters are refilled with random vectors."""
    n = vectors.shape[0]
    pick = torch.randperm(n, device=vectors.device)
    centres = vectors[pick[torch.arange(k, device=vectors.device) % n]].clone()
    for _ in range(iterations):
        label = _nearest(vectors, centres)
        count = torch.zeros(k, device=vectors.device, dtype=vectors.dtype).index_add_(
            0, label, torch.ones_like(vectors[:, 0])
        )
        total = torch.zeros_like(centres).index_add_(0, label, vectors)
        refill = vectors[torch.randint(n, (k,), device=vectors.device)]
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], refill)
    return centres


def _nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each vector: (n, d), (V, d) -> (n,)."""
    return (vectors @ centres.t()).mul_(-2).add_(centres.square().sum(-1)).argmin(-1)


class EMACodebook(nn.Module):
    """EnCodec's codebook: buffers that follow the vectors assigned to them.

    decay: of the moving averages.   threshold: a code used by less than this share of the average is replaced by a
    random vector of the step. (EnCodec's "2 vectors a step" is a share of 0.4 of its batches, but more than a small
    batch can give to each code, which would replace all of them at every step.)
    """

    embed: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    inited: Tensor

    def __init__(self, dim: int, codebook_size: int, decay: float = 0.99, threshold: float = 0.1):
        super().__init__()
        self.decay, self.threshold, self.epsilon = decay, threshold, 1e-5
        self.codebook_size = codebook_size
        embed = torch.randn(codebook_size, dim) / dim**0.5
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.zeros(codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("inited", torch.zeros(1))

    def encode(self, x: Tensor) -> Tensor:
        """x (B, D, T) -> codes (B, T): the nearest row by Euclidean distance."""
        b, d, t = x.shape
        flat = x.transpose(1, 2).reshape(-1, d)
        # In this form and order because the reference's is, and codes must not differ by rounding.
        size = packed(self, "size", self.embed, lambda embed: embed.t().square().sum(0, keepdim=True))
        distance = -(flat.square().sum(1, keepdim=True) - 2 * flat @ self.embed.t() + size)
        return distance.max(dim=-1).indices.view(b, t)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, T) -> (B, D, T)."""
        return F.embedding(codes, self.embed).transpose(1, 2)

    def forward(self, x: Tensor, codes: Tensor | None = None) -> CodebookResult:
        """x (B, D, T); codes (B, T) when a search over all codebooks has already chosen them."""
        if self.training and not bool(self.inited):
            self.init_from(x)
            codes = None
        if codes is None:
            codes = self.encode(x.detach())
        hit = self.decode(codes)
        if self.training:
            self._follow(x.detach(), codes)
        commitment = (hit.detach() - x).square().mean(dim=(1, 2))
        return CodebookResult(hit.detach(), codes, commitment, torch.zeros_like(commitment))

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        """Start from the k-means centres of x (B, D, T)."""
        flat = x.detach().transpose(1, 2).reshape(-1, x.shape[1]).float()
        self.embed.copy_(kmeans(flat, self.codebook_size))
        even = flat.shape[0] / self.codebook_size
        self.embed_avg.copy_(self.embed * even)
        self.cluster_size.fill_(even)
        self.inited.fill_(1)

    @torch.no_grad()
    def _follow(self, x: Tensor, codes: Tensor) -> None:
        flat, label = x.transpose(1, 2).reshape(-1, x.shape[1]).to(self.embed.dtype), codes.reshape(-1)
        # An average never forgets NaN: one bad batch must not end a run of hours.
        flat = torch.nan_to_num(flat, 0.0, 0.0, 0.0)
        count = torch.zeros_like(self.cluster_size).index_add_(
            0, label, torch.ones_like(label, dtype=flat.dtype)
        )
        total = torch.zeros_like(self.embed).index_add_(0, label, flat)
        _sum_over_devices(count, total)
        self.cluster_size.lerp_(count, 1 - self.decay)
        self.embed_avg.lerp_(total, 1 - self.decay)
        size = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.epsilon) / (size + self.codebook_size * self.epsilon) * size
        self.embed.copy_(self.embed_avg / smoothed[:, None])
        even = size / self.codebook_size
        dead = self.cluster_size < self.threshold * even
        fresh = _from_first_device(
            flat[torch.randint(flat.shape[0], (self.codebook_size,), device=flat.device)]
        )
        self.embed.copy_(torch.where(dead[:, None], fresh, self.embed))
        self.embed_avg.copy_(torch.where(dead[:, None], fresh * even, self.embed_avg))
        self.cluster_size.copy_(torch.where(dead, even, self.cluster_size))


def _normalized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (V, d) of length 1, and the squares (1, V) of these lengths."""
    rows = F.normalize(weight)
    return rows, rows.square().sum(1, keepdim=True).t()


class FactorizedCodebook(nn.Module):
    """DAC's codebook: a projection to few dimensions, the nearest row by cosine, a projection back.

    threshold: a code used by less than this share of the even 1/V, on average over about thirty steps, is replaced
    by a random vector of the step (0: never, as in DAC).
    """

    usage: Tensor
    inited: Tensor

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int, threshold: float = 0.0):
        super().__init__()
        self.codebook_size, self.threshold = codebook_size, threshold
        self.in_proj = nn.Conv1d(dim, codebook_dim, 1)
        self.out_proj = nn.Conv1d(codebook_dim, dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)
        if threshold > 0:  # DAC's own checkpoints know neither
            self.register_buffer("usage", torch.ones(codebook_size))
            self.register_buffer("inited", torch.zeros(1))

    def encode(self, x: Tensor) -> Tensor:
        """x (B, D, T) -> codes (B, T)."""
        return self._lookup(self.in_proj(x))

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, T) -> (B, D, T)."""
        return self.out_proj(F.embedding(codes, self.codebook.weight).transpose(1, 2))

    def forward(self, x: Tensor) -> CodebookResult:
        if self.training and self.threshold > 0 and not bool(self.inited):
            self.init_from(x)
        z = self.in_proj(x).float()
        codes = self._lookup(z.detach())
        hit = F.embedding(codes, self.codebook.weight).transpose(1, 2)
        if self.training and self.threshold > 0:
            self._revive(z.detach(), codes)
        commitment = (z - hit.detach()).square().mean(dim=(1, 2))
        codebook = (hit - z.detach()).square().mean(dim=(1, 2))
        return CodebookResult(self.out_proj(z + (hit - z).detach()), codes, commitment, codebook)

    def _lookup(self, z: Tensor) -> Tensor:
        """The row with the greatest cosine similarity (DAC, appendix; ties go to the first)."""
        b, d, t = z.shape
        flat = F.normalize(z.transpose(1, 2).reshape(-1, d))
        rows, size = packed(self, "rows", self.codebook.weight.detach(), _normalized)
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ rows.t() + size
        return (-distance).max(1).indices.view(b, t)

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        """Start from x (B, D, T): the projections are its principal axes, the rows k-means centres along them."""
        flat = x.detach().transpose(1, 2).reshape(-1, x.shape[1]).float()
        mean = flat.mean(0)
        axes = torch.linalg.eigh((flat - mean).t() @ (flat - mean)).eigenvectors.flip(1)
        axes = axes[:, : self.codebook.embedding_dim].t()  # (d, D), the widest first
        z = (flat - mean) @ axes.t()
        self.in_proj.weight.copy_(axes[:, :, None])
        cast("Tensor", self.in_proj.bias).copy_(-(axes @ mean))
        self.out_proj.weight.copy_(axes.t()[:, :, None])
        cast("Tensor", self.out_proj.bias).copy_(mean)
        self.codebook.weight.copy_(kmeans(z, self.codebook_size))
        if self.threshold > 0:
            self.inited.fill_(1)

    @torch.no_grad()
    def _revive(self, z: Tensor, codes: Tensor) -> None:
        flat, label = z.transpose(1, 2).reshape(-1, z.shape[1]), codes.reshape(-1)
        count = torch.zeros_like(self.usage).index_add_(
            0, label, torch.ones_like(label, dtype=self.usage.dtype)
        )
        _sum_over_devices(count)
        self.usage.lerp_(count * (self.codebook_size / count.sum()), 0.03)
        dead = self.usage < self.threshold
        fresh = _from_first_device(
            flat[torch.randint(flat.shape[0], (self.codebook_size,), device=flat.device)]
        )
        self.codebook.weight.copy_(torch.where(dead[:, None], fresh, self.codebook.weight))
        self.usage.copy_(torch.where(dead, torch.ones_like(self.usage), self.usage))


class Price(Protocol):
    """What codes cost beside their distance."""

    def of(self, start: int, n: int) -> Callable[[int], Tensor]:
        """For the n vectors from `start` on, a function of k that gives the cost of each row of codebook k, (n, V)."""
        ...


class ResidualVQ(nn.Module):
    """A cascade of codebooks, each quantising the residual of the ones before (SoundStream, algorithm 1).

    n_paths: the greedy choice, nearest row by nearest row, is not the sum that comes nearest. With M paths the M best
    beginnings are kept from codebook to codebook (the M-search of multistage quantizers; LeBlanc et al., "Efficient
    search and design procedures for robust multi-stage VQ", 1993). Decoding is the same, and any number of leading
    codebooks still decodes. 1: greedy, as in EnCodec and DAC.
    rate_weight: what the search pays for a bit, as a share of the size (squared) of the last codebook's rows. The
    bits are those of the code's frequency in training, so that what entropy coding writes gets smaller (Chou et al.,
    "Entropy-constrained vector quantization", 1989). Only with several paths, not while training.
    """

    def __init__(
        self,
        codebooks: list[EMACodebook] | list[FactorizedCodebook],
        n_paths: int = 1,
        rate_weight: float = 0.0,
    ):
        super().__init__()
        if n_paths > 1 and not isinstance(codebooks[0], EMACodebook):
            raise ValueError(
                "a search over several paths needs EMA codebooks: factorized ones compare directions"
            )
        self.codebooks, self.n_paths, self.rate_weight = nn.ModuleList(codebooks), n_paths, rate_weight

    @property
    def n_codebooks(self) -> int:
        return len(self.codebooks)

    @property
    def _books(self) -> list[EMACodebook | FactorizedCodebook]:
        return cast("list[EMACodebook | FactorizedCodebook]", list(self.codebooks))

    def rows(self) -> Tensor:
        """The vectors that the codes stand for, (K, V, d)."""
        books = [b.embed if isinstance(b, EMACodebook) else b.codebook.weight for b in self._books]
        return torch.stack(books).detach()

    def encode(self, latents: Tensor, n_codebooks: int | None = None, search: bool = False) -> Tensor:
        """latents (B, D, T) -> codes (B, K, T) with the first `n_codebooks` (default: all).

        search: over `n_paths` paths, if there are several; otherwise greedily.
        """
        if search and self.n_paths > 1:
            return self.search(latents, self.n_codebooks if n_codebooks is None else n_codebooks)
        residual, codes = latents, []
        for codebook in self._books[:n_codebooks]:
            codes.append(codebook.encode(residual))
            residual = residual - codebook.decode(codes[-1])
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def search(
        self, latents: Tensor, n_codebooks: int, price: Price | None = None, n_paths: int | None = None
    ) -> Tensor:
        """The codes (B, K, T) of the best of `n_paths` paths (None: the quantizer's), frame by frame.

        price: of codes, in the place of what `rate_weight` says.
        """
        b, d, t = latents.shape
        flat = latents.transpose(1, 2).reshape(-1, d)
        costs = self._costs(priced=price is not None)[:n_codebooks]
        found = []
        for i, x in enumerate(flat.split(_BLOCK)):
            prices = None if price is None else price.of(i * _BLOCK, len(x))
            found.append(self._search_block(x, costs, n_paths or self.n_paths, prices))
        return torch.cat(found).view(b, t, n_codebooks).transpose(1, 2)

    def row_size(self, k: int) -> float:
        """The squared length of codebook k's rows, on average: how far a wrong choice is off. EMA codebooks only."""
        return float(cast("EMACodebook", self.codebooks[k]).embed.square().sum(1).mean())

    def _costs(self, priced: bool) -> list[Tensor]:
        """What choosing each row of each codebook costs beside the product with the residual, K of (V,); priced: bits
        have a price of their own."""
        books = cast("list[EMACodebook]", self._books)
        costs = [book.embed.square().sum(1) for book in books]
        if self.training or self.rate_weight == 0 or priced:
            return costs
        bit = self.rate_weight * costs[-1].mean()
        share = [book.cluster_size.clamp(min=1e-3) / book.cluster_size.sum() for book in books]
        return [cost - bit * p.log2() for cost, p in zip(costs, share, strict=True)]

    def _search_block(
        self, x: Tensor, costs: list[Tensor], n_paths: int, prices: Callable[[int], Tensor] | None
    ) -> Tensor:
        """Vectors (n, d) -> codes (n, K), K as many as there are costs."""
        n, d = x.shape
        residual, error = x[:, None], x.new_zeros(n, 1)  # (n, M, d); (n, M): squared, less |x|^2 for all
        codes = x.new_zeros(n, 1, 0, dtype=torch.long)
        # One piece of memory for the products of all codebooks: a new one each time costs as much as they do.
        room = x.new_empty(n * n_paths * max(len(cost) for cost in costs))
        for k, cost in enumerate(costs):
            book = cast("EMACodebook", self.codebooks[k])
            rows = book.embed
            columns = packed(book, "columns", rows, lambda rows: rows.t().contiguous())
            # Twice the vectors instead of twice the products: doubling is exact, and these are few.
            vectors = residual.reshape(-1, d).mul(-2)
            products = torch.mm(vectors, columns, out=room[: len(vectors) * len(rows)].view(-1, len(rows)))
            gain = products.view(n, -1, len(rows)).add_(cost)
            if prices is not None:
                gain.add_(prices(k)[:, None])
            kept = 1 if k == len(costs) - 1 else n_paths
            error, path, row = _least(gain, error, kept)
            residual = residual.gather(1, path[..., None].expand(-1, -1, d)) - F.embedding(row, rows)
            codes = torch.cat([codes.gather(1, path[..., None].expand(-1, -1, k)), row[..., None]], dim=-1)
        return codes[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, K, T), K up to n_codebooks -> (B, D, T)."""
        books = self._books
        first = books[0]
        if codes.is_cuda and isinstance(first, EMACodebook):
            from ..kernels.gpu import rvq  # with Triton, as in layers/activations.py

            if rvq.runs_on(first.embed):
                table = packed(self, "table", first.embed, lambda _: self.rows())
                vectors = rvq.rvq_decode(codes.transpose(1, 2).flatten(0, 1), table)
                return vectors.unflatten(0, codes.shape[::2]).transpose(1, 2)
        quantized = first.decode(codes[:, 0])
        for k in range(1, codes.shape[1]):
            quantized = quantized + books[k].decode(codes[:, k])
        return quantized

    @torch.no_grad()
    def init_from(self, latents: Tensor) -> None:
        """Start every codebook from latents (B, D, T), each from what the ones before leave over.

        B * T should be many times codebook_size: with fewer vectors than codes the first codebook learns them by
        heart and leaves the others nothing.
        """
        residual = latents
        for codebook in self._books:
            codebook.init_from(residual)
            residual = residual - codebook.decode(codebook.encode(residual))

    @property
    def unplaced(self) -> int:
        """Codebooks at the end that have no rows from data yet; of factorized ones that is not known, and 0."""
        return sum(isinstance(book, EMACodebook) and not bool(book.inited) for book in self._books)

    @torch.no_grad()
    def init_rest_from(self, latents: Tensor) -> None:
        """Start the codebooks that are `unplaced` from what the others leave of latents (B, D, T)."""
        residual = latents
        for codebook in self._books:
            if isinstance(codebook, EMACodebook) and not bool(codebook.inited):
                codebook.init_from(residual)
            residual = residual - codebook.decode(codebook.encode(residual))

    def forward(self, latents: Tensor, n_codebooks: Tensor | int | None = None) -> QuantizedResult:
        """Quantise with gradients. n_codebooks: for each example (B,), or one number; later codebooks see the
        residual all the same, but neither their output nor their losses count (quantizer dropout, DAC sec. 3.3)."""
        # In bfloat16 a residual of a residual is mostly rounding, and the nearest code a guess.
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.float(), n_codebooks)

    def _quantize(self, latents: Tensor, n_codebooks: Tensor | int | None) -> QuantizedResult:
        b = latents.shape[0]
        limit = torch.as_tensor(
            self.n_codebooks if n_codebooks is None else n_codebooks, device=latents.device
        )
        limit = limit.expand(b)
        residual, quantized, codes = latents, torch.zeros_like(latents), []
        commitment = codebook_loss = latents.new_zeros((), dtype=torch.float32)
        searched = None
        # Codebooks that have no rows yet take them from the first batch, each in its turn.
        if self.n_paths > 1 and not (
            self.training and not bool(cast("EMACodebook", self.codebooks[-1]).inited)
        ):
            searched = self.search(latents.detach(), self.n_codebooks)
        for k, codebook in enumerate(self.codebooks):
            result = codebook(residual) if searched is None else codebook(residual, searched[:, k])
            used = (k < limit).to(result.commitment_loss.dtype)
            quantized = quantized + result.quantized * used[:, None, None]
            residual = residual - result.quantized
            codes.append(result.codes)
            share = used.sum().clamp(min=1)
            commitment = commitment + (result.commitment_loss * used).sum() / share
            codebook_loss = codebook_loss + (result.codebook_loss * used).sum() / share
        if isinstance(self.codebooks[0], EMACodebook):  # no projections: one straight-through for the sum
            quantized = latents + (quantized - latents).detach()
        return QuantizedResult(quantized, torch.stack(codes, 1), commitment, codebook_loss)


_BLOCK = 1024  # vectors that are searched at once: each asks for n_paths * codebook_size distances
_GROUPS = 32  # that a path's rows are divided into


def _least(gain: Tensor, error: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `kept` least of error (n, M) + gain (n, M, V) in ascending order: the sums, their paths, their rows, each
    (n, kept); fewer where there are fewer.

    Rows are looked through in groups, row v in group v % _GROUPS: the least numbers are in the groups whose own least
    are least, so that of M V numbers none is sorted but one a group, and those in as many groups as are wanted.
    """
    n, m, v = gain.shape
    kept = min(kept, m * v)
    if v % _GROUPS or m * _GROUPS < kept:
        sums, pick = (error[..., None] + gain).flatten(1).topk(kept, dim=-1, largest=False)
        return sums, pick // v, pick % v
    least = gain.view(n, m, v // _GROUPS, _GROUPS).amin(2)
    _, group = (error[..., None] + least).flatten(1).topk(kept, dim=-1, largest=False)  # (n, kept)
    path, first = group // _GROUPS, group % _GROUPS
    inside = (
        torch.arange(0, v, _GROUPS, device=gain.device) + first[..., None]
    )  # (n, kept, V / groups): their rows
    near = gain.flatten(1).gather(1, (path[..., None] * v + inside).flatten(1)).view(inside.shape)
    sums = error.gather(1, path)[..., None] + near
    sums, pick = sums.flatten(1).topk(kept, dim=-1, largest=False)
    which = pick // inside.shape[2]
    return sums, path.gather(1, which), inside.flatten(1).gather(1, pick)


def dropout_codebooks(batch: int, n_codebooks: int, p: float = 0.5) -> Tensor:
    """How many codebooks each example uses, (B,): with probability p uniformly 1..K, otherwise K (DAC sec. 3.3)."""
    drawn = torch.randint(1, n_codebooks + 1, (batch,))
    return torch.where(torch.rand(batch) < p, drawn, torch.full_like(drawn, n_codebooks))


def _sum_over_devices(*tensors: Tensor) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def _from_first_device(tensor: Tensor) -> Tensor:
    """Rank 0's values everywhere, so that replaced codes do not differ between devices."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        tensor = tensor.contiguous()
        torch.distributed.broadcast(tensor, 0)
    return tensor
