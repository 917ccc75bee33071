"""The server on several machines: a Ray Serve deployment of the same application (extra `ray`).

    ray start --head                                   # and `ray start --address=...` on the others
    serve run myna.apps.serve.ray_deployment:deployment num_replicas=4

Every replica has its own models and its own queue; voices have to be in a folder that all of them see (MYNA_VOICES).
"""

from __future__ import annotations

import os
from typing import Any

from .app import build_app
from .house import House
from .options import ServeOptions


def deployment(arguments: dict[str, Any] | None = None, house: type[House] | Any = House) -> Any:
    """A `ray.serve` application. arguments: num_replicas, num_cpus and num_gpus of each, and fields of ServeOptions.

    house: what makes the house of a replica from its options.   Keys come from MYNA_API_KEY, separated by spaces.
    """
    from ray import serve

    given = dict(arguments or {})
    n_replicas = int(given.pop("num_replicas", 1))
    resources = {"num_cpus": float(given.pop("num_cpus", 1)), "num_gpus": float(given.pop("num_gpus", 0))}
    keys = tuple(os.environ.get("MYNA_API_KEY", "").split())
    # Ray's proxy decides who reaches it; Host is that of the proxy.
    options = ServeOptions(**{"host": "0.0.0.0", "page": False, "api_keys": keys, **given})

    @serve.deployment(
        num_replicas=n_replicas,
        ray_actor_options=resources,
        max_ongoing_requests=2 * (options.max_concurrency + options.queue),
    )
    @serve.ingress(lambda: build_app(options, house(options)))
    class Myna:
        """A replica."""

    return Myna.bind()
