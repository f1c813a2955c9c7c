"""llm-d on Kubernetes: the two pools of a disaggregated deployment, and the values of llm-d's router chart.

As published (llm-d, Apache-2.0; read in November 2026):
- guides/pd-disaggregation/modelserver/gpu/vllm/base/patch-prefill.yaml and patch-decode.yaml: Deployments (apps/v1) of
  vLLM with NixlConnector and VLLM_NIXL_SIDE_CHANNEL_HOST; decode serves on 8200 behind its sidecar on 8000.
- guides/recipes/modelserver/base/single-host/pd/vllm/patch-sidecar.yaml: the sidecar is an init container that stays.
- llm-d-router, docs/disaggregation.md, "Labeling Convention Flexibility": the label `llm-d.ai/role`.
- llm-d-router, apix/config/v1alpha1/endpointpickerconfig_types.go: required fields of the endpoint picker's config.
- llm-d-router, pkg/sidecar/proxy/options.go (commit 7b8cde7): flags of the sidecar.
- llm-d-router, config/charts/routerlib/values.yaml: values of the charts.

Not written: gateway and HTTPRoute, storage for the weights, RDMA devices of the cluster, monitoring.
"""

from __future__ import annotations

from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.io.kubernetes import (
    DEVICES,
    PORT,
    container_of,
    dns_label,
    image_of,
    pod_of,
    replica_chips,
    to_yaml,
)
from mist_jax.io.launch import Flag, LaunchCommand, launch_command
from mist_jax.schema import Scenario

#: Where decode's vLLM listens; its sidecar has the pool's port.
DECODE_PORT = 8200
SIDECAR = "ghcr.io/llm-d/llm-d-router-disagg-sidecar:v0.9.0"
ROLES = ("prefill", "decode")
#: Arguments of the sidecar and what they are for.
SIDECAR_FLAGS = (
    Flag("--port", str(PORT), "where the router sends requests"),
    Flag("--vllm-port", str(DECODE_PORT), "where decode's vLLM listens"),
    Flag("--kv-connector", "nixlv2", "how the two vLLMs agree on a hand-over: that of NixlConnector"),
    Flag("--secure-proxy", "false", "plain HTTP inside the cluster (later releases: --secure-serving)"),
)
#: Plugins of the endpoint picker, what each is for, and the profiles that use it.
PLUGINS = (
    ("always-disagg-pd-decider", "every prompt is computed in the prefill pool, as in the evaluation", ()),
    ("disagg-profile-handler", "picks a decode pod, then a prefill pod", ()),
    ("prefill-filter", "pods with llm-d.ai/role: prefill", ("prefill",)),
    ("decode-filter", "pods with llm-d.ai/role: decode", ("decode",)),
    ("active-request-scorer", "the pod with the fewest requests", ROLES),
    ("max-score-picker", "takes the best of them", ROLES),
)


def llmd_objects(
    scenario: Scenario, *, image: str | None = None, model: str | None = None, sidecar: str = SIDECAR
) -> list[dict[str, Any]]:
    """The Deployments of the prefill and the decode pool as plain mappings.

    Args:
        scenario: of two pools, both vLLM on chips of one vendor.
        image: container image of vLLM; default: as `kubernetes_objects`.
        model: repository or path of the weights; default: the one that the model's description names.
        sidecar: image of the routing sidecar.

    Raises:
        ConfigError: one pool alone, another engine than vLLM, pools of two vendors, or a replica of more chips than one
            server has.
    """
    commands = _commands(scenario, model)
    return [_deployment(scenario, commands[role], image, sidecar) for role in ROLES]


def llmd_router_values(scenario: Scenario) -> dict[str, Any]:
    """Values of the charts `llm-d-router-standalone` and `llm-d-router-gateway`: which pods, and how one is picked."""
    config = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            {"type": name, "parameters": {"deciders": {"prefill": "always-disagg-pd-decider"}}}
            if name == "disagg-profile-handler"
            else {"type": name}
            for name, _, _ in PLUGINS
        ],
        "schedulingProfiles": [
            {"name": role, "plugins": [{"pluginRef": name} for name, _, used in PLUGINS if role in used]}
            for role in ROLES
        ],
    }
    return {
        "router": {
            "epp": {
                "replicas": 1,  # each replica counts the requests that it sent itself
                "pluginsConfigFile": "pd-config.yaml",
                "pluginsCustomConfig": {"pd-config.yaml": to_yaml(config)},
            },
            "modelServers": {
                "type": "vllm",
                "targetPorts": [{"number": PORT}],
                "matchLabels": _labels(scenario),
            },
        }
    }


def llmd_manifest(
    scenario: Scenario, *, image: str | None = None, model: str | None = None, sidecar: str = SIDECAR
) -> tuple[str, str]:
    """(manifest of the pools, values of the router chart) as YAML, what each flag is for as comments at their heads."""
    why = []
    for role, command in _commands(scenario, model).items():
        why += [f"# {role}:", *(f"#   {' '.join(f.words)}: {f.why}" for f in command.flags)]
        why += [f"# Note on {role}: {n}" for n in command.notes if "router" not in n]
    why += ["# sidecar of decode:", *(f"#   {' '.join(f.words)}: {f.why}" for f in SIDECAR_FLAGS)]
    why.append("# Needs the secret `llm-d-hf-token` (key `HF_TOKEN`) where the weights are gated.")
    body = "---\n".join(map(to_yaml, llmd_objects(scenario, image=image, model=model, sidecar=sidecar)))
    head = [
        "# helm install NAME oci://ghcr.io/llm-d/charts/llm-d-router-standalone --version v0.9.0 -f THIS_FILE",
        "# (needs the InferencePool CRD of the Gateway API Inference Extension). The picker's plugins:",
        *(f"#   {name}: {text}" for name, text, _ in PLUGINS),
    ]
    return "\n".join([*why, body]), "\n".join([*head, to_yaml(llmd_router_values(scenario))])


def _labels(scenario: Scenario) -> dict[str, str]:
    """Labels by which the router finds the pods of both pools."""
    return {"llm-d.ai/model": dns_label(scenario.model.name), "llm-d.ai/guide": "pd-disaggregation"}


def _commands(scenario: Scenario, model: str | None) -> dict[str, LaunchCommand]:
    if scenario.prefill is None:
        raise ConfigError(
            "prefill: llm-d's recipe is for two pools; choose prefill=pool, or write `kubernetes_manifest`"
        )
    vendors = {scenario.hardware.vendor, scenario.prefill.hardware.vendor}
    if len(vendors) > 1:
        raise ConfigError(
            f"prefill.hardware: pools of {' and '.join(sorted(vendors))}; no published recipe hands a KV cache from "
            "one vendor's chips to another's"
        )
    for where, engine in (("", scenario.engine), ("prefill.", scenario.prefill.engine)):
        if engine.name not in ("vllm", "generic"):
            raise ConfigError(
                f"{where}engine.name: got {engine.name!r}; the llm-d manifest is written for vllm only"
            )
    return {role: launch_command(scenario, engine="vllm", model=model, role=role) for role in ROLES}


def _deployment(
    scenario: Scenario, command: LaunchCommand, image: str | None, sidecar: str
) -> dict[str, Any]:
    pool = scenario.prefill if command.role == "prefill" else scenario
    assert pool is not None
    chips = replica_chips(pool.parallelism, pool.hardware.vendor)
    resource, _ = DEVICES[pool.hardware.vendor]
    image = image or image_of(pool.hardware.vendor, pool.engine.version)
    decode = command.role == "decode"
    container = container_of(command, image, resource, chips, DECODE_PORT if decode else PORT)
    container["name"] = "modelserver"
    container["env"] = [
        {"name": "HF_TOKEN",
         "valueFrom": {"secretKeyRef": {"name": "llm-d-hf-token", "key": "HF_TOKEN", "optional": True}}},
        # the address under which the other pool reads this one's KV blocks
        {"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]  # fmt: skip
    pod = pod_of(container)
    if decode:
        proxy = {
            "name": "routing-proxy",
            "image": sidecar,
            "args": [f"{f.name}={f.value}" for f in SIDECAR_FLAGS],
            "ports": [{"name": "sidecar", "containerPort": PORT}],
            "restartPolicy": "Always",  # an init container that stays: it runs beside the server
        }
        pod = {"initContainers": [proxy], **pod}
    labels = {**_labels(scenario), "llm-d.ai/role": command.role}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{dns_label(scenario.model.name)[:55]}-{command.role}", "labels": labels},
        "spec": {
            "replicas": command.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
