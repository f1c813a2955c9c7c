"""Laws that every stage obeys, and the registry that a stage from outside can join."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mist_jax.errors import ConfigError
from mist_jax.physics.demand import (
    RESOURCES,
    amounts,
    demand,
    elasticities,
    in_sequence,
    machine,
    missing,
    seconds,
    seconds_by_resource,
    seconds_together,
    steady_together,
)
from mist_jax.pytree import pytree, replace
from mist_jax.stages.protocol import StageDefinition, Work, parameter
from mist_jax.stages.registry import get_stage, register_stage, stage_names, unregister_stage

BIG = machine(
    accelerator=1e15, device_memory=3e12, cpu=96.0, host_memory=4e11, cxl=6e10, host_link=5e10, scale_up=4e11,
    network=5e10, storage=6e9, storage_io=1e6, pool=5e10,
)  # fmt: skip
WORK = Work(
    batch=4.0, kv_bytes_per_token=131072.0, kv_layers=32.0, prefill_s=0.1, documents=10.0,
    document_tokens=100.0, images=1.0,
)  # fmt: skip
TIMED = [n for n in stage_names() if get_stage(n).kind in ("service", "transfer")]


@pytest.mark.parametrize("name", TIMED)
def test_demand_is_finite_non_negative_and_bounded_by_something(name):
    stage = get_stage(name)
    asked = stage.function(stage.build(), WORK)
    assert np.all(np.isfinite(asked.amount))
    assert np.all(np.asarray(asked.amount) >= 0)
    assert np.all(np.asarray(asked.fixed_s) >= 0)
    time = float(seconds(asked, BIG.rate))
    assert 0 < time < 60
    assert not missing(asked, BIG)
    bound = float(jnp.sum(seconds_by_resource(asked, BIG.rate)) + jnp.sum(asked.fixed_s))
    assert bound == pytest.approx(time)


@pytest.mark.parametrize("name", TIMED)
def test_more_of_a_resource_is_never_slower_and_a_larger_batch_never_faster(name):
    stage = get_stage(name)
    params = stage.build()
    time = float(seconds(stage.function(params, WORK), BIG.rate))
    for k in range(len(RESOURCES)):
        assert float(seconds(stage.function(params, WORK), BIG.rate.at[k].multiply(2.0))) <= time
    larger = float(seconds(stage.function(params, replace(WORK, batch=16.0)), BIG.rate))
    assert larger >= time * (1 - 1e-12)


@pytest.mark.parametrize("name", TIMED)
def test_gradient_in_every_parameter_is_finite_and_jit_is_eager(name):
    stage = get_stage(name)
    params = jax.tree.map(lambda x: jnp.asarray(x, float), stage.build())

    def time(p, w):
        return seconds(stage.function(p, w), BIG.rate)

    slopes = jax.grad(time, argnums=(0, 1))(params, jax.tree.map(lambda x: jnp.asarray(x, float), WORK))
    assert all(np.all(np.isfinite(s)) for s in jax.tree.leaves(slopes))
    np.testing.assert_allclose(jax.jit(time)(params, WORK), time(params, WORK), rtol=1e-12)


@pytest.mark.parametrize("name", stage_names())
def test_every_stage_says_where_it_is_from_and_what_it_takes(name):
    stage = get_stage(name)
    assert stage.name == name
    assert stage.source
    assert stage.valid
    assert stage.not_modelled
    for row in stage.schema():
        assert row["name"]
        assert ("options" in row) or (row["low"] <= row["default"] <= row["high"])
    if stage.update:
        after = stage.update(stage.build(), WORK)
        assert isinstance(after, Work)
        assert float(after.cached_tokens) <= float(after.prompt_tokens)


def test_roofline_by_hand():
    asked = in_sequence(
        demand(1e-3, host_memory=1e9, cpu=0.1, caps={"host_memory": 5e10}), demand(network=1e9, pool=1e8)
    )
    on = machine(host_memory=4e11, cpu=10.0, network=5e10, pool=1e10)
    assert float(seconds(asked, on.rate)) == pytest.approx(1e-3 + 0.02 + 0.02)
    assert float(amounts(asked)[RESOURCES.index("network")]) == 1e9
    share = elasticities(asked, on.rate)
    assert float(share[RESOURCES.index("network")]) == pytest.approx(-0.02 / 0.041)
    assert float(share[RESOURCES.index("host_memory")]) == 0.0  # its own cap bounds it
    assert np.isinf(float(seconds(demand(storage=1.0), on.rate)))
    assert missing(demand(storage=1.0), on) == ["storage"]


def test_jobs_together_share_and_jobs_apart_do_not():
    scan = demand(host_memory=3e11, caps={"host_memory": 2.4e11})
    offload = demand(host_memory=6e9, host_link=6e9)
    on = machine(host_memory=3e11, host_link=5e10)
    alone = [float(seconds(d, on.rate)) for d in (scan, offload)]
    both = np.asarray(seconds_together([scan, offload], on))
    assert np.all(both >= np.array(alone) * (1 - 1e-12))
    three = np.asarray(seconds_together([scan, scan, offload], on))
    assert three[0] > 1.5 * alone[0]
    assert three[2] > 1.2 * alone[1]
    steady = jax.jit(steady_together)([scan, offload], jnp.array([0.2, 0.2]), on)
    assert bool(steady["stable"])
    assert np.all(np.asarray(steady["seconds"]) >= np.array(alone) * (1 - 1e-9))


def test_wrong_parameters_are_named():
    stage = get_stage("vector_search")
    with pytest.raises(ConfigError, match=r"pipeline\.rag\.nprob: unknown; .* \(did you mean 'nprobe'\?\)"):
        stage.build({"nprob": 3}, "pipeline.rag")
    with pytest.raises(ConfigError, match=r"scan_rate: .*write it like '3.35 TB/s'"):
        stage.build({"scan_rate": "3 parsecs"})
    with pytest.raises(ConfigError, match=r"hit_rate: got 1.5; allowed: 0 to 1"):
        get_stage("kv_load").build({"hit_rate": 1.5})
    with pytest.raises(ConfigError, match=r"tier: got 'dram'; allowed: host, cxl"):
        get_stage("kv_load").build({"tier": "dram"})
    with pytest.raises(ConfigError, match=r"no stage 'rerankk'; .*did you mean 'rerank'"):
        get_stage("rerankk")
    with pytest.raises(ConfigError, match="no resource 'hbm'"):
        demand(hbm=1.0)
    assert float(stage.build({"scan_rate": "3 GB/s"}).scan_rate) == 3e9


@pytree
class Translate:
    """A stage that this project does not know."""

    words_per_s: float = parameter(1e4, "frequency", low=1.0)
    cores: float = parameter(4.0, low=1.0)


def translate(params, work):
    return demand(cpu=work.batch * work.query_tokens / params.words_per_s, caps={"cpu": params.cores})


@pytest.fixture
def outside():
    yield register_stage(
        StageDefinition(
            name="translate", kind="service", parameters=Translate, function=translate, summary="made up",
            source="this test", valid="never", not_modelled="everything", needs=("cpu",),
        )
    )  # fmt: skip
    unregister_stage("translate")


def test_a_stage_from_outside_of_the_package(outside):
    """One definition, registered once, is used like the built-in ones."""
    assert "translate" in stage_names()
    stage = get_stage("translate")
    params = stage.build({"words_per_s": "2000 Hz"})
    asked = stage.function(params, WORK)
    assert float(seconds(asked, BIG.rate)) == pytest.approx(4 * 32 / 2000 / 4)
    slope = jax.grad(lambda p: seconds(stage.function(p, WORK), BIG.rate))(params)
    assert float(slope.words_per_s) == pytest.approx(-4 * 32 / 4 / 2000**2)
    search = get_stage("vector_search")
    together = seconds_together([asked, search.function(search.build(), WORK)], BIG)
    assert np.all(np.isfinite(together))
    with pytest.raises(ConfigError, match="exists already"):
        register_stage(outside)
    with pytest.raises(ConfigError, match="exists already"):
        register_stage(dataclasses.replace(outside, name="rerank"))


def test_names_of_stages_need_no_jax():
    """Configuration checks names before anything heavy is imported."""
    code = "import sys, mist_jax.stages.registry as r; r.stage_names(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
