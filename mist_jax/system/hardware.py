"""The chip, its memory, its links and its power, as numbers."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any  # a JAX or NumPy array, or a Python float; scalar unless a shape is given

#: Order of `Hardware.peak_flops`. A precision that the chip has no unit for has rate 0.
COMPUTE_PRECISIONS = ("fp32", "bf16", "fp8", "int8", "fp4")


@pytree
class Hardware:
    """One accelerator (or CPU socket) and the links that leave it.

    Bandwidths of links are per direction and per chip. `units` is the number of independent cores a kernel is
    spread over (streaming multiprocessors, compute units, CPU cores); few and large cores (TPU, Trainium) count as
    the streaming multiprocessors that their vector lanes amount to, since a kernel's cost per item is one of those.
    """

    peak_flops: Array  #: [len(COMPUTE_PRECISIONS)] dense FLOP/s (OP/s for int8); 0 where unsupported
    units: Array
    clock: Array  #: Hz, boost
    memory_capacity: Array  #: bytes of device memory (HBM, GDDR, or DRAM for a CPU)
    memory_bandwidth: Array  #: bytes/s
    cache_capacity: Array  #: bytes of the last-level cache
    cache_bandwidth: Array  #: bytes/s
    scale_up_bandwidth: (
        Array  #: bytes/s per direction per chip inside the scale-up domain (NVLink, ICI, xGMI)
    )
    scale_up_latency: Array  #: s, one hop, hardware part
    scale_up_domain: Array  #: chips that reach each other at scale-up speed
    scale_out_bandwidth: Array  #: bytes/s per direction per chip (NIC)
    scale_out_latency: Array  #: s
    host_bandwidth: Array  #: bytes/s per direction to host memory (PCIe, C2C)
    host_latency: Array  #: s
    host_memory_capacity: Array  #: bytes of host DRAM per chip
    host_memory_bandwidth: Array  #: bytes/s of host DRAM per chip
    tdp: Array  #: W, board limit
    idle_power: Array  #: W
    price: Array  #: dollars per second per chip
