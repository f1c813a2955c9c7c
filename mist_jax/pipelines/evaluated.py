"""The labelled result of a pipeline in steady state: the deployment's figures, and a table by stage."""

from __future__ import annotations

import jax
import numpy as np
import xarray as xr

from mist_jax.errors import Status
from mist_jax.physics.demand import RESOURCES
from mist_jax.pipelines.batch import StageTimes
from mist_jax.pipelines.dag import critical_path, parse_pipeline
from mist_jax.pipelines.figures import REQUEST_VARIABLES, STAGE_VARIABLES, figures_of
from mist_jax.pipelines.llm import mix_of, whole
from mist_jax.pipelines.sharing import slopes
from mist_jax.pipelines.steady import Model, bounding_resource, require_stable
from mist_jax.schema import Scenario

Array = np.ndarray


def evaluate_pipeline(scenario: Scenario) -> xr.Dataset:
    """Steady state of a pipeline.

    Returns:
        the dataset of `mist_jax.evaluate` (TTFT to the answer's first token, end to end over the whole graph, rate in
        requests, cost and energy of all clients) with `STAGE_VARIABLES` along `stage`,
        `elasticity(client, resource)` = d ln E2E / d ln resource at the same rate, and what bounds each stage.

    Raises:
        ConfigError: see `pipelines.dag.parse_pipeline`; a client that cannot keep up.
    """
    with jax.enable_x64(True):
        pipeline = parse_pipeline(scenario)
        model = Model(scenario, pipeline)
        times, load = model.batch.solve()
        require_stable(model, times.point(0))
        weights = np.where(critical_path(pipeline, times.finish), model.batch.probability, 0.0)
        slope = _machine_slopes(model, times, weights)
        llm = _llm_elasticities(model, times, weights)
        values = {name: np.asarray(v)[0] for name, v in figures_of(model.batch, times, load).items()}
    return _dataset(model, times, values, slope, llm)


def _machine_slopes(model: Model, times: StageTimes, weights: Array) -> Array:
    """d E2E / d ln(rate) of the machines' resources, [clients, RESOURCES], services and transfers."""
    own = np.array([n.type in ("service", "transfer") for n in model.nodes])
    one = times.point(0)

    def weight(shared: Array) -> Array:
        # a queue's waits have the elasticity of the shared times
        scale = np.where(own & (shared > 0), one.seconds / np.where(shared > 0, shared, 1.0), 0.0)
        return weights[0] * scale

    batch = model.batch
    return slopes(batch.machine_rate[0], batch.interference[0], batch.jobs, one.asked, one.arrivals, weight)


#: Field of `Hardware` → resource of the demand's axis; what an LLM's iteration depends on.
_LLM_FIELDS = {
    "peak_flops": "accelerator",
    "memory_bandwidth": "device_memory",
    "scale_up_bandwidth": "scale_up",
    "scale_out_bandwidth": "network",
}


def _llm_elasticities(model: Model, times: StageTimes, weights: Array) -> dict[str, dict[str, float]]:
    """d E2E / d ln(resource) of each LLM pool, seconds; the pool's mix and rate stay as they are.

    Central differences of the pool's own compiled program over +-1 %, so that nothing further is compiled;
    tests compare them with the derivative. For two pools the decode pool's resources.
    """
    out: dict[str, dict[str, float]] = {}
    for name, (own, calls) in times.calls.items():
        weight = (weights[:, own] * times.asked.call.probability[:, own] * calls.rounds)[0]
        steps = (np.maximum(calls.longest - 1.0, 0.0) / calls.gain)[0]
        # two rows a resource: a per cent more of it, and one less
        size = 2 * len(_LLM_FIELDS)
        scale = {}
        for k, field in enumerate(_LLM_FIELDS):
            factor = np.ones(size)
            factor[2 * k : 2 * k + 2] = 1.01, 0.99
            scale[field] = factor * times.left[name].get(field, 1.0)
        state = whole(model.batch.pools[name].run("open", mix_of(calls), scale=scale, at=np.zeros(size, int)))
        total = weight.sum() * state.ttft + (weight * steps).sum() * state.tpot
        slopes = (total[0::2] - total[1::2]) / np.log(1.01 / 0.99)
        out[name] = dict(zip(_LLM_FIELDS.values(), slopes.tolist(), strict=True))
    return out


def _dataset(
    model: Model, times: StageTimes, values: dict[str, Array], slope: Array, llm: dict[str, dict[str, float]]
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
    table = slope.copy()
    for name, resources in llm.items():
        for resource, seconds in resources.items():
            table[model.names.index(name), RESOURCES.index(resource)] += seconds
    ds["elasticity"] = (
        ("client", "resource"),
        table / float(values["e2e_s"]),
        {"units": "1", "long_name": "d ln(end-to-end latency) / d ln(resource) at the same rate of requests"},
    )
    ds["utilization"] = (
        ("client", "resource"),
        times.shared["utilization"][0],
        {"units": "1", "long_name": "busy share by services and transfers"},
    )
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
