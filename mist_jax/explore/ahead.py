"""Programs compiled ahead, in a thread beside other work: XLA leaves the interpreter to it."""

from __future__ import annotations

import jax
import numpy as np

from mist_jax.errors import ConfigError
from mist_jax.explore import block
from mist_jax.explore.deployments import Layout, build_deployment, kind_of
from mist_jax.programs import Effort
from mist_jax.schema import Scenario


def compile_for_few(scenario: Scenario) -> None:
    """Compile what a sweep of few points around `scenario`, one without stages, will run.

    Nothing is compiled where the scenario cannot be: the sweep says so.
    """
    with jax.enable_x64(True):
        try:
            deployment = build_deployment(scenario)
        except ConfigError:
            return
        kind, layout = kind_of(scenario), Layout(deployment)
        columns = np.repeat(layout.column(deployment)[:, None], block.FLAT[0], axis=1)
        program = block.PROGRAMS.get(kind, layout, block.FLAT, np.float64, effort=Effort.LEAST)
        program.prepare(columns, np.full((len(block.inner_paths(kind)), 1), np.nan))
