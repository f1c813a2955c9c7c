"""Deterministic splits of the serving rows for honest evaluation: by deployment, system, model, engine, ISL.

The unit is a *group*: deployments that share a measurement under different labels are one group (union-find),
so that no measurement stands on both sides. Rows that are refused or lack a measurement are in no split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

SPLITS = ("random", "deployment", "system", "model", "engine", "isl")


@dataclass(frozen=True)
class Split:
    """One fold: index labels of the training and test rows, and what is held out."""

    kind: str
    fold: str
    train: np.ndarray
    test: np.ndarray
    anchors: np.ndarray  #: index labels moved from test to training, one measured point per test deployment


def groups(frame: pd.DataFrame) -> pd.Series:
    """Group number of each row: one for a deployment and all deployments that share a measurement with it."""
    parent: dict[object, object] = {}

    def find(node: object) -> object:
        root = node
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    for deployment, measurement in zip(frame.deployment, frame.measurement_id):
        parent[find(("d", deployment))] = find(("m", measurement))
    return pd.Series(
        pd.factorize(pd.Series([str(find(("d", d))) for d in frame.deployment]))[0], index=frame.index
    )


def make_splits(
    frame: pd.DataFrame, kind: str, folds: int = 5, seed: int = 0, anchored: bool = False
) -> list[Split]:
    """Folds of one kind.

    Args:
        frame: from `read_serving`, with measurements.
        kind: `random` (measurements at random: other concurrencies of a deployment stay in training),
            `deployment` (groups at random), `system`, `model`, `engine`, `isl` (each value once; `isl` by
            class of length, so that 1000 leaves with 1024).
        folds: for `random` and `deployment`.
        seed: enters a hash with the identity of the unit; the order of the rows plays no part.
        anchored: move one measured point of each test deployment to training: the median concurrency.

    Raises ValueError for an unknown kind.
    """
    rows = frame[(frame.status != "refused") & frame.ttft_ms.notna() & frame.tpot_ms.notna()]
    if kind == "random":
        unit = rows.ttft_ms.map("{:.2f}|".format) + rows.tpot_ms.map("{:.2f}|".format) + rows.system
    elif kind == "deployment":  # named by its first deployment, so that the order of rows plays no part
        unit = rows.deployment.groupby(groups(rows)).transform("min")
    elif kind in ("system", "model", "engine"):
        unit = rows[kind]
    elif kind == "isl":
        unit = rows.isl.map(length_class)
    else:
        raise ValueError(f"unknown split {kind!r}: expected one of {', '.join(SPLITS)}")
    if kind in ("random", "deployment"):
        fold = unit.map(lambda u: f"{_hash(u, seed) % folds}")
    else:
        fold = unit.astype(str)
    out = []
    for name in sorted(fold.unique()):
        inside = fold == name
        test = rows.index[inside]
        # a measurement that also stands under a held-out label must not be trained on
        leaked = rows.measurement_id.isin(rows.measurement_id[inside])
        train = rows.index[~inside & ~leaked]
        anchors = pd.Index([])
        if anchored:
            anchors = _anchors(rows.loc[test])
            same = rows.loc[test].measurement_id.isin(rows.loc[anchors].measurement_id)
            test = test[~same]
        out.append(Split(kind, name, train.to_numpy(), test.to_numpy(), anchors.to_numpy()))
    return out


def length_class(isl: float) -> str:
    """Nominal prompt length to a class: powers of two, 0.75 to 1.5 of each (1000 and 1024 are one)."""
    return f"{2 ** round(np.log2(isl)):d}"


def _anchors(test: pd.DataFrame) -> pd.Index:
    """The row of median concurrency of each deployment of at least two measurements."""
    chosen = []
    for _, rows in test.drop_duplicates("measurement_id").groupby("deployment"):
        if len(rows) >= 2:
            chosen.append(rows.sort_values(["concurrency", "id"]).index[(len(rows) - 1) // 2])
    return pd.Index(chosen)


def _hash(unit: object, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{unit}".encode()).digest()[:8], "big")
