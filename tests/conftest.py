"Shared fixtures, and a closing table of the seconds each test module took beside its budget."
import os
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Seconds on 2 cores. Reported, never asserted: a slow machine is not a fault.
BUDGET = defaultdict(lambda: 60, test_notebooks=600, test_docs=180, test_demo=240, test_browser=180, test_headless=360, test_training_faults=180, test_runs=180, test_lean_import=60, test_train_notebook=300)
_spent = defaultdict(float)


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout"
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "A folder of larger text corpora, where one is at hand"
    named = os.environ.get("BRAINLAB_SHARED_DATA")
    folder = Path(named) if named else next((d/"shared"/"data" for d in (ROOT, ROOT.parent) if (d/"shared"/"data").is_dir()), None)
    if folder is None or not folder.is_dir(): pytest.skip("no shared corpora on this machine (BRAINLAB_SHARED_DATA)")
    return folder


def pytest_runtest_logreport(report):
    _spent[Path(report.nodeid.split("::")[0]).stem] += report.duration


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("seconds per module")
    for name, s in sorted(_spent.items(), key=lambda o: -o[1]):
        terminalreporter.write_line(f"{name:<24} {s:7.1f} of {BUDGET[name]:>4}{'   over budget' if s > BUDGET[name] else ''}")
