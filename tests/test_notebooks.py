"Every exported notebook, and every tour, runs from top to bottom as nbdev runs it."
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NBS = ROOT/"nbs"
HANG = 300  # seconds: nothing here should come near it


def pages() -> list:
    "Notebooks outside folders that opt out with `.notest`"
    found = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return [p.relative_to(NBS).as_posix() for p in found if not any((d/".notest").exists() for d in p.parents if d.is_relative_to(NBS))]


def test_there_are_notebooks(): assert {"index.ipynb", "cli/main.ipynb", "core/errors.ipynb"} <= set(pages())


def run(name):
    code = f"from nbdev.test import test_nb; import sys; ok, s = test_nb({str(NBS/name)!r}, do_print=False); sys.exit(not ok)"
    r = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr[-4000:]


def room(names):
    class TestRoom:
        @pytest.mark.parametrize("name", names)
        def test_notebook(self, name): run(name)
    return TestRoom


def rooms() -> dict:
    "Pages by folder; a class each, because a worker takes a class at a time"
    return {r: [n for n in pages() if Path(n).parent.name == r] for r in sorted({Path(n).parent.name for n in pages()})}


globals().update({f"Test{r.title() or 'Top'}": room(names) for r, names in rooms().items()})


@pytest.mark.parametrize("name", [n for n in pages() if n != "index.ipynb" and not n.startswith("tutorials/")])
def test_it_asserts(name):
    "A notebook that proves nothing is not a test"
    cells = json.loads((NBS/name).read_text(encoding="utf-8"))["cells"]
    checks = [c for c in cells if c["cell_type"] == "code" and not "".join(c["source"]).startswith("#| export")
              and any(w in "".join(c["source"]) for w in ("assert", "test_", "expect_fail", "check_"))]
    assert checks, f"{name} has no assertion"
