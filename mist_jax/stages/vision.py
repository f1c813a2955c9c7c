"""Vision encoder: images become tokens of the prompt.

    patches = (side / patch)^2,  tokens = patches / merge        FLOP as in `encoder` on sequences of patches
Defaults: ViT-L/14 at 336 pixels (304 M parameters, 24 layers, width 1024; Radford et al., CLIP, ICML 2021)
as LLaVA-1.5 uses it, 576 tokens an image. Qwen-VL merges 2 x 2 patches: merge = 4.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mist_jax.physics.demand import Demand
from mist_jax.pytree import pytree, replace
from mist_jax.stages.encoder import encoder_demand
from mist_jax.stages.protocol import StageDefinition, Work, parameter

Array = Any


@pytree
class Vision:
    """A vision transformer before the LLM."""

    parameters: Array = parameter(304e6, low=1.0)
    layers: Array = parameter(24.0, low=1.0)
    hidden: Array = parameter(1024.0, low=1.0)
    side: Array = parameter(336.0, low=1.0, doc="pixels of one side")
    patch: Array = parameter(14.0, low=1.0)
    merge: Array = parameter(1.0, low=1.0, doc="patches per token")
    images: Array = parameter(0.0, doc="per request; 0: the request's")
    efficiency: Array = parameter(
        0.4, low=0.01, high=1.0, doc="long sequences fill the chip better; assumption"
    )
    fixed_s: Array = parameter(3e-3, "time", doc="launch and host preprocessing per batch; assumption")
    weight_bytes: Array = parameter(2.0, "bytes", low=0.5)


def _images(params: Vision, work: Work) -> Array:
    return jnp.where(jnp.asarray(params.images) > 0, params.images, work.images)


def demand(params: Vision, work: Work) -> Demand:
    """Demand of encoding the images of a batch of requests."""
    patches = (params.side / params.patch) ** 2
    return encoder_demand(
        params.parameters, params.layers, params.hidden, work.batch * _images(params, work), patches,
        efficiency=params.efficiency, fixed_s=params.fixed_s, weight_bytes=params.weight_bytes,
    )  # fmt: skip


def update(params: Vision, work: Work) -> Work:
    """Image tokens lengthen the prompt."""
    tokens = _images(params, work) * (params.side / params.patch) ** 2 / params.merge
    return replace(work, prompt_tokens=work.prompt_tokens + tokens, images=0.0)


STAGES = (
    StageDefinition(
        name="vision",
        kind="service",
        parameters=Vision,
        function=demand,
        update=update,
        summary="images become prompt tokens",
        source="ViT arithmetic (CLIP ViT-L/14-336)",
        valid="roofline with an assumed efficiency",
        not_modelled="decoding and resizing of images beyond fixed_s; windowed attention",
        needs=("accelerator", "device_memory"),
    ),
)
