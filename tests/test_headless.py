"Row N1 of the fault matrix: every program, every tour and every page of evidence runs headless in smoke mode, says that it reached its end, and leaves the checkout as it was."
import hashlib
import subprocess

import pytest
from conftest import ROOT

from brainlab.training.callbacks import read_metrics
from brainlab.training.checkpoint import latest
from brainlab.training.runs import completed, parameters_of, read_notebook, run_notebook

NBS = ROOT/"nbs"
NAMES = [p.relative_to(NBS).as_posix() for room in ("runs", "tutorials", "evidence") for p in sorted((NBS/room).glob("*.ipynb"))]


def tracked() -> dict:
    "SHA-256 of every file git tracks, or would track"
    r = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if r.returncode: pytest.skip("not a git checkout")
    return {f: hashlib.sha256((ROOT/f).read_bytes()).hexdigest() for f in set(r.stdout.split("\0")) if f and (ROOT/f).is_file()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "Runs a notebook once: (output, parameters, files that changed in the checkout)"
    done = {}

    def run(name, monkeypatch):
        if name in done: return done[name]
        folder, before = tmp_path_factory.mktemp("headless"), tracked()
        for key in ("data", "checkpoints"): monkeypatch.setenv(f"BRAINLAB_{key.upper()}_DIR", str(folder/key))
        params = {k: str(folder/k) for k in parameters_of(NBS/name) if k.endswith("_dir")} | dict(smoke=True)
        out, after = run_notebook(NBS/name, folder/"out.ipynb", params, timeout=240), tracked()
        done[name] = out, params, sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        return done[name]
    return run


def test_there_are_notebooks(): assert {"runs/train.ipynb", "runs/train_sprout.ipynb", "runs/nightly.ipynb", "tutorials/watching.ipynb", "evidence/selective_scan.ipynb"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_headless(name, ran, monkeypatch):
    out, _, changed = ran(name, monkeypatch)
    assert completed(out) and "widgets" not in read_notebook(out).metadata
    assert changed == []


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_described(name):
    declared = parameters_of(NBS/name)
    assert "smoke" in declared, "no smoke parameter"
    assert [k for k, p in declared.items() if not p.comment] == [], "a parameter without a comment"


def test_train_again(ran, monkeypatch):
    "The same command once more finds the run finished and changes no weight"
    out, params, _ = ran("runs/train.ipynb", monkeypatch)
    folder = params["run_dir"]
    weights, rows = (latest(folder)/"model.safetensors").read_bytes(), read_metrics(folder)
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 7)) and any("val_bpb" in r for r in rows)
    for key in ("data", "checkpoints"): monkeypatch.setenv(f"BRAINLAB_{key.upper()}_DIR", str(out.parent/key))
    run_notebook(NBS/"runs"/"train.ipynb", out, params)
    assert (latest(folder)/"model.safetensors").read_bytes() == weights
    assert read_metrics(folder) == rows
