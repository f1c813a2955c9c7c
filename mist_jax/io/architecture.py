"""What a model is made of, in plain numbers: no JAX, no framework. Serializes to and from a YAML mapping."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mist_jax.errors import ConfigError, nearest
from mist_jax.schema import hints_of

#: Groups of layers that differ in their token mixer; `mist_jax.system.model.MAX_ATTENTION_GROUPS`.
MAX_GROUPS = 3

PRECISIONS = ("bf16", "fp16", "fp32", "fp8", "int8", "int4", "mxfp4", "nvfp4")

MixerKind = Literal["softmax", "mla", "compressed", "gated_delta", "kda", "mamba", "mamba2"]
GateKind = Literal["none", "element", "head"]

#: Mixers that keep a state of fixed size instead of a cache.
RECURRENT_KINDS = ("gated_delta", "kda", "mamba", "mamba2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionGroup:
    """Layers that share one token mixer. Dimensions are of one head; a recurrence names its state by them.

    For `mla` `qk_dim` and `v_dim` are the expanded multi-head form, rotary part included. For `compressed`
    (DeepSeek-V4) one latent of `qk_dim` elements is key and value of all heads. For recurrences `heads` and
    `v_dim` are the value heads, `kv_heads` and `qk_dim` the key heads (Mamba-2: groups and state size; Mamba:
    one head a channel).
    """

    kind: MixerKind = "softmax"
    layers: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    rope_dim: int = 0  #: mla: rotary elements at the end of the cached latent
    q_lora_rank: int = 0  #: 0: the query is projected directly
    kv_lora_rank: int = 0
    o_lora_rank: int = 0  #: compressed: rank of each group's output projection (0: one full matrix)
    o_groups: int = 0
    window: int | None = None  #: newest tokens attended and cached uncompressed; None: all
    sparse_top_k: int | None = None  #: entries that an indexer selects; None: no selection
    compress: int = 1  #: tokens behind one cached entry
    index_heads: int = (
        0  #: indexer query heads, each scored against every entry (0: no indexer in these layers)
    )
    index_dim: int = 0  #: elements of the one indexer key per entry
    gate: GateKind = "none"  #: output gate: one factor an element, or one a head
    gate_rank: int = 0  #: rank of the gate's projection (0: full)
    value_is_key: bool = False  #: the value has no projection of its own
    bias: bool = False  #: query, key, value (and output) projections have biases
    conv_kernel: int = 0  #: taps of the short convolution of a recurrence
    dt_rank: int = 0  #: mamba: rank of the step-size projection


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionTower:
    """A vision transformer ahead of the decoder."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    patch: int  #: pixels on a side
    merge: int  #: patches on a side that become one token
    out_hidden: int  #: width of the decoder
    qkv_hidden: int = 0  #: width of the attention (0: hidden)
    ffn_matrices: int = 2
    patch_elements: int = 0  #: inputs of the patch embedding (0: 3 * patch**2)
    positions: int = 0  #: learned positions
    mergers: int = 1  #: merger networks (deep-stack features have one each)
    image_patches: int = 4096  #: patches of the nominal image (1024 x 1024 pixels unless the model fixes it)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One decoder (or encoder) as numbers; counts are of elements, layers and tokens."""

    name: str = "custom"
    hidden: int
    vocab: int
    layers: int
    attention: tuple[AttentionGroup, ...]
    dense_layers: int = 0
    dense_ffn: int = 0
    ffn_matrices: int = 3  #: 3: gated (SwiGLU and kin), 2: plain
    moe_layers: int = 0
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    expert_hidden: int = 0  #: width the routed experts work in (0: hidden)
    shared_ffn: int = 0  #: intermediate size of all shared experts together
    ffn_bias: bool = False
    tied_embeddings: bool = False
    max_context: int = 0
    positions: int = 0  #: learned positions (0: rotary, ALiBi or none)
    residual_streams: int = 1  #: copies of the residual (hyper-connections)
    draft_layers: int = 0  #: multi-token-prediction layers in the checkpoint, not in `layers`
    causal: bool = True
    vision: VisionTower | None = None
    notes: tuple[str, ...] = ()  #: what the reader had to assume

    def __post_init__(self) -> None:
        if not 1 <= len(self.attention) <= MAX_GROUPS:
            raise ConfigError(f"attention: {len(self.attention)} groups, allowed are 1 to {MAX_GROUPS}")
        for key in ("hidden", "vocab", "layers"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)!r}, must be at least 1")
        if sum(g.layers for g in self.attention) > self.layers:
            raise ConfigError(f"attention: groups hold more layers than layers={self.layers}")
        if self.moe_layers and not (0 < self.top_k <= self.experts and self.expert_ffn > 0):
            raise ConfigError(
                f"moe_layers={self.moe_layers} needs 0 < top_k <= experts and expert_ffn > 0, found "
                f"top_k={self.top_k}, experts={self.experts}, expert_ffn={self.expert_ffn}"
            )
        if self.dense_layers and self.dense_ffn < 1:
            raise ConfigError(f"dense_layers={self.dense_layers} needs dense_ffn, found {self.dense_ffn}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPrecision:
    """Number formats (names of `PRECISIONS`) of one checkpoint, class by class."""

    attention: str = "bf16"
    ffn: str = "bf16"  #: dense feed-forward and shared experts
    experts: str = "bf16"
    embedding: str = "bf16"  #: embedding, LM head, norms, routers
    kv: str = "bf16"
    activations: str | None = (
        None  #: inputs of quantized products; None: what the weights' kernels compute in
    )
    group_size: int | None = (
        None  #: weights that share a scale; None: the format's usual (fp8 128x128, int4 128)
    )

    def __post_init__(self) -> None:
        for key in ("attention", "ffn", "experts", "embedding", "kv", "activations"):
            value = getattr(self, key)
            if value not in PRECISIONS and not (key == "activations" and value is None):
                raise ConfigError(
                    f"precision.{key}: {value!r} is not one of {', '.join(PRECISIONS)}"
                    f"{nearest(value, PRECISIONS)}"
                )


def override_precision(
    checkpoint: CheckpointPrecision,
    *,
    weights: str | None = None,
    experts: str | None = None,
    attention: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
) -> CheckpointPrecision:
    """The checkpoint's formats with those given put in; None keeps what the checkpoint says.

    `weights` sets attention and dense feed-forward, and the experts too unless `experts` names another.
    Scales fall back to the format's usual group, and activations to the usual ones, where weights change.

    Raises:
        ConfigError: if a name is not in `PRECISIONS`.
    """
    out = checkpoint
    if weights is not None and weights != checkpoint.ffn:
        embedding = weights if weights in ("bf16", "fp16", "fp32") else checkpoint.embedding
        out = dataclasses.replace(
            out, attention=weights, ffn=weights, embedding=embedding, activations=None, group_size=None
        )
    if weights is not None:
        out = dataclasses.replace(out, attention=weights, experts=weights)
    changes = {"experts": experts, "attention": attention, "activations": activations, "kv": kv}
    if experts is not None and experts != out.experts:
        out = dataclasses.replace(out, group_size=None)
    return dataclasses.replace(out, **{k: v for k, v in changes.items() if v is not None})


def to_mapping(value: Any) -> dict[str, Any]:
    """The fields of a description that differ from their defaults, as YAML-ready values."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item == field.default:
            continue
        if dataclasses.is_dataclass(item):
            out[field.name] = to_mapping(item)
        elif isinstance(item, tuple):
            out[field.name] = [to_mapping(x) if dataclasses.is_dataclass(x) else x for x in item]
        else:
            out[field.name] = item
    return out


def _scalar(kind: Any, value: Any, key: str) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, key)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}: {value!r} is not a list")
        inner = typing.get_args(kind)[0]
        return tuple(_scalar(inner, v, f"{key}[{i}]") for i, v in enumerate(value))
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            allowed = typing.get_args(kind)
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(allowed)}{nearest(value, allowed)}")
        return value
    if (
        kind is int
        and not isinstance(value, bool)
        and isinstance(value, (int, float))
        and int(value) == value
    ):
        if value < 0:
            raise ConfigError(f"{key}: {value!r} is negative")
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise ConfigError(f"{key}: {value!r} is not {'a whole number' if kind is int else f'a {kind.__name__}'}")


def _record(cls: Any, mapping: Any, where: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: expected a mapping of {cls.__name__} fields, got {mapping!r}")
    kinds = hints_of(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in mapping:
        if key not in fields:
            raise ConfigError(
                f"{where}.{key}: unknown key{nearest(key, fields)}; allowed are {', '.join(fields)}"
            )
    missing = [k for k, f in fields.items() if f.default is dataclasses.MISSING and k not in mapping]
    if missing:
        raise ConfigError(
            f"{where}: missing {', '.join(missing)}; found {', '.join(map(str, mapping)) or 'nothing'}"
        )
    return cls(**{k: _scalar(kinds[k], v, f"{where}.{k}") for k, v in mapping.items()})


def architecture_from_mapping(mapping: Mapping[str, Any]) -> Architecture:
    """An `Architecture` from the mapping `to_mapping` writes (the `architecture:` block of a model YAML).

    Raises:
        ConfigError: unknown key (with the nearest valid name), missing key, or a value of the wrong kind.
    """
    return _record(Architecture, mapping, "architecture")


def precision_from_mapping(mapping: Mapping[str, Any]) -> CheckpointPrecision:
    """A `CheckpointPrecision` from the `precision:` block of a model YAML.

    `weights` stands for attention and feed-forward, `experts` defaults to `weights`; every key may be absent.

    Raises:
        ConfigError: unknown key or format.
    """
    allowed = ("weights", "experts", "attention", "ffn", "embedding", "activations", "kv", "group_size")
    for key in mapping:
        if key not in allowed:
            raise ConfigError(
                f"precision.{key}: unknown key{nearest(key, allowed)}; allowed are {', '.join(allowed)}"
            )
    given = {k: v for k, v in mapping.items() if v is not None}
    weights = given.pop("weights", "bf16")
    high = weights if weights in ("fp16", "fp32") else "bf16"
    return CheckpointPrecision(
        **{"attention": weights, "ffn": weights, "experts": weights, "embedding": high, "kv": "bf16"} | given
    )


def precision_to_mapping(precision: CheckpointPrecision) -> dict[str, Any]:
    """The `precision:` block of a model YAML; the inverse of `precision_from_mapping`."""
    same = precision.experts == precision.ffn
    out: dict[str, Any] = {"weights": precision.ffn, "experts": None if same else precision.experts}
    if precision.attention != precision.ffn:
        out["attention"] = precision.attention
    if precision.embedding != (precision.ffn if precision.ffn in ("fp16", "fp32") else "bf16"):
        out["embedding"] = precision.embedding
    out |= {"activations": precision.activations, "kv": precision.kv}
    if precision.group_size is not None:
        out["group_size"] = precision.group_size
    return out
