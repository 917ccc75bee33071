"""The server on several machines: the same application as a Ray Serve deployment (extra `ray`).

    proxy of Ray --> the replica with fewer requests under way --> its own queue, models and batches

    serve run myna.apps.serve.ray_deployment:application num_replicas=4 num_cpus=2

Streams and WebSockets pass through. Requests share steps with those of the same replica.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import UsageError
from .app import build_app
from .house import House
from .options import Limits, ServeOptions

# What a replica has to know of the environment of whoever deploys.
_PASSED_ON = ("MYNA_VOICES", "MYNA_HOME", "MYNA_CACHE", "MYNA_KERNELS")

_ARGUMENTS = (
    "num_replicas", "num_cpus", "num_gpus", "max_concurrency", "queue", "models", "default_model", "deadline",
)  # fmt: skip


def application(arguments: dict[str, str]) -> Any:
    """What `serve run` builds, from NAME=VALUE words.

    num_replicas; num_cpus and num_gpus of each; max_concurrency, queue, models, default_model and deadline as the
    options of `myna serve`. Keys come from MYNA_API_KEY, separated by spaces. Raises UsageError.
    """
    given: dict[str, Any] = dict(arguments)
    try:
        size: dict[str, Any] = {
            "n_replicas": int(given.pop("num_replicas", 1)),
            "n_cpus": float(given.pop("num_cpus", 1)),
            "n_gpus": float(given.pop("num_gpus", 0)),
        }
        numbers: dict[str, Any] = {
            name: int(given.pop(name)) for name in ("max_concurrency", "queue", "models") if name in given
        }
        limits = Limits(deadline=float(given.pop("deadline", Limits.deadline)))
    except ValueError as error:
        raise UsageError(f"a number was expected: {error}") from None
    model = given.pop("default_model", None)
    if given:
        raise UsageError(f"no argument {next(iter(given))!r}; there are {', '.join(_ARGUMENTS)}")
    if "max_concurrency" not in numbers:
        numbers["max_concurrency"] = max(1, round(4 * size["n_cpus"]))
    keys = tuple(os.environ.get("MYNA_API_KEY", "").split())
    options = ServeOptions(api_keys=keys, default_model=model, limits=limits, **numbers)
    return deployment(options, **size)


def deployment(
    options: ServeOptions,
    n_replicas: int = 1,
    n_cpus: float = 1,
    n_gpus: float = 0,
    make_house: Callable[[ServeOptions], House] = House,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """An application for `ray.serve.run`.

    n_cpus, n_gpus: of each replica; PyTorch has one thread a core.   make_house: what is behind the routes of one.
    environment: of the replicas, besides MYNA_VOICES and the like, which are passed on.   Raises UsageError without
    Ray Serve.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError(f"a deployment needs Ray Serve ({error}); pip install 'myna[ray,serve]'") from None
    # Who reaches it is up to Ray's proxy, whose name is the Host of the requests. The page keeps its visitors' things
    # in one process, so there is none.
    options = replace(options, host="0.0.0.0", page=False)
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    sessions, kinds = 4 * options.max_concurrency, 3

    def build() -> Any:
        return build_app(options, make_house(options))

    @serve.deployment(
        name="myna",
        num_replicas=n_replicas,
        ray_actor_options={
            "num_cpus": n_cpus,
            "num_gpus": n_gpus,
            "runtime_env": {"env_vars": {**variables, **(environment or {})}},
        },
        # Who waits and who is turned away is up to the queues of the replicas.
        max_ongoing_requests=2 * (kinds * (options.max_concurrency + options.queue) + sessions),
        graceful_shutdown_timeout_s=10,
    )
    @serve.ingress(build)
    class Myna:
        """A replica."""

    return Myna.bind()  # pyright: ignore[reportAttributeAccessIssue]
