"""Every notebook runs to its conclusion, as the script it is; all of them together within the time promised."""

from __future__ import annotations

import os
import re
import runpy
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
#: All notebooks from a clean install (seconds of this process; a shared machine's clock says nothing).
BUDGET_CPU_S = 360.0


def test_there_are_eleven_and_each_is_a_notebook_with_a_conclusion():
    assert len(NOTEBOOKS) == 11
    for path in NOTEBOOKS:
        text = path.read_text()
        assert "format_name: percent" in text, path.name
        cells = text.split("# %%")
        assert cells[1].startswith(" [markdown]\n# # "), f"{path.name} does not begin with a title"
        assert cells[-2].startswith(" [markdown]\n# ## Conclusion"), (
            f"{path.name} does not end with a conclusion"
        )
        assert "print(" in cells[-1], f"{path.name}: the conclusion is not computed"


def test_no_output_is_stored():
    assert not list(FOLDER.glob("**/*.ipynb"))


def test_prose_claims_no_figures():
    """Sentences in markdown may name inputs, not results: no percentages or durations that the code computes."""
    for path in NOTEBOOKS:
        for cell in path.read_text().split("# %%")[1:]:
            if cell.startswith(" [markdown]"):
                assert not re.search(r"\d\s*(%|ms\b|tokens/s\b)(?! (noise|longer|and see|more))", cell), (
                    path.name,
                    cell,
                )


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:FigureCanvasAgg is non-interactive:UserWarning"
)  # `plt.show()` without a screen
def test_all_run_within_the_budget(monkeypatch, tmp_path, capsys):
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    for path in NOTEBOOKS:
        runpy.run_path(str(path))
        plt.close("all")
        shown = capsys.readouterr().out.strip()
        assert shown, path.name
        assert "nan" not in shown.splitlines()[-1].lower(), (path.name, shown.splitlines()[-1])
    spent = time.process_time() - start
    assert spent < BUDGET_CPU_S, f"{spent:.0f} s"


@pytest.mark.slow
def test_the_tour_runs_as_a_notebook_and_shows_its_pictures(tmp_path):
    jupytext = pytest.importorskip("jupytext", reason="needs the extra notebooks")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    notebook = jupytext.read(NOTEBOOKS[0])
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    kinds = [k for c in notebook.cells for o in c.get("outputs", []) for k in o.get("data", {})]
    assert kinds.count("image/png") >= 3
