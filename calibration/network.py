"""Fit the link coefficients of `mist_jax.physics.network` to the public collective profiles.

    python -m calibration.network            # fit, print the error table, write mist_jax/catalog/links.json
    python -m calibration.network --check    # only the error table of the packaged fit

One set of coefficients per system and operation. Loss: pseudo-Huber on the logarithm of predicted over
measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.datasets import collectives

CATALOG = Path(__file__).resolve().parents[1] / "mist_jax" / "catalog" / "links.json"
#: Nominal bytes/s per direction and chip: NVLink 3 and 4, ConnectX-6 200 Gb/s and ConnectX-7 400 Gb/s (NVIDIA
#: DGX A100 and DGX H100 datasheets). The profiled clusters may have had slower NICs; the fitted share absorbs
#: it.
NOMINAL = {"a100": {"scale_up": 300e9, "scale_out": 25e9}, "h100": {"scale_up": 450e9, "scale_out": 50e9}}
UP, OUT = 1, 2  # indices of the levels scale_up and rack
MIN_BYTES = 64 * 1024


def build(system: str, links: Any) -> Any:
    """The network of a profiled cluster; the size of the scale-up domain is set per row."""
    from mist_jax.physics.network import Network

    up, out = NOMINAL[system]["scale_up"], NOMINAL[system]["scale_out"]
    return Network(
        bandwidth=np.array([0.0, up, out, out]),
        latency=np.array([0.0, 1e-6, 5e-6, 10e-6]),
        size=np.array([1.0, 8.0, 1e9, 1e12]),
        oversubscription=np.ones(4),
        links=links,
    )


def predict(system: str, operation: str, links: Any, rows: pd.DataFrame) -> Any:
    """Seconds predicted for each row (JAX array)."""
    import jax
    import jax.numpy as jnp

    from mist_jax.physics.network import all_reduce_seconds, send_seconds
    from mist_jax.pytree import replace

    net = build(system, links)

    def one(nbytes: Any, workers: Any, per_node: Any) -> Any:
        placed = replace(net, size=jnp.asarray(net.size).at[UP].set(per_node))
        if operation == "all_reduce":
            return all_reduce_seconds(placed, nbytes, workers)
        return send_seconds(placed, nbytes, jnp.where(per_node > 1, UP, OUT))

    columns = [jnp.asarray(rows[c].to_numpy(float)) for c in ("bytes", "workers", "per_node")]
    return jax.vmap(one)(*columns)


def unpack(theta: Any) -> Any:
    """Links from the fit's vector of logarithms: launches, shares, group factors, rails."""
    import jax.numpy as jnp

    from mist_jax.physics.network import default_links
    from mist_jax.pytree import replace

    base = default_links()
    launch, share = jnp.asarray(base.launch_s), jnp.asarray(base.share)
    value = jnp.exp(theta)
    for k, level in enumerate((UP, OUT)):
        launch = launch.at[level].set(value[2 * k : 2 * k + 2])
        share = share.at[level].set(value[4 + 2 * k : 6 + 2 * k])
    group = jnp.asarray(base.group).at[UP].set(jnp.stack([value[8], value[9], jnp.ones(())]))
    rails = jnp.asarray(base.rails).at[OUT].set(jnp.concatenate([jnp.ones(1), value[10:13]]))
    hop = jnp.asarray(base.hop_s)
    for k, level in enumerate((UP, OUT)):
        hop = hop.at[level].set(value[13 + 2 * k : 15 + 2 * k])
    # Levels that were not measured follow the next measured one.
    launch, share, hop = launch.at[3].set(launch[2]), share.at[3].set(share[2]), hop.at[3].set(hop[2])
    rails = rails.at[3].set(rails[2])
    return replace(base, launch_s=launch, share=share, hop_s=hop, group=group, rails=rails)


def fit(system: str, operation: str, rows: pd.DataFrame) -> tuple[Any, np.ndarray]:
    """Coefficients of one profile by bounded least squares; weak priors hold what is unseen."""
    import jax
    import jax.numpy as jnp
    from scipy.optimize import least_squares

    start = np.log(
        np.array(
            [
                *(7e-6, 14e-6, 40e-6, 80e-6),  # launch: scale-up low-latency, simple; scale-out the same
                *(0.3, 0.75, 0.1, 0.3),  # share of the nominal bandwidth, in the same order
                *(1.0, 1.0),  # factor for scale-up groups of 2 and 4
                *(1.2, 3.0, 4.0),  # ports used out of a node with 2, 4, 8 chips taking part
                *(1e-6, 2e-6, 4e-6, 1.5e-5),  # per step, in the order of the launches
            ]
        )
    )
    # A size-balanced sample: the profile has most of its points at large sizes.
    bins = np.clip(np.log2(rows["bytes"] / 1024).astype(int), 0, None)
    weight = 1.0 / rows.groupby([bins, "workers", "per_node"])["bytes"].transform("count")
    weight = np.sqrt(weight / weight.mean()).to_numpy()
    target = jnp.log(jnp.asarray(rows["seconds"].to_numpy()))

    def residual(theta: Any) -> Any:
        error = jnp.log(predict(system, operation, unpack(theta), rows)) - target
        huber = jnp.sign(error) * jnp.sqrt(2 * 0.1 * (jnp.sqrt(0.01 + error**2) - 0.1) + 1e-12)
        return jnp.concatenate([weight * huber, 0.05 * (theta - start)])

    # A link is not faster than its nominal bandwidth; the rest stays within a factor of 20 of where it
    # starts.
    bounds = (start - 3.0, start + 3.0)
    bounds[1][4:8] = np.log(0.98)
    bounds[0][8:10], bounds[1][8:10] = np.log(0.5), np.log(1.3)
    if operation == "send_recv":  # its share and the factor of a group of two are one number
        bounds[0][8:10], bounds[1][8:10] = -1e-6, 1e-6
    value, slope = jax.jit(residual), jax.jit(jax.jacfwd(residual))
    out = least_squares(
        lambda t: np.asarray(value(t)), start, jac=lambda t: np.asarray(slope(t)), bounds=bounds, max_nfev=80
    )
    return unpack(out.x), out.x


def table(links: dict[str, Any]) -> pd.DataFrame:
    """Median and mean absolute error by profile and placement, above 64 KB and in all."""
    out = []
    for system in collectives.SYSTEMS:
        for operation in collectives.OPERATIONS:
            rows = collectives.read(system, operation)
            rows["error"] = np.abs(
                np.asarray(predict(system, operation, links[f"{system}_{operation}"], rows)) / rows["seconds"]
                - 1
            )
            large = rows[rows["bytes"] > MIN_BYTES]
            for key, part in [("all", large), *large.groupby(["workers", "per_node"])]:
                out.append(
                    {
                        "profile": f"{system} {operation}",
                        "workers, per node": key if isinstance(key, str) else f"{key[0]}, {key[1]}",
                        "points": len(part),
                        "median %": 100 * part["error"].median(),
                        "mean %": 100 * part["error"].mean(),
                        "median % 64K-4M": 100 * part[part["bytes"] < 4e6]["error"].median(),
                    }
                )
    return pd.DataFrame(out)


def main() -> None:
    """Command line."""
    import dataclasses

    import jax

    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="error table of the packaged fit only")
    args = parser.parse_args()
    from mist_jax.physics.network import packaged_links

    names = [f"{s}_{o}" for s in collectives.SYSTEMS for o in collectives.OPERATIONS]
    if not args.check:
        fitted = {}
        for name in names:
            system, operation = name.split("_", 1)
            links, _ = fit(system, operation, collectives.read(system, operation))
            fitted[name] = {
                f.name: np.asarray(getattr(links, f.name)).round(12).tolist()
                for f in dataclasses.fields(links)
            }
        CATALOG.write_text(
            json.dumps(
                {
                    "source": collectives.SOURCE,
                    "fitted_by": "python -m calibration.network",
                    "nominal_bytes_per_s": NOMINAL,
                    "links": fitted,
                },
                indent=1,
            )
            + "\n"
        )
    print(table({name: packaged_links(name) for name in names}).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
