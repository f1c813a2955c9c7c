"""Named public traces: from `MIST_DATA_DIR`, else downloaded and checked, else a synthetic stand-in that says so."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mist_jax.errors import TraceError, nearest
from mist_jax.io.arrivals import lognormal_tokens, poisson, synthetic
from mist_jax.io.traces import read_trace
from mist_jax.paths import cache_dir, data_dir
from mist_jax.queueing.trace import Trace

AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data/"


@dataclass(frozen=True)
class PublicTrace:
    """Where a trace is from, and what is published of its statistics."""

    file: str
    source: str
    url: str | None = None
    sha256: str | None = None
    requests: int = 0
    rate: float = 0.0  #: mean requests/s
    prompt: tuple[float, float] = (0.0, 0.0)  #: mean tokens, standard deviation of their logarithm
    output: tuple[float, float] = (0.0, 0.0)


#: Counts, rates and means as published (AzurePublicDataset; Splitwise, arXiv 2311.18677, figure 3); spreads of the
#: logarithm worked from the traces.
PUBLIC_TRACES = {
    "azure_2023_conversation": PublicTrace(
        "azure_2023_conversation.csv",
        "Azure/AzurePublicDataset, CC-BY-4.0",
        AZURE + "AzureLLMInferenceTrace_conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        19366,
        5.53,
        (1154.7, 0.985),
        (211.1, 0.859),
    ),
    "azure_2023_code": PublicTrace(
        "azure_2023_code.csv",
        "Azure/AzurePublicDataset, CC-BY-4.0",
        AZURE + "AzureLLMInferenceTrace_code.csv",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        8819,
        2.567,
        (2047.8, 1.360),
        (27.9, 0.847),
    ),
    "mooncake_conversation": PublicTrace(
        "mooncake_conversation.jsonl", "kvcache-ai/Mooncake FAST25 release, Apache-2.0"
    ),
    "mooncake_synthetic": PublicTrace(
        "mooncake_synthetic.jsonl", "kvcache-ai/Mooncake FAST25 release, Apache-2.0"
    ),
}


def open_trace(name: str, *, seed: int = 0, offline: bool | None = None) -> tuple[Trace, str]:
    """A trace by path or by public name, and a sentence that says which it is.

    Args:
        name: path of a file in any format that `io.traces` reads, or a key of `PUBLIC_TRACES`.
        seed: of the synthetic stand-in.
        offline: True: do not try to download.

    Raises:
        TraceError: no such file or name, or a malformed file.
    """
    if name in PUBLIC_TRACES:
        return _public(name, seed, bool(offline))
    path = Path(name).expanduser()
    if not path.exists():
        raise TraceError(
            f"workload.trace: no file '{name}', and no public trace of that name{nearest(name, PUBLIC_TRACES)}; "
            f"known: {', '.join(PUBLIC_TRACES)}"
        )
    return read_checked(path), f"trace {path.name}"


def read_checked(path: Path) -> Trace:
    """`read_trace` with every complaint as a TraceError that names the file; an empty trace is one."""
    try:
        trace = read_trace(path)
    except TraceError:
        raise
    except OSError as exc:
        raise TraceError(f"workload.trace: cannot read {exc.filename or path}: {exc.strerror}") from None
    except (ValueError, KeyError) as exc:
        text = str(exc).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
        raise TraceError(f"workload.trace: {path}: {text}") from None
    if trace.size == 0:
        raise TraceError(f"workload.trace: {path}: holds no requests")
    # The playback marks bad requests and goes on; a file with any is more likely wrong as a whole.
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        column = np.asarray(getattr(trace, name), dtype=np.float64)
        bad = ~np.isfinite(column) | (column < 0)
        if bad.any():
            first = int(np.argmax(bad))
            raise TraceError(
                f"workload.trace: {path}: request {first + 1} of {trace.size} has {name} = {column[first]:g}, no "
                f"number of at least 0 ({int(bad.sum())} such requests)"
            )
    return trace


def _public(name: str, seed: int, offline: bool) -> tuple[Trace, str]:
    spec = PUBLIC_TRACES[name]
    local = data_dir() / "traces" / spec.file
    if local.is_file():
        return read_checked(local), f"the public trace {name} ({spec.source})"
    if spec.url is None:
        raise TraceError(
            f"workload.trace: {name} is not in {local.parent}; set MIST_DATA_DIR to a folder with traces/{spec.file} "
            f"(public source: {spec.source})"
        )
    if not offline:
        import pooch

        try:
            found = pooch.retrieve(
                spec.url,
                known_hash=spec.sha256,
                fname=spec.file,
                path=cache_dir() / "traces",
                progressbar=False,
            )
            return read_checked(Path(found)), f"the public trace {name}, downloaded ({spec.source})"
        except Exception as exc:  # no network, a moved file, a wrong checksum: all end in the stand-in
            warnings.warn(
                f"cannot download {name} ({type(exc).__name__}); using a synthetic stand-in", stacklevel=3
            )
    text = f"a SYNTHETIC trace with the published rate and mean lengths of {name} (Poisson arrivals, lognormal lengths)"
    return synthetic_like(spec, seed), text


def synthetic_like(spec: PublicTrace, seed: int) -> Trace:
    """Poisson arrivals at the trace's rate; lognormal lengths with its means and spreads."""

    def lengths(mean: float, spread: float):
        return lambda n, rng: lognormal_tokens(n, mean, float(np.sqrt(np.expm1(spread**2))), rng)

    return synthetic(
        spec.requests,
        lambda n, rng: poisson(n, spec.rate, rng),
        lengths(*spec.prompt),
        lengths(*spec.output),
        seed,
        name="synthetic",
    )
