"""The documentation builds without a warning, covers what is public, and its commands are the ones that are timed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_between_pages_lead_somewhere():
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_of_the_navigation_exists_and_every_notebook_is_listed():
    pages = re.findall(r":\s+([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert len(pages) >= 15
    missing = [p for p in pages if not (DOCS / p).exists()]
    assert not missing
    listed = (DOCS / "notebooks.md").read_text()
    for path in (ROOT / "notebooks").glob("*.py"):
        assert f"`{path.stem}`" in listed, path.stem


def test_reference_names_exist():
    text = (DOCS / "reference.md").read_text()
    for name in re.findall(r"^::: (\S+)$", text, re.M):
        module, _, attribute = name.rpartition(".")
        if importlib.util.find_spec(module) is not None and not name.startswith("mist_jax.errors"):
            try:
                found = importlib.util.find_spec(name) is not None
            except ModuleNotFoundError:
                found = False
            assert found or hasattr(importlib.import_module(module), attribute), name


def test_commands_of_the_tutorial_are_found_and_timed():
    page = (DOCS / "tutorial.md").read_text()
    names = [n for n, _ in script("time_tutorial").commands(page)]
    path = ("help", "first answer", "own model", "own hardware", "own trace", "own calibration", "sweep")
    assert {*path, "compare"} <= set(names)
    times = page.partition("<!-- times -->")[2]
    for name in names:
        assert re.search(rf"^\| {name} \| \d+\.\d \| \d+\.\d \|$", times, re.M), (
            f"{name}: run docs/time_tutorial.py --write"
        )


def test_validation_page_takes_figures_from_its_sources():
    generate = script("generate_validation")
    row = {
        "case": "a", "quantity": "TTFT | x", "measured": 10.0, "predicted": 11.0, "unit": "ms", "basis": "predicted",
        "source": "s",
    }  # fmt: skip
    text = generate.page([row, {**row, "case": "b", "basis": "exact", "measured": 0.0}])
    assert text.index("| b |") < text.index("| a | TTFT / x | 10 | 11 | ms | +10.0% | predicted | s |")
    kernels = (ROOT / "calibration" / "KERNELS.md").read_text()
    line = next(x for x in kernels.splitlines() if x.startswith("| gemm | bf16 |"))
    assert line in text
    assert "without the measured data" in generate.page(None)
    assert (
        generate.demoted("# A\n```\n# b\n```\n[t](x.md) [u](https://x)")
        == "## A\n```\n# b\n```\n`t` [u](https://x)"
    )


def test_issue_templates_are_forms():
    import yaml

    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form), path.name
        ids = [f["id"] for f in form["body"] if "id" in f]
        assert len(ids) == len(set(ids))
        assert all(
            f["type"] in ("input", "textarea", "checkboxes", "markdown", "dropdown") for f in form["body"]
        )


def test_counts_of_chips_and_models_are_those_of_the_catalogue():
    found = 0
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        for chips, models in re.findall(
            r"(\d+) chips (?:with sourced numbers, |and )(\d+) models", page.read_text()
        ):
            assert int(chips) == len(list((ROOT / "conf" / "hardware").glob("*.yaml"))), page.name
            assert int(models) == len(list((ROOT / "conf" / "model").glob("*.yaml"))), page.name
            found += 1
    assert found == 2


def test_links_of_the_readme_lead_somewhere():
    generated = {"calibration/README.md"}  # by the calibration's own command
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", (ROOT / page).read_text()):
            assert target in generated or (ROOT / target).exists(), f"{page}: {target}"


@pytest.mark.slow
def test_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=None)
    assert done.returncode == 0, done.stderr[-3000:]
    home = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "read_benchmark_result" in home
