"""The NumPy baseline of the benchmarks computes what the compiled programs compute."""

from __future__ import annotations

import jax
import numpy as np

import mist_jax as mist
from benchmarks.numpy_interpreter import numpy_version
from mist_jax.explore import block
from mist_jax.explore.deployments import Layout, build_deployment, kind_of


def test_the_numpy_version_of_a_deployment_agrees_with_evaluate() -> None:
    overrides = ["workload=closed_1k_1k", "model=llama3_1_8b", "parallelism=tp1"]
    scenario = mist.load(overrides)
    clients = np.array([1.0, 40.0])
    with jax.enable_x64(True):
        deployment = build_deployment(scenario)
        kind, layout = kind_of(scenario), Layout(deployment)
        leaves = jax.tree.leaves(deployment)
        columns = np.repeat(np.concatenate([np.ravel(x) for x in leaves])[:, None], clients.size, axis=1)
        inner = np.full((len(block.inner_paths(kind)), clients.size), np.nan)
        inner[block.inner_paths(kind).index("workload.concurrency")] = clients
        each = jax.vmap(block.point_function(kind), in_axes=(-1, 1))

        def point(columns, inner):
            return each(layout.unflatten(columns), inner)

        shape = jax.eval_shape(point, columns, inner)
        found = jax.tree.unflatten(
            jax.tree.structure(shape), numpy_version(point, columns, inner)(columns, inner)
        )
    for i, concurrency in enumerate(clients):
        one = mist.evaluate(
            mist.load([*overrides, f"workload.concurrency={concurrency}"]), elasticities=False
        )
        for name in ("ttft_s", "tpot_s", "power_w"):
            np.testing.assert_allclose(found[name][i], float(one[name]), rtol=1e-9, err_msg=name)
