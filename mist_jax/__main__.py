"""The command line: `mist-jax [group=option] [key=value] [-m]`. Imports neither JAX nor xarray until a job runs."""

from __future__ import annotations

import os
import sys
from typing import Any

from mist_jax.errors import ConfigError
from mist_jax.paths import conf_dir

EXIT_BAD_INPUT = 2


def _job(config: Any) -> Any:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from mist_jax.application import run

    settings = HydraConfig.get()
    try:
        mapping = OmegaConf.to_container(config, resolve=True)
        return run(mapping, settings.runtime.output_dir, dict(settings.runtime.choices))  # type: ignore[arg-type]
    except ConfigError as exc:
        _fail(str(exc))  # here, before Hydra adds a line of its own
    except BrokenPipeError:
        # the reader (`| head`) has seen enough; the files are written, and what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: mode → a shorter name for one of its keys
_SHORT_KEYS = {"compare": ("run=", "compare.run="), "calibrate": ("from=", "calibrate.from=")}


def spelled_out(arguments: list[str]) -> list[str]:
    """`compare run=X` as `mode=compare compare.run=X`: the mode may be the first word alone; chips' short names whole.

    Raises:
        ConfigError: a first word that is no mode.
    """
    from mist_jax.application import MODES
    from mist_jax.compose import with_whole_names
    from mist_jax.errors import nearest

    arguments = [with_whole_names(a) for a in arguments]
    if not arguments or not arguments[0].isalpha():
        return arguments
    mode, *rest = arguments
    if mode not in MODES:
        raise ConfigError(f"mode: got {mode!r}{nearest(mode, MODES)}; allowed: {', '.join(MODES)}")
    short, long = _SHORT_KEYS.get(mode, ("", ""))
    return [
        f"mode={mode}",
        *(long + a.removeprefix(short) if short and a.startswith(short) else a for a in rest),
    ]


def main() -> None:
    """Run the application; a description that cannot be right prints one message and exits with code 2."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        from mist_jax.help import help_text

        print(help_text(), end="")
        return
    try:
        sys.argv[1:] = spelled_out(sys.argv[1:])
    except ConfigError as exc:
        _fail(str(exc))
    import hydra

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, not as Hydra's own print and exit 1
    application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)
    try:
        application()
    except ConfigError as exc:
        _fail(str(exc))
    except Exception as exc:
        if type(exc).__module__.startswith(("hydra.", "omegaconf.", "antlr4")):
            from mist_jax.compose import explain

            _fail(explain(exc))
        raise


def _fail(message: str) -> None:
    print(f"mist-jax: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
