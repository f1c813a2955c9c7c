"""Measured times of collectives with SI columns, one reader per kind.

Sources: ai-dynamo/aiconfigurator performance database (Apache-2.0; NCCL, oneCCL and the engines' own kernels)
and microsoft/vidur (MIT; torch.distributed on DGX). Sizes in the former are counted in elements: read as
bytes, an 8-rank H100 all-reduce would reach half of what NCCL is known to reach.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from calibration.datasets import DataMissing, data_dir
from calibration.datasets.kernel_files import read_family


def _collective(operation: str) -> pd.DataFrame:
    parts = []
    for name in ("nccl", "oneccl"):
        rows = read_family(name).assign(engine="nccl")
        parts.append(rows[rows.op_name.eq(operation)])
    rows = pd.concat(parts, ignore_index=True)
    size = np.where(rows.nccl_dtype.eq("int8"), 1.0, 2.0)
    rows = rows.assign(format="link", nbytes=rows.message_size * size, ranks=rows.num_gpus)
    return rows[["system", "engine", "format", "nbytes", "ranks", "seconds"]]


def all_reduce() -> pd.DataFrame:
    """All-reduce: engines' own kernels (vLLM in captured graphs), NCCL alone, and NCCL below torch."""
    rows = read_family("custom_allreduce")
    eager = rows.kernel_source.eq("vLLM_custom_eager") & ~rows.system.eq("b60")
    rows = rows[~eager]
    rows = rows.assign(format="link", nbytes=rows.message_size * 2.0, ranks=rows.num_gpus)
    keep = ["system", "engine", "format", "nbytes", "ranks", "seconds"]
    parts = [rows[keep], _collective("all_reduce"), _vidur("all_reduce")[keep]]
    return pd.concat(parts, ignore_index=True)


def _vidur(operation: str) -> pd.DataFrame:
    parts = []
    for chip, system in (("a100", "a100_sxm"), ("h100", "h100_sxm")):
        rows = vidur_collective(chip, operation).assign(system=system, engine="torch", format="link")
        inside = rows.devices_per_node.eq(rows.ranks)
        # one sender and one receiver on two nodes measure the network; larger groups mix both kinds of links
        alone = ~inside & rows.ranks.eq(2) & (operation == "send_recv")
        parts.append(pd.concat([rows[inside], rows[alone].assign(format="network")]))
    return pd.concat(parts, ignore_index=True)


def p2p() -> pd.DataFrame:
    """Point to point by torch.distributed, inside a node (`link`) and between nodes (`network`)."""
    rows = _vidur("send_recv")
    rows["network"] = rows.format.eq("network").astype(float)
    return rows[["system", "engine", "format", "nbytes", "ranks", "network", "seconds"]]


def all_gather() -> pd.DataFrame:
    """All-gather by NCCL; the size is that of the result."""
    return _collective("all_gather")


def reduce_scatter() -> pd.DataFrame:
    """Reduce-scatter by NCCL; the size is that of the input."""
    return _collective("reduce_scatter")


def all_to_all() -> pd.DataFrame:
    """All-to-all by NCCL; the size is that of one rank's buffer."""
    return _collective("alltoall")


def vidur_collective(chip: str, operation: str) -> pd.DataFrame:
    """Median times on DGX nodes (chip a100 or h100; operation all_reduce or send_recv)."""
    path = data_dir() / "collectives" / f"{chip}_dgx_{operation}.csv"
    if not path.exists():
        raise DataMissing(path, "https://github.com/microsoft/vidur (data/profiling/network)")
    rows = pd.read_csv(path)
    return pd.DataFrame(
        {
            "nbytes": rows["size"].astype(float),
            "ranks": rows["num_workers"].astype(float),
            "devices_per_node": rows["devices_per_node"],
            "seconds": rows[f"time_stats.{operation}.median"] * 1e-3,
        }
    )
