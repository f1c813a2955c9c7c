"""A Kubernetes manifest of the described deployment: plain vLLM, one Deployment and one Service.

Objects as documented: Deployment (apps/v1), Service (v1), extended resources of the device plugins, and vLLM's
"Using Kubernetes" page (shared memory for tensor parallelism, `/health`, the token's secret). Not written: storage
for the weights, ingress, autoscaling, disaggregated pools (for those of llm-d: `io.llmd`).
"""

from __future__ import annotations

import re
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.io.launch import LaunchCommand, launch_command
from mist_jax.schema import ParallelismSpec, Scenario

#: vendor → (extended resource of its device plugin, image with vLLM)
DEVICES = {
    "nvidia": ("nvidia.com/gpu", "vllm/vllm-openai"),
    "amd": ("amd.com/gpu", "vllm/vllm-openai-rocm"),
}
#: Accelerators of one server; more need a group of pods (LeaderWorkerSet), which is not written here.
CHIPS_PER_POD = 8
PORT = 8000


def kubernetes_objects(
    scenario: Scenario, *, image: str | None = None, model: str | None = None
) -> list[dict[str, Any]]:
    """The Deployment and the Service as plain mappings.

    Args:
        image: container image; default: vLLM's for the vendor, with the tag of `engine.version` or `latest`.
        model: repository or path of the weights; default: the one that the model's description names.

    Raises:
        ConfigError: another engine than vLLM, a disaggregated scenario, a vendor without a known device plugin, or a
            replica of more chips than one server has.
    """
    if scenario.prefill is not None:
        raise ConfigError(
            "prefill: this manifest is written for aggregated deployments only; for two pools `io.llmd.llmd_manifest`"
        )
    if scenario.engine.name not in ("vllm", "generic"):
        raise ConfigError(f"engine.name: got {scenario.engine.name!r}; a manifest is written for vllm only")
    vendor = scenario.hardware.vendor
    chips = replica_chips(scenario.parallelism, vendor)
    command = launch_command(scenario, engine="vllm", model=model)
    name = dns_label(scenario.model.name)
    return _objects(
        command, image or image_of(vendor, scenario.engine.version), DEVICES[vendor][0], chips, name
    )


def replica_chips(par: ParallelismSpec, vendor: str) -> int:
    """Chips of one replica; raises ConfigError where no pod can have them."""
    if vendor not in DEVICES:
        raise ConfigError(
            f"hardware.vendor: no device plugin known for {vendor!r}; known: {', '.join(DEVICES)}"
        )
    chips = round(par.tp * par.pp * par.dp)
    if chips > CHIPS_PER_POD:
        raise ConfigError(
            f"parallelism: a replica of {chips} chips does not fit one server of {CHIPS_PER_POD}; write a "
            "LeaderWorkerSet around the command of `launch_command`"
        )
    return chips


def image_of(vendor: str, version: str | None) -> str:
    """vLLM's image for the vendor, with the tag of the engine's version or `latest`."""
    tag = f"v{version.lstrip('v')}" if version else "latest"
    return f"{DEVICES[vendor][1]}:{tag}"


def kubernetes_manifest(scenario: Scenario, *, image: str | None = None, model: str | None = None) -> str:
    """The manifest as YAML, with what each flag is for as comments at its head. Arguments as `kubernetes_objects`."""
    command = launch_command(scenario, engine="vllm", model=model)
    objects = kubernetes_objects(scenario, image=image, model=model)
    why = [f"#   {' '.join(f.words)}: {f.why}" for f in command.flags] + [
        f"# Note: {n}" for n in command.notes
    ]
    body = "---\n".join(map(to_yaml, objects))
    needs = "# Needs the secret `hf-token` (key `token`) where the weights are gated."
    return "\n".join(["# What the flags are for:", *why, needs, body])


def to_yaml(content: Any) -> str:
    """YAML in the order given; repeated mappings are written out, not as anchors; lines of text as a block."""
    import yaml

    class Plain(yaml.SafeDumper):
        """The two choices above."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def block(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Plain.add_representer(str, block)
    return yaml.dump(content, Dumper=Plain, sort_keys=False, width=110)


def dns_label(name: str) -> str:
    """`name` as a DNS label (RFC 1123): lower case, digits and hyphens, at most 63 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-") or "model"


def _objects(
    command: LaunchCommand, image: str, resource: str, chips: int, name: str
) -> list[dict[str, Any]]:
    labels = {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": name}
    pod = pod_of(container_of(command, image, resource, chips, PORT))
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": command.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": pod,
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    return [deployment, service]


def container_of(command: LaunchCommand, image: str, resource: str, chips: int, port: int) -> dict[str, Any]:
    """The container that runs one replica."""
    probe = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "name": "vllm",
        "image": image,
        "command": list(command.start),
        "args": [*(w for f in command.flags for w in f.words), "--port", str(port)],
        "ports": [{"name": "http", "containerPort": port}],
        "env": [
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}},
            }
        ],
        "resources": {"limits": {resource: str(chips)}},
        # loading weights takes minutes: the startup probe waits up to an hour, then the others begin
        "startupProbe": {**probe, "periodSeconds": 10, "failureThreshold": 360},
        "readinessProbe": {**probe, "periodSeconds": 5},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 3},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }


def pod_of(container: dict[str, Any]) -> dict[str, Any]:
    """The pod around it: workers of tensor parallelism exchange data through shared memory."""
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    return {"containers": [container], "volumes": [shm]}
