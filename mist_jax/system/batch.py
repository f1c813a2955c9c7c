"""What one engine iteration holds."""

from __future__ import annotations

from typing import Any

from mist_jax.pytree import pytree

Array = Any


@pytree
class Batch:
    """One iteration as one attention-DP rank sees it (with dp = 1: the whole engine).

    All ranks are taken to hold the same. Ragged batches are described by their means; the playback sums prefill
    attention chunk by chunk instead.
    """

    prefill_tokens: Array  #: new prompt tokens, all chunks together
    prefill_seqs: Array  #: prompts they belong to
    prefill_past: Array  #: mean tokens of those prompts that are already in the KV cache
    decode_seqs: Array  #: sequences that decode one token
    decode_context: Array  #: mean tokens in their KV cache
    emitting_prefills: Array  #: prompts that finish in this iteration and emit their first token
    #: tokens that each decoding sequence puts through the model: 1, and with speculation the drafts to verify
    decode_width: Array = 1.0


def decode_batch(seqs: Array, context: Array) -> Batch:
    """An iteration of decoding alone: `seqs` sequences with `context` cached tokens each."""
    return Batch(
        prefill_tokens=0.0,
        prefill_seqs=0.0,
        prefill_past=0.0,
        decode_seqs=seqs,
        decode_context=context,
        emitting_prefills=0.0,
    )


def prefill_batch(tokens: Array, seqs: Array = 1.0, past: Array = 0.0) -> Batch:
    """An iteration of prefill alone: `seqs` prompts that share `tokens` new tokens, `past` cached tokens each."""
    return Batch(
        prefill_tokens=tokens,
        prefill_seqs=seqs,
        prefill_past=past,
        decode_seqs=0.0,
        decode_context=0.0,
        emitting_prefills=seqs,
    )
