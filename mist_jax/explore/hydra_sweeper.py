"""Hydra multirun as one batch: composed once per combination of groups, evaluated in one compiled program.

`mist-jax -m hardware=h100_sxm,mi300x engine.max_num_batched_tokens=512,2048` writes one dataset whose dimensions are
the swept keys. Every job's config is the one that Hydra would compose for it (`JobTable.config`). Where that cannot
be promised (another mode or launcher, interpolations, values that are sections, `+` and `~` overrides), Hydra's own
sweeper runs the jobs one at a time; `hydra/sweeper=basic` asks for that.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mist_jax.errors import ConfigError
from mist_jax.programs import COMPILING

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@dataclass
class MistSweeperConf:
    """What Hydra instantiates."""

    _target_: str = "hydra_plugins.mist_sweeper.MistSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


def register() -> None:
    """Make `hydra/sweeper=mist` an option."""
    ConfigStore.instance().store(
        group="hydra/sweeper", name="mist", node=MistSweeperConf, provider="mist-jax"
    )


@dataclass(frozen=True)
class Swept:
    """One swept override: its key, the values as Hydra spells them, and as Python values."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]
    group: bool


class JobTable:
    """The jobs of a multirun in Hydra's order: the product of the swept overrides, the last one fastest."""

    def __init__(
        self, fixed: list[str], swept: list[Swept], order: list[str], composed: dict[Any, DictConfig]
    ) -> None:
        self.fixed, self.swept, self.order, self.composed = fixed, swept, order, composed
        self.texts: dict[Any, str] = {}  #: the composed configs as YAML

    def __len__(self) -> int:
        out = 1
        for axis in self.swept:
            out *= len(axis.texts)
        return out

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Index of each job along each swept override."""
        return itertools.product(*(range(len(s.texts)) for s in self.swept))

    def overrides(self, index: tuple[int, ...]) -> list[str]:
        """The overrides of one job, in the order of the command line."""
        chosen = {s.key: f"{s.key}={s.texts[i]}" for s, i in zip(self.swept, index, strict=True)}
        fixed = {text.partition("=")[0]: text for text in self.fixed}
        return [chosen.get(key) or fixed[key] for key in self.order]

    def base(self, index: tuple[int, ...]) -> DictConfig:
        """The composed config of a job's combination of groups (values: the first of each)."""
        return self.composed[tuple(i for s, i in zip(self.swept, index, strict=True) if s.group)]

    def config(self, index: tuple[int, ...]) -> DictConfig:
        """The config of one job, as Hydra composes it (without its own section)."""
        config = self.base(index).copy()
        for axis, i in zip(self.swept, index, strict=True):
            if not axis.group:
                OmegaConf.update(config, axis.key, axis.values[i], merge=True)
        return config


class MistSweeper(BasicSweeper):
    """The default sweeper of `mist-jax -m`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's own; remembers what the task is."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function

    def sweep(self, arguments: list[str]) -> Any:
        """All jobs in one batch, or one at a time where that is not possible.

        Raises:
            ConfigError: a value that cannot be; nothing has been written then.
        """
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        finished = (folder / "result.nc").exists()
        with ThreadPoolExecutor(1) as beside:
            table = self._table(arguments, None if finished else beside)
            if table is None:
                return super().sweep(arguments)
            if finished:
                raise ConfigError(f"hydra.sweep.dir: {folder} already holds a result; choose another folder")
            from mist_jax.explore.multirun import run_jobs

            dataset = run_jobs(table)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        write_jobs(table, folder)
        return [report(dataset, folder, table)]

    def _table(self, arguments: list[str], beside: Executor | None) -> JobTable | None:
        """The jobs, each combination of groups composed once; None: leave them to Hydra's own sweeper.

        The program is compiled in `beside` as soon as the first combination is known.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        if self.config.hydra.launcher.get("_target_") != BASIC_LAUNCHER or self.max_batch_size is not None:
            return None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        fixed: dict[str, str] = {}
        swept: dict[str, Swept] = {}
        order: dict[str, None] = {}
        for item in overrides:
            key = item.get_key_element()
            order[key] = None
            fixed.pop(key, None)
            swept.pop(key, None)
            if not item.is_sweep_override():
                fixed[key] = f"{key}={item.get_value_element_as_str()}"
                continue
            if not item.is_discrete_sweep() or key[0] in "+~":
                return None
            group = bool(loader.get_group_options(key.partition("@")[0].partition(":")[0]))
            if group and "/" in key:
                return None
            swept[key] = Swept(key, tuple(item.sweep_string_iterator()), tuple(_values(item)), group)
        axes = [swept[k] for k in order if k in swept]
        if not axes or any(isinstance(v, dict | list) for s in axes for v in s.values):
            return None
        if any(s.key in ("experiment", "mode", "seed") or s.key.startswith("hydra") for s in axes):
            return None
        table = JobTable(list(fixed.values()), axes, list(order), {})
        groups = [s for s in axes if s.group]
        composer = _Composer(loader, self.config, table, groups)
        for choice in itertools.product(*(range(len(s.texts)) for s in groups)):
            config = composer.config(choice)
            if config.get("mode") != "evaluate":
                return None
            text = OmegaConf.to_yaml(config)
            if "${" in text:
                return None
            table.composed[choice] = config
            table.texts[choice] = text
            config._set_flag("readonly", False)
            CHOICES[id(config)] = composer.choices(choice)
            if beside is not None and len(table.composed) == 1 and composer.all_known():
                # tracing needs the interpreter, XLA does not: the other compositions wait for it
                beside.submit(_compile_ahead, table, choice).add_done_callback(lambda _: COMPILING.set())
                COMPILING.wait()
        return table


def _compile_ahead(table: JobTable, choice: tuple[int, ...]) -> None:
    from mist_jax.explore.multirun import compile_ahead

    compile_ahead(table, choice)


class _Composer:
    """Configs of combinations of options, composed by Hydra.

    An option that is one file without a defaults list fills the section of its group's name and nothing else. Where all
    swept options are such, each is composed once, and a combination takes its sections from there: as many compositions
    as options, not as their combinations.
    """

    def __init__(self, loader: Any, master: DictConfig, table: JobTable, groups: list[Swept]) -> None:
        self.loader, self.master, self.table, self.groups = copy.copy(loader), master, table, groups
        self.loader.repository = _ReadOnce(loader.repository)
        self.known: dict[tuple[int, ...], tuple[DictConfig, dict[str, Any]]] = {}
        self.separable = all(self._fills_its_section(s.key, t) for s in groups for t in s.texts)

    def _fills_its_section(self, group: str, option: str) -> bool:
        if not group.isidentifier():
            return False
        found = self.loader.repository.load_config(f"{group}/{option}")
        # that there is no such option is for the composition to say
        return found is None or (not found.defaults_list and found.header.get("package") in (None, group))

    def all_known(self) -> bool:
        """Whether there are all the options (what is wrong with one that is not, its composition says)."""
        return all(
            self.loader.repository.config_exists(f"{s.key.partition('@')[0]}/{t}")
            for s in self.groups
            for t in s.texts
        )

    def _composed(self, choice: tuple[int, ...]) -> tuple[DictConfig, dict[str, Any]]:
        """Raises for a wrong key or option, before anything runs."""
        if choice not in self.known:
            at = dict(zip((s.key for s in self.groups), choice, strict=True))
            index = tuple(at.get(s.key, 0) for s in self.table.swept)
            config = self.loader.load_sweep_config(
                master_config=self.master, sweep_overrides=self.table.overrides(index)
            )
            choices = dict(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            self.known[choice] = config, choices
        return self.known[choice]

    def _alone(self, choice: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(group, the choice of its option with the first of all others)."""
        for k, s in enumerate(self.groups):
            if choice[k]:
                yield s.key, tuple(i if j == k else 0 for j, i in enumerate(choice))

    def config(self, choice: tuple[int, ...]) -> DictConfig:
        """The config of a combination, without Hydra's own section."""
        if not self.separable:
            return self._composed(choice)[0]
        out = self._composed((0,) * len(choice))[0].copy()
        for group, alone in self._alone(choice):
            out[group] = self._composed(alone)[0][group].copy()
        return out

    def choices(self, choice: tuple[int, ...]) -> dict[str, Any]:
        """The option chosen of every group."""
        if not self.separable:
            return self._composed(choice)[1]
        changed = {group: self._composed(alone)[1][group] for group, alone in self._alone(choice)}
        return self._composed((0,) * len(choice))[1] | changed


class _ReadOnce(CachingConfigRepository):
    """Keeps the files that it has parsed: half the time of a composition.

    Hydra copies its repository for each composition; this one stays the same.
    """

    def __deepcopy__(self, memo: Any) -> _ReadOnce:
        return self


#: Chosen options of each composed config, by identity.
CHOICES: dict[int, dict[str, Any]] = {}


def _values(item: Override) -> Iterator[Any]:
    """The values of a sweep as Python objects, quotes taken off."""
    from hydra.core.override_parser.types import QuotedString

    for value in item.sweep_iterator():
        yield value.text if isinstance(value, QuotedString) else value


def write_jobs(table: JobTable, folder: Path) -> None:
    """`jobs.jsonl`: the overrides of every job, one line each; `configs/`: each combination of groups composed."""
    with (folder / "jobs.jsonl").open("w", encoding="utf-8") as out:
        for number, index in enumerate(table.indices()):
            out.write(json.dumps({"job": number, "overrides": table.overrides(index)}) + "\n")
    (folder / "configs").mkdir(exist_ok=True)
    for number, text in enumerate(table.texts.values()):
        (folder / "configs" / f"{number}.yaml").write_text(text, encoding="utf-8")


def report(dataset: Any, folder: Path, table: JobTable) -> Any:
    """Write `result.nc`, `report.html` if asked, and say where."""
    from mist_jax.explore.sweep import count_status
    from mist_jax.io.netcdf import write_netcdf
    from mist_jax.report.sweep_tables import print_sweep

    write_netcdf(dataset, folder / "result.nc")
    if any(config.get("report") for config in table.composed.values()):
        from mist_jax.explore.multirun import scenarios_of
        from mist_jax.report.html import write_report

        variants = scenarios_of(table)
        write_report(variants[0], dataset, folder / "report.html", variants=variants)
    print_sweep(dataset)
    counts = ", ".join(f"{n} {text}" for text, n in count_status(dataset).items())
    print(f"{len(table)} jobs in one batch: {counts}\nwritten to {folder}")
    return dataset


__all__ = ["JobTable", "MistSweeper", "register"]
