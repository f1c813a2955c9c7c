"""One engine replica as the physics sees it, and the pools that serve a workload together."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree
from mist_jax.system.calibration import Calibration
from mist_jax.system.engine import Engine
from mist_jax.system.hardware import Hardware
from mist_jax.system.model import Model
from mist_jax.system.parallel import Parallel

Array = Any


@pytree
class System:
    """One replica: a model on chips, cut up by a plan, run by an engine."""

    hardware: Hardware
    model: Model
    parallel: Parallel
    engine: Engine
    calibration: Calibration


@pytree
class Transfer:
    """KV transfer between a prefill replica and a decode replica."""

    bandwidth: Array  #: bytes/s of one prefill replica's link
    latency: Array  #: s
    overlap: Array  #: 0: after the prefill; 1: layer by layer, only the last layer shows


@pytree
class Workload:
    """Mean lengths and load."""

    isl: Array  #: prompt tokens
    osl: Array  #: answer tokens
    concurrency: Array  #: requests in flight (closed loop), whole deployment
    rate: Array  #: requests/s offered (open loop), whole deployment
    isl_cv: Array  #: coefficient of variation of the prompt length
    osl_cv: Array  #: coefficient of variation of the answer length
    #: share of the requests that a closed-loop benchmark sends all at once at its start (1 / rounds; 0: none)
    burst_share: Array = 0.0
