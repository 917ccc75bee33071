"""Diffusion and flows: paths from noise to data, what models predict on them, and the samplers that follow them."""

from .denoiser import Model
from .grids import Grid, Sway, Times, Uniform
from .guidance import Guidance
from .parametrisations import Parametrisation, Prediction, corrupt, interpret
from .paths import (
    DiscretePath,
    LinearPath,
    Path,
    TrigonometricPath,
    cosine_schedule,
    even_log_snr,
    linear_schedule,
)
from .sample import SampleOptions, sample
from .samplers import DDIM, Ancestral, DPMSolver2M, Euler, Heun, Midpoint, Sampler

__all__ = [
    "DDIM",
    "Ancestral",
    "DPMSolver2M",
    "DiscretePath",
    "Euler",
    "Grid",
    "Guidance",
    "Heun",
    "LinearPath",
    "Midpoint",
    "Model",
    "Parametrisation",
    "Path",
    "Prediction",
    "SampleOptions",
    "Sampler",
    "Sway",
    "Times",
    "TrigonometricPath",
    "Uniform",
    "corrupt",
    "cosine_schedule",
    "even_log_snr",
    "interpret",
    "linear_schedule",
    "sample",
]
