"""Launch commands and manifests say what the description says, and nothing that the engine cannot run."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

import mist_jax as mist
from mist_jax.errors import ConfigError
from mist_jax.io.kubernetes import dns_label, kubernetes_manifest
from mist_jax.io.launch import launch_command
from mist_jax.io.llmd import llmd_manifest

#: Options of `vllm serve` (docs.vllm.ai, Engine Arguments) and of sglang.launch_server (docs.sglang.io).
DOCUMENTED = {
    "vllm": {
        "--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--enable-expert-parallel",
        "--max-num-batched-tokens", "--max-num-seqs", "--block-size", "--gpu-memory-utilization",
        "--num-gpu-blocks-override", "--kv-cache-dtype", "--enforce-eager", "--enable-prefix-caching",
        "--no-enable-prefix-caching", "--kv-transfer-config",
    },
    "sglang": {
        "--tp-size", "--pp-size", "--dp-size", "--enable-dp-attention", "--ep-size", "--chunked-prefill-size",
        "--max-running-requests", "--page-size", "--mem-fraction-static", "--max-total-tokens", "--kv-cache-dtype",
        "--disable-cuda-graph", "--disable-radix-cache", "--disaggregation-mode",
    },
}  # fmt: skip


def value(command, flag):
    return next(f.value for f in command.flags if f.name == flag)


def has(command, flag):
    return any(f.name == flag for f in command.flags)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=qwen3_235b_a22b_fp8", "parallelism=dp8_ep8"],
        [
            "parallelism=tp8_pp2",
            "engine.cuda_graphs=false",
            "engine.num_gpu_blocks=1000",
            "model.precision.kv=fp8",
        ],
        ["engine.prefix_hit_rate=0.4", "parallelism.replicas=3"],
    ],
)
def test_flags_are_documented_ones_and_explained(engine, overrides):
    command = launch_command(mist.load([*overrides, f"engine.name={engine}"]))
    assert {f.name for f in command.flags} <= DOCUMENTED[engine]
    assert len({f.name for f in command.flags}) == len(command.flags)
    assert all(f.why for f in command.flags)
    assert shlex.split(command.shell().replace("\\\n", " ")) == command.argv
    assert all(f.why in command.explained() for f in command.flags)


def test_vllm_says_what_was_evaluated():
    scenario = mist.load(["engine.max_num_batched_tokens=4096", "parallelism.replicas=2"])
    command = launch_command(scenario)
    assert command.argv[:3] == ["vllm", "serve", "meta-llama/Meta-Llama-3.1-70B"]
    assert value(command, "--tensor-parallel-size") == "8"
    assert value(command, "--max-num-batched-tokens") == "4096"
    assert value(command, "--gpu-memory-utilization") == "0.9"
    assert has(command, "--no-enable-prefix-caching")
    assert command.replicas == 2


def test_drafts_are_named_in_a_note():
    plain, drafting = (launch_command(mist.load([f"engine.draft_tokens={k}"])).notes for k in (0, 3))
    assert not any("drafts" in n for n in plain)
    assert any("3 drafts" in n and "--speculative-config" in n for n in drafting)


def test_sglang_counts_all_ranks_of_attention_dp():
    scenario = mist.load(["model=deepseek_v3", "hardware=h200_sxm", "parallelism=dp8_ep8", "engine=sglang"])
    command = launch_command(scenario)
    assert (value(command, "--tp-size"), value(command, "--dp-size")) == ("8", "8")
    assert value(command, "--chunked-prefill-size") == str(8192 * 8)
    assert value(command, "--max-running-requests") == str(1024 * 8)


def test_each_pool_of_a_disaggregated_scenario():
    scenario = mist.load(["prefill=pool"])
    decode, prefill = launch_command(scenario), launch_command(scenario, role="prefill")
    assert (decode.role, prefill.role) == ("decode", "prefill")
    assert json.loads(value(prefill, "--kv-transfer-config"))["kv_connector"] == "NixlConnector"
    assert (
        value(launch_command(scenario, engine="sglang", role="prefill"), "--disaggregation-mode") == "prefill"
    )
    with pytest.raises(ConfigError, match="role: got 'serve'"):
        launch_command(scenario, role="serve")


def test_what_an_engine_cannot_run_is_refused():
    moe = mist.load(["model=mixtral_8x7b", "parallelism=tp8", "parallelism.ep=4"])
    with pytest.raises(ConfigError, match=r"parallelism\.ep: got 4; vLLM runs ep = tp \* dp = 8"):
        launch_command(moe)
    with pytest.raises(ConfigError, match="no launch command for 'trtllm'"):
        launch_command(mist.load(["engine=trtllm"]))
    unnamed = mist.with_overrides(mist.load(), {"model.source": None})
    with pytest.raises(ConfigError, match=r"model\.source"):
        launch_command(unnamed)
    assert launch_command(unnamed, model="/weights").argv[2] == "/weights"


def test_manifest_is_consistent():
    scenario = mist.load(
        ["parallelism=tp4", "model=qwen3_32b", "parallelism.replicas=2", "engine.version='0.12.0'"]
    )
    text = kubernetes_manifest(scenario)
    deployment, service = yaml.safe_load_all(text)
    assert "&id" not in text
    assert (deployment["kind"], deployment["apiVersion"]) == ("Deployment", "apps/v1")
    assert (service["kind"], service["apiVersion"]) == ("Service", "v1")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["replicas"] == 2
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert container["image"] == "vllm/vllm-openai:v0.12.0"
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert container["args"][-2:] == ["--port", str(ports["http"])]
    argv = launch_command(scenario).argv
    assert [*container["command"], *container["args"][:-2]] == argv
    assert {v["name"] for v in template["spec"]["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert all(isinstance(a, str) for a in container["args"])
    assert f"{argv[3]} 4: chips that share each layer" in text


def test_manifest_of_another_vendor_and_of_what_cannot_be_written():
    amd = yaml.safe_load_all(kubernetes_manifest(mist.load(["hardware=mi300x"])))
    assert "amd.com/gpu" in str(next(iter(amd)))
    for overrides, message in (
        (["prefill=pool"], "aggregated deployments only"),
        (["engine=sglang"], "for vllm only"),
        (["hardware=tpu_v6e"], "no device plugin known for 'google'"),
        (["parallelism=tp8_pp2"], "16 chips does not fit one server"),
    ):
        with pytest.raises(ConfigError, match=message):
            kubernetes_manifest(mist.load(overrides))


def test_dns_label():
    assert dns_label("Meta-Llama-3.1-70B") == "meta-llama-3-1-70b"
    assert dns_label("ü__") == "model"
    assert len(dns_label("x" * 99)) == 63


TWO_POOLS = [
    "prefill=pool",
    "parallelism@prefill.parallelism=tp4",
    "prefill.parallelism.replicas=2",
    "model=qwen3_32b",
]


def test_llmd_pools_have_what_the_published_recipe_has():
    """Labels, ports, sidecar and side channel: llm-d, guides/pd-disaggregation; the picker's required fields:
    llm-d-router, apix/config/v1alpha1/endpointpickerconfig_types.go."""
    scenario = mist.load([*TWO_POOLS, "engine.version='0.19.1'"])
    manifest, values = llmd_manifest(scenario)
    pools = {d["metadata"]["labels"]["llm-d.ai/role"]: d for d in yaml.safe_load_all(manifest)}
    router = yaml.safe_load(values)["router"]
    assert set(pools) == {"prefill", "decode"}
    selected = router["modelServers"]["matchLabels"]
    for role, deployment in pools.items():
        assert (deployment["kind"], deployment["apiVersion"]) == ("Deployment", "apps/v1")
        spec = deployment["spec"]
        labels = spec["template"]["metadata"]["labels"]
        # the two selectors exclude each other; the router's takes both
        assert spec["selector"]["matchLabels"] == labels
        assert selected.items() <= labels.items()
        assert labels["llm-d.ai/role"] == role
        (container,) = spec["template"]["spec"]["containers"]
        environment = {e["name"]: e["valueFrom"] for e in container["env"]}
        assert environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] == {"fieldRef": {"fieldPath": "status.podIP"}}
        transfer = container["args"][container["args"].index("--kv-transfer-config") + 1]
        assert json.loads(transfer)["kv_connector"] == "NixlConnector"
        argv = launch_command(scenario, role=role).argv
        assert [*container["command"], *container["args"][:-2]] == argv
        for flag in (a for a in container["args"] if a.startswith("--") and a != "--port"):
            assert f"#   {flag}" in manifest  # explained
    assert [pools[r]["spec"]["replicas"] for r in ("prefill", "decode")] == [2, 1]
    limits = [p["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] for p in pools.values()]
    assert limits == [{"nvidia.com/gpu": "4"}, {"nvidia.com/gpu": "8"}]
    # requests reach decode through the sidecar, prefill directly, both at the router's target port
    (target,) = router["modelServers"]["targetPorts"]
    decode = pools["decode"]["spec"]["template"]["spec"]
    (sidecar,) = decode["initContainers"]
    flags = dict(a.split("=") for a in sidecar["args"])
    assert sidecar["restartPolicy"] == "Always"
    assert flags["--port"] == str(target["number"])
    assert flags["--vllm-port"] == decode["containers"][0]["args"][-1]
    prefill = pools["prefill"]["spec"]["template"]["spec"]
    assert "initContainers" not in prefill
    assert prefill["containers"][0]["args"][-1] == str(target["number"])


def test_llmd_picker_refers_to_its_own_plugins():
    _, values = llmd_manifest(mist.load(TWO_POOLS))
    epp = yaml.safe_load(values)["router"]["epp"]
    config = yaml.safe_load(epp["pluginsCustomConfig"][epp["pluginsConfigFile"]])
    assert config["kind"] == "EndpointPickerConfig"
    assert {"plugins", "schedulingProfiles"} <= set(config)
    names = {p.get("name", p["type"]) for p in config["plugins"]}
    assert {p["name"] for p in config["schedulingProfiles"]} == {"prefill", "decode"}
    for profile in config["schedulingProfiles"]:
        refs = {p["pluginRef"] for p in profile["plugins"]}
        assert refs <= names
        assert f"{profile['name']}-filter" in refs
    (handler,) = (p for p in config["plugins"] if p["type"] == "disagg-profile-handler")
    assert handler["parameters"]["deciders"]["prefill"] in names
    for name in names:
        assert f"#   {name}: " in values


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "is for two pools"),
        (["prefill=pool", "hardware@prefill.hardware=mi300x"], "pools of amd and nvidia"),
        (["prefill=pool", "engine=sglang"], "engine.name: got 'sglang'"),
        (["prefill=pool", "engine@prefill.engine=sglang"], "prefill.engine.name: got 'sglang'"),
        (["prefill=pool", "parallelism@prefill.parallelism=tp8_pp2"], "16 chips does not fit one server"),
    ],
)
def test_llmd_refuses_what_no_recipe_covers(overrides, message):
    with pytest.raises(ConfigError, match=message):
        llmd_manifest(mist.load(overrides))
