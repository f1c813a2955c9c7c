"""The boxes of a sweep on a Dask cluster: a local one, or that of a scheduler's address.

A box is a task. With a store the workers write their boxes themselves and return nothing: boxes do not share chunks,
and a box written twice holds the same numbers, so a task that Dask runs again after a worker was lost neither
loses nor doubles anything; what a killed driver left behind is completed by the same call. Without a store the
arrays travel to the driver.

A worker builds the table of deployments itself and refuses to go on where it is not the driver's: another version of
the package or another calibration would mix two models in one result.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.explore.plan import Box, Plan

#: Tasks submitted at once per worker: enough to keep workers busy, few enough to bound memory.
AHEAD = 4
#: How often a box is tried again after an error (lost workers: `distributed.scheduler.allowed-failures`).
RETRIES = 2
#: Bytes up to which a plan travels with every task: it cannot be lost with a worker then.
SMALL_PLAN = 1 << 20


def _task(plan: Plan, box: Box, path: str | None) -> Any:
    """Evaluate one box in a worker; written to the store there, or returned."""
    from mist_jax.application import start_jax

    start_jax()
    plan = _kept(plan)
    values = plan.evaluate(box)
    if path is None:
        return values
    from mist_jax.explore.store import Store

    Store(plan, Path(path)).write(box, values)
    return None


#: The last plan of this worker by fingerprint: its table is built once, not once a box.
_PLANS: dict[str, Plan] = {}


def _kept(plan: Plan) -> Plan:
    if plan.fingerprint not in _PLANS:
        if plan.computed_fingerprint() != plan.fingerprint:
            raise ConfigError(
                "executor: a worker has another version of mist_jax or another calibration than the driver; "
                "install the same on both"
            )
        _PLANS.clear()
        _PLANS[plan.fingerprint] = plan
    return _PLANS[plan.fingerprint]


def run_on_dask(
    plan: Plan, boxes: list[Box], target: Any, executor: Any, advance: Callable[[int], None]
) -> None:
    """Evaluate `boxes` on `executor`: "dask" (a local cluster of two processes), a scheduler's address, or a client.

    Raises:
        ConfigError: Dask is not installed, the address cannot be reached, or a box loses every worker that takes it.
    """
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as exc:
        raise ConfigError("executor: dask is not installed; pip install 'mist-jax[dask]'") from exc
    if isinstance(executor, Client):
        _run(executor, plan, boxes, target, advance)
        return
    if executor == "dask":
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,  # type: ignore[arg-type]
            Client(cluster) as client,
        ):
            _run(client, plan, boxes, target, advance)
        return
    try:
        client = Client(str(executor), timeout=10)
    except (OSError, ValueError, TimeoutError) as exc:
        raise ConfigError(
            f"executor: cannot reach {executor!r} ({exc}); give 'threads', 'dask' or the address of a scheduler, "
            "such as tcp://10.0.0.1:8786"
        ) from exc
    with client:
        _run(client, plan, boxes, target, advance)


def _run(client: Any, plan: Plan, boxes: list[Box], target: Any, advance: Callable[[int], None]) -> None:
    import numpy as np
    from dask.distributed import KilledWorker, as_completed

    path = getattr(target, "path", None)
    _ = plan.fingerprint  # travels with the plan
    shared = (
        plan if len(pickle.dumps(plan)) <= SMALL_PLAN else client.scatter(plan, broadcast=True, hash=False)
    )
    todo = iter(boxes)
    width = AHEAD * max(len(client.scheduler_info(n_workers=-1)["workers"]), 1)
    of: dict[str, Box] = {}

    def submit(box: Box) -> Any:
        future = client.submit(_task, shared, box, str(path) if path else None, pure=False, retries=RETRIES)
        of[future.key] = box
        return future

    running = as_completed([submit(b) for _, b in zip(range(width), todo)])
    for future in running:
        box = of.pop(future.key)
        try:
            values = future.result()
        except KilledWorker as exc:
            raise ConfigError(
                f"executor: the box {box} lost every worker that took it (out of memory?); what was written before is "
                "intact, and the same sweep continues from there"
            ) from exc
        if path is None:
            target.write(box, values)
        future.release()
        advance(int(np.prod([b - a for a, b in box])))
        following = next(todo, None)
        if following is not None:
            running.add(submit(following))
