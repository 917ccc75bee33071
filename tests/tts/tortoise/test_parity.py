"""Every network beside the package tortoise-tts 3.0.0 on the same random weights, through the published file layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from myna.diffusion import Ancestral, Guidance, SampleOptions, linear_schedule, sample
from myna.tts.tortoise.adapter import load_published
from myna.tts.tortoise.generate import CodeOptions, code_steps
from myna.tts.tortoise.layout import LAYOUTS
from myna.tts.tortoise.model.diffusion_decoder import n_mel_frames
from myna.tts.tortoise.model.hifigan import stretch
from torch import nn

LIMIT = 1e-4


def ours(network: str, theirs: nn.Module, folder: Path) -> Any:
    """Our network with the reference's weights, by way of a file as published."""
    weights: Any = theirs.state_dict()
    inside = LAYOUTS[network].inside
    path = folder / f"{network}.pth"
    torch.save(weights if inside is None else {inside: weights, "optimiser": 1}, path)
    return load_published(network, path)


def difference(a: torch.Tensor, b: torch.Tensor, what: str = "") -> float:
    """The largest, relative to the size of what is compared; said, for who runs this with -s."""
    assert a.shape == b.shape
    found = float((a - b).abs().max() / b.abs().max().clamp(min=1))
    print(f"\n{what or sys._getframe(1).f_code.co_name.removeprefix('test_')}: {found:.1e}", end="")
    return found


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory):
    theirs = reference.autoregressive()
    return theirs, ours("autoregressive", theirs, tmp_path_factory.mktemp("ar"))


TEXT = torch.tensor([[7, 31, 254, 2, 9]])
CODES = torch.tensor([[5, 8191, 83, 83, 4096, 17]])


def test_voice_encoder(autoregressive):
    theirs, mine = autoregressive
    mels = torch.randn(2, 80, 60)
    with torch.no_grad():
        assert difference(mine.voice_encoder(mels), theirs.get_conditioning(mels[None])) < LIMIT


def test_autoregressive_logits_and_latents(autoregressive):
    theirs, mine = autoregressive
    voice = torch.randn(1, 128)
    n = torch.tensor([CODES.shape[1] * 1024])
    given = (voice, TEXT, torch.tensor([TEXT.shape[1]]), CODES, n)
    with torch.no_grad():
        latents = theirs(*given, return_latent=True, clip_inputs=False)
        assert difference(mine.latents(voice, TEXT, CODES), latents, "autoregressive latents") < LIMIT
        # Heads over the same positions, by the reference's own modules.
        prompt = torch.nn.functional.pad(torch.nn.functional.pad(TEXT, (0, 1)), (1, 0), value=255)
        codes = torch.nn.functional.pad(
            torch.nn.functional.pad(CODES, (1, 0), value=8192), (0, 1), value=8193
        )
        embedded = theirs.text_embedding(prompt) + theirs.text_pos_embedding(prompt)
        spoken = theirs.mel_embedding(codes) + theirs.mel_pos_embedding(codes)
        of_text, of_codes = theirs.get_logits(
            voice[:, None], embedded, theirs.text_head, spoken, theirs.mel_head
        )
        text_logits, code_logits = mine(voice, TEXT, CODES)
    assert difference(text_logits, of_text.transpose(1, 2), "text logits") < LIMIT
    assert difference(code_logits, of_codes.transpose(1, 2), "code logits") < LIMIT


def test_generation_is_that_of_the_package_without_its_cache(autoregressive):
    """With its cache the package has other positions than in training. Greedy, so that nothing is drawn."""
    theirs, mine = autoregressive
    processors = pytest.importorskip("transformers.generation.logits_process")
    voice, n = torch.randn(1, 128), 12
    text = torch.cat([TEXT, torch.zeros(1, 1, dtype=torch.long)], dim=1)
    theirs.post_init_gpt2_config(kv_cache=False)
    padded = torch.nn.functional.pad(torch.nn.functional.pad(text, (0, 1)), (1, 0), value=255)
    with torch.no_grad():
        prompt = torch.cat(
            [voice[:, None], theirs.text_embedding(padded) + theirs.text_pos_embedding(padded)], dim=1
        )
        theirs.inference_model.store_mel_emb(prompt)
        ids = torch.ones(1, prompt.shape[1] + 1, dtype=torch.long)
        ids[:, -1] = 8192
        penalise = processors.RepetitionPenaltyLogitsProcessor(2.0)
        for _ in range(n):
            logits = theirs.inference_model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, return_dict=True
            ).logits[:, -1]
            ids = torch.cat([ids, penalise(ids, logits).argmax(-1, keepdim=True)], dim=1)
    options = CodeOptions(temperature=0, max_codes=n)
    steps = list(code_steps(mine, voice, text, options, [0]))
    said = torch.cat([step.codes for step in steps])
    assert torch.equal(said, ids[0, -n:][: len(said)])
    assert len(said) == n or int(said[-1]) == 8193
    assert len(set(said.tolist())) > 4


def test_clvp(tmp_path):
    theirs = reference.clvp()
    mine = ours("clvp", theirs, tmp_path)
    text, codes = torch.randint(0, 256, (3, 21)), torch.randint(0, 300, (3, 90))
    with torch.no_grad():
        assert difference(mine(text, codes), theirs(text, codes, return_loss=False)) < LIMIT


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    theirs = reference.diffusion()
    return theirs, ours("diffusion", theirs, tmp_path_factory.mktemp("diffusion"))


@pytest.mark.parametrize("n_latents", [7, 80])  # 80: distances reach every bucket
@torch.no_grad()
def test_diffusion(diffusion, n_latents):
    theirs, mine = diffusion
    clips = [torch.randn(20, 41), torch.randn(20, 60)]
    voice = theirs.get_conditioning(torch.stack([clips[0], clips[0]])[None])
    assert difference(mine.voice([clips[0], clips[0]]), voice, "diffusion voice") < LIMIT
    latents = torch.randn(1, n_latents, 48)
    n_frames = n_mel_frames(n_latents)
    aligned = theirs.timestep_independent(latents, voice, n_frames, False)
    assert difference(mine.align(latents, voice), aligned, "diffusion condition") < LIMIT
    x, t = torch.randn(2, 20, n_frames), torch.tensor([3999.0, 137.0])
    rows = aligned.expand(2, -1, -1)
    given = theirs(x, t, precomputed_aligned_embeddings=rows)
    assert difference(mine(x, t, rows), given, "diffusion noise and variance") < LIMIT
    free = theirs(x, t, precomputed_aligned_embeddings=rows, conditioning_free=True)
    assert difference(mine(x, t, mine.without(n_frames, 2)), free, "diffusion without condition") < LIMIT


@torch.no_grad()
def test_the_sampler_is_the_published_one(diffusion):
    theirs, mine = diffusion
    ddpm, respace = reference.module("utils.diffusion"), reference.module("utils.diffusion").space_timesteps
    n_steps = 6
    process = ddpm.SpacedDiffusion(
        use_timesteps=respace(4000, [n_steps]),
        model_mean_type="epsilon",
        model_var_type="learned_range",
        loss_type="mse",
        betas=ddpm.get_named_beta_schedule("linear", 4000),
        conditioning_free=True,
        conditioning_free_k=2.0,
    )
    condition = mine.align(torch.randn(1, 9, 48), torch.randn(1, 256))
    noise = torch.randn(1, 20, condition.shape[-1])
    torch.manual_seed(5)
    theirs_mel = process.p_sample_loop(
        theirs,
        noise.shape,
        noise=noise,
        model_kwargs={"precomputed_aligned_embeddings": condition},
        progress=False,
        device="cpu",
    )
    options = SampleOptions(
        Ancestral(n_steps),
        linear_schedule(4000, 2.5e-5, 0.005),
        "epsilon",
        guidance=Guidance(2.0, ramp=True),
        clamp=1.0,
    )
    torch.manual_seed(5)
    mel = sample(mine, noise, condition, options, without=mine.without(condition.shape[-1]))
    assert difference(mel, theirs_mel) < LIMIT


@torch.no_grad()
def test_univnet(tmp_path):
    theirs = reference.univnet()
    mine = ours("univnet", theirs, tmp_path)
    mel, noise = torch.randn(2, 10, 23), torch.randn(2, 8, 23)
    assert difference(mine(mel, noise), theirs.forward(mel, noise)) < LIMIT
    torch.manual_seed(2)
    expected = theirs.inference(mel[:1])
    torch.manual_seed(2)
    assert difference(mine.decode(mel[:1]), expected[0, 0]) < LIMIT


@torch.no_grad()
def test_hifigan(tmp_path):
    theirs = reference.hifigan()
    mine = ours("hifigan", theirs, tmp_path)
    latents, voice = torch.randn(1, 13, 32), torch.randn(1, 32)
    x = torch.nn.functional.interpolate(latents.transpose(1, 2), scale_factor=[4.0], mode="linear")
    x = torch.nn.functional.interpolate(x, scale_factor=[24000 / 22050], mode="linear")
    assert torch.equal(stretch(latents.transpose(1, 2)), x)
    assert difference(mine.decode(latents, voice), theirs(x, g=voice[..., None])[0, 0]) < LIMIT


@pytest.mark.parametrize("network", ["random-autoregressive", "random-diffusion"])
@torch.no_grad()
def test_random_latents(network, tmp_path):
    theirs = reference.random_latents()
    mine = ours(network, theirs, tmp_path)
    torch.manual_seed(3)
    expected = theirs(torch.tensor([0.0]))
    torch.manual_seed(3)
    assert difference(mine(torch.randn(1, 32)), expected) < LIMIT


@torch.no_grad()
def test_classifier(tmp_path):
    theirs = reference.classifier()
    mine = ours("classifier", theirs, tmp_path)
    wav = torch.randn(1, 1, 30_000)
    assert difference(mine(wav), theirs(wav)) < LIMIT
    assert mine.probability(wav[0, 0]) == pytest.approx(float(theirs(wav).softmax(-1)[0, 0]), abs=1e-5)
