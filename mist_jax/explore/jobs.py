"""Sweeps over a list of scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mist_jax.explore.axes import Axis
from mist_jax.explore.deployments import Structure
from mist_jax.explore.plan import Plan
from mist_jax.explore.sweep import _InMemory, labelled, run_boxes
from mist_jax.programs import Effort
from mist_jax.schema import Scenario

if TYPE_CHECKING:
    import xarray as xr

#: Points up to which lists of scenarios are compiled with the least effort.
FEW = 20_000


class JobsPlan(Plan):
    """A plan whose first axis is a list of scenarios, and whose others are plain numbers."""

    def __init__(self, scenarios: list[Scenario], axes: tuple[Axis, ...], variables: Any = None) -> None:
        self.scenarios = scenarios
        jobs = Axis("combination", tuple(float(i) for i in range(len(scenarios))), "", True, False)
        super().__init__(scenarios[0], (jobs, *axes), variables=variables)

    def _parsed(self, axes: Any) -> tuple[Axis, ...]:
        return axes

    def _direct(self, axis: Axis) -> bool:
        return axis.name != "combination"

    def _pools(self) -> bool:
        return any(s.prefill is not None for s in self.scenarios)

    def _effort(self) -> Effort:
        return self.effort_for(self.points)

    @staticmethod
    def effort_for(points: int) -> Effort:
        """What is spent on compiling for so many points: small ones run once, cold more often than not."""
        return Effort.LEAST if points <= FEW else Effort.FULL

    @property
    def structure(self) -> Structure:  # type: ignore[override]
        """The table of the scenarios."""
        if not hasattr(self, "_structure"):
            self._structure = Structure.of(self.scenarios)
        return self._structure


def evaluate_many(scenarios: list[Scenario], *, variables: Any = None) -> xr.Dataset:
    """Steady state of a list of scenarios along `combination`, in one program a kind; statuses as in `sweep`."""
    plan = JobsPlan(scenarios, (), variables)
    target = _InMemory(plan)
    run_boxes(plan, plan.boxes(), target, "threads", lambda _: None)
    return labelled(plan, target.finish())
