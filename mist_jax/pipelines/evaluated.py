"""The labelled result of a pipeline in steady state: the deployment's figures, and a table by stage."""

from __future__ import annotations

import jax
import numpy as np
import xarray as xr

from mist_jax.errors import Status
from mist_jax.intervals import LEVEL
from mist_jax.physics.demand import RESOURCES
from mist_jax.pipelines.batch import StageTimes
from mist_jax.pipelines.dag import critical_path, parse_pipeline
from mist_jax.pipelines.elasticities import CLIENT_VARIABLES, elasticities
from mist_jax.pipelines.figures import REQUEST_VARIABLES, STAGE_VARIABLES, figures_of
from mist_jax.pipelines.intervals import INTERVAL_VARIABLES, intervals_of, label_of_pipeline
from mist_jax.pipelines.llm import whole
from mist_jax.pipelines.steady import Model, bounding_resource, require_stable
from mist_jax.schema import Scenario

Array = np.ndarray


def evaluate_pipeline(scenario: Scenario) -> xr.Dataset:
    """Steady state of a pipeline.

    Returns:
        the dataset of `mist_jax.evaluate` (TTFT to the answer's first token, end to end over the whole graph, rate in
        requests, cost and energy of all clients) with `STAGE_VARIABLES` along `stage`,
        `elasticity(client, resource)` = d ln E2E / d ln resource at the same rate, and what bounds each stage. The ends
        of 80 % intervals are those of `pipelines.intervals`; the attribute `interval_held` names the stages that are
        held at their means, `calibration_label` is that of the LLM pool that the calibration reaches least.

    Raises:
        ConfigError: see `pipelines.dag.parse_pipeline`; a client that cannot keep up.
    """
    with jax.enable_x64(True):
        pipeline = parse_pipeline(scenario)
        model = Model(scenario, pipeline)
        times, load = model.batch.solve()
        require_stable(model, times.point(0))
        found = {"elasticity": elasticities(model.batch, times), "utilization": times.shared["utilization"]}
        values = {name: np.asarray(v)[0] for name, v in figures_of(model.batch, times, load).items()}
        ends, held = intervals_of(model.batch, times)
    ds = _dataset(model, times, values, {name: v[0] for name, v in found.items()})
    ds.attrs["calibration_label"] = label_of_pipeline(model.batch.distinct[0])
    if np.isfinite(ends["e2e_s_low"][0]):
        for name, value in ends.items():
            ds[name] = (
                (),
                value[0],
                dict(zip(("units", "long_name"), INTERVAL_VARIABLES[name], strict=True)),
            )
        ds.attrs.update(interval_level=LEVEL, interval_held=", ".join(held))
    return ds


def _dataset(
    model: Model, times: StageTimes, values: dict[str, Array], by_client: dict[str, Array]
) -> xr.Dataset:
    from mist_jax.evaluate import describe
    from mist_jax.evaluate_disaggregated import describe_prefill
    from mist_jax.physics.step import STEP_PARTS
    from mist_jax.physics.step_energy import ENERGY_SHARES
    from mist_jax.variables import POOL_VARIABLES, VARIABLES

    pipeline = model.pipeline
    answering = pipeline.nodes[pipeline.answer].client
    pool, state = model.pools[answering], whole(times.states[answering])
    known = {**VARIABLES, **POOL_VARIABLES, **REQUEST_VARIABLES, **STAGE_VARIABLES}
    ds = xr.Dataset(
        {
            name: (
                ("stage",) if name in STAGE_VARIABLES else (),
                value,
                dict(zip(("units", "long_name"), known[name])),
            )
            for name, value in values.items()
        }
    )
    ds["breakdown_s"] = (
        "part",
        state.breakdown[0],
        {"units": "s", "long_name": "mean iteration by operator"},
    )
    ds["power_share_w"] = ("share", state.power[0], {"units": "W", "long_name": "power of a chip by cause"})
    ds = ds.assign_coords(
        part=list(STEP_PARTS), share=list(ENERGY_SHARES), stage=pipeline.stages, client=model.names,
        resource=list(RESOURCES),
    )  # fmt: skip
    ds.attrs.update(describe(pool.scenario))
    if pool.prefill is not None:
        describe_prefill(ds, pool.scenario)
    for name, (units, text) in CLIENT_VARIABLES.items():
        ds[name] = (("client", "resource"), by_client[name], {"units": units, "long_name": text})
    path = np.flatnonzero(critical_path(pipeline, times.finish)[0]).tolist()
    _describe(ds, model, times.point(0), path)
    return ds


def _describe(ds: xr.Dataset, model: Model, times: StageTimes, path: list[int]) -> None:
    scenario, pipeline, nodes = model.scenario, model.pipeline, model.nodes
    first: dict[str, int] = {}
    for i, node in enumerate(nodes):
        first.setdefault(node.stage, i)
    bound = {s: bounding_resource(model, times, i) for s, i in first.items()}
    ds["stage_client"] = ("stage", [nodes[first[s]].client or "outside" for s in pipeline.stages])
    ds["stage_kind"] = ("stage", [nodes[first[s]].kind for s in pipeline.stages])
    ds["stage_bound"] = ("stage", [bound[s] for s in pipeline.stages])
    slowest = max(path, key=lambda i: times.expected[i])
    unstable = [n for n, s in times.states.items() if int(whole(s).status) != Status.OK]
    status = Status(int(ds["status"]))
    ds.attrs.update(
        pipeline=pipeline.name,
        critical_path=" > ".join(dict.fromkeys(nodes[i].stage for i in path)),
        bottleneck=f"{nodes[slowest].stage}: {bound[nodes[slowest].stage]}",
        hardware=scenario.hardware.name,
        model=scenario.model.name,
        workload=scenario.workload.name,
        status=status.text + (f" ({', '.join(unstable)})" if unstable else ""),
        not_modelled="mean of a maximum over parallel stages; playing the pipeline gives distributions",
    )
