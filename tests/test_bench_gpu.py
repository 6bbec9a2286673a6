"The command that measures on a GPU, started where there is none, in an environment that holds nothing but torch and what it brings."
import json
import os
import subprocess

import pytest
import torch
from conftest import ROOT
from test_lean_import import lean  # noqa: F401 - a fixture

pytest.importorskip("triton")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.fixture
def gpu(lean, tmp_path):  # noqa: F811
    "Run the command: exit code, both outputs, and the report"
    def f(*args, minutes=3):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "BRAINLAB", "TRITON"))} | dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
        r = subprocess.run([lean, "-m", "brainlab.bench.gpu", "--out", str(tmp_path/"out"), "--minutes", str(minutes), *args],
                           cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        report = tmp_path/"out"/"report.json"
        return r.returncode, r.stdout, r.stderr, json.loads(report.read_text()) if report.exists() else None
    return f


def test_without_a_gpu_it_says_so(gpu):
    code, out, err, report = gpu()
    assert code == 2 and out == "" and report is None
    assert len(err.splitlines()) == 1 and "no CUDA device" in err, err


def test_a_goal_it_does_not_know(gpu):
    code, _, err, _ = gpu("--only", "C1")
    assert code == 2 and len(err.splitlines()) == 1 and "Unknown goal 'C1'" in err, err


def test_checks_in_the_interpreter(gpu):
    code, out, err, report = gpu("--interpret", "--checks", "route: *'t': [01]*")
    assert code == 0, out + err
    assert len(report["checks"]) == 2 and set(report["checks"].values()) == {None} and report["jobs"] == {}
    assert "2 of 2 kernel checks passed" in out


def test_nothing_checked_is_not_all_right(gpu):
    code, out, _, _ = gpu("--interpret", "--checks", "no such check")
    assert code == 1 and "0 of 0" in out


def test_out_of_time_is_not_all_right(gpu):
    code, out, _, report = gpu("--interpret", minutes=.3)
    assert code == 1 and "all: time" in report["checks"] and "more than 3 s" in out


@no_gpu
def test_every_gpu_goal_is_refused_by_name(capsys):
    from brainlab.bench.main import suites
    from brainlab.cli.main import main
    needs = {g for m in suites().values() for g, n in getattr(m, "NEEDS", {}).items() if n == "cuda"}
    assert {"G1", "G2", "G3", "G5", "G8"} <= needs
    for g in needs:
        assert main(["bench", g]) == 1
        assert capsys.readouterr().err.startswith(f"brainlab: Not measured: {g};")


def test_every_gpu_job_is_known():
    "What the command would run exists, and its checks do"
    from brainlab.bench.checking import kernel_checks, kernel_of
    from brainlab.bench.gpu import jobs
    from brainlab.bench.main import suites
    found, kernels = jobs(), {kernel_of(n) for n in kernel_checks("cpu")}
    parts = {g for m in suites().values() for g in getattr(m, "PARTS", {})}
    for name, needed in found.items():
        assert set(needed) <= kernels, (name, needed)
        assert name in parts or name in ("roofline", "crossover")


def test_no_path_of_this_machine_is_written():
    "The report names code, machine and versions, and no folder"
    from brainlab.bench.gpu import open_report
    assert str(ROOT) not in json.dumps(open_report("nowhere"))
