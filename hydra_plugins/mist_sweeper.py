"""Makes the vectorized sweeper known to Hydra, which accepts plugins from this namespace package only."""

from mist_jax.explore import hydra_sweeper


class MistSweeper(hydra_sweeper.MistSweeper):
    """See `mist_jax.explore.hydra_sweeper`."""


hydra_sweeper.register()
