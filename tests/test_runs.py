"Rows N2 and S5 of the fault matrix: notebooks as programs. A run that fails in any way says how, and harms no older output."
import json
import os
import resource
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from brainlab.cli.main import main
from brainlab.core.errors import BrainlabError, DeadKernel, IOFault, Locked, Timeout, UsageError
from brainlab.core.files import locked, read_json
from brainlab.training.callbacks import read_metrics
from brainlab.training.checkpoint import latest
from brainlab.training.runs import completed, parameters_of, run_notebook, typed_parameters

_RUN = "import sys; from brainlab.cli.main import main; sys.exit(main(sys.argv[1:]))"


def write(path, *sources, parameters=""):
    "A notebook with these cells"
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    nbformat.write(new_notebook(cells=cells + [new_code_cell(s) for s in sources]), path)
    return path


@pytest.fixture
def before(tmp_path):
    "An output of an earlier, good run"
    out = write(tmp_path/"out.ipynb", "'yesterday'")
    return out, out.read_bytes()


FAILURES = {
    "error": (BrainlabError, 1, "ValueError: no", ["x = 1", "raise ValueError('no')"]),
    "killed": (DeadKernel, 138, "died", ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "print('never')"]),
    "killed in the last cell": (DeadKernel, 138, "died", ["import os; os._exit(0)"]),
    "exit(0)": (BrainlabError, 1, "ended early", ["import sys; sys.exit(0)", "print('never')"]),
    "disk full in the kernel": (IOFault, 74, "No space left", ["from brainlab.core.errors import IOFault; raise IOFault('No space left')"]),
    "time limit": (Timeout, 124, "time limit of 4 seconds", ["import time; time.sleep(60)"]),
}


@pytest.mark.parametrize("what", FAILURES)
def test_failed_run(what, before, tmp_path):
    kind, code, text, cells = FAILURES[what]
    out, good = before
    with pytest.raises(kind, match=text) as e: run_notebook(write(tmp_path/"job.ipynb", *cells), out, timeout=4 if kind is Timeout else 100)
    assert (type(e.value), e.value.exit_code) == (kind, code)
    assert out.read_bytes() == good
    assert not completed(tmp_path/"out.error.ipynb")
    assert not (tmp_path/".out.part.ipynb").exists()


def test_locked(before, tmp_path):
    out, good = before
    job = write(tmp_path/"job.ipynb", "1")
    with locked(tmp_path/".out.ipynb.lock", "x"):
        with pytest.raises(Locked, match="Another process"): run_notebook(job, out)
        assert main(["run", str(job), str(out)]) == 75
    assert out.read_bytes() == good


def test_output_cannot_be_written(before, tmp_path):
    "No file of this process may grow beyond 4 kB, as on a full disk"
    out, good = before
    job = write(tmp_path/"job.ipynb", "print('x' * 9000)")
    p = subprocess.run([sys.executable, "-c", _RUN, "run", str(job), str(out)],
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)), capture_output=True, text=True, timeout=100)
    assert p.returncode == 74, p.stderr
    assert "Could not write" in p.stderr and len([o for o in p.stderr.splitlines() if o.startswith("brainlab:")]) == 1
    assert out.read_bytes() == good


def started(args, flag):
    "A `brainlab` process, once its notebook has written the file `flag`"
    p = subprocess.Popen([sys.executable, "-c", _RUN, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if flag.exists() and flag.read_text(): return p
        assert p.poll() is None, p.stderr.read()
        time.sleep(.1)
    p.kill()
    raise AssertionError("the notebook did not start")


def alive(pid):
    "Is the process there (a zombie is not)?"
    try:
        with open(f"/proc/{pid}/stat") as f: return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError: return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_kernel_dies_with_its_parent(before, tmp_path):
    out, good = before
    flag = tmp_path/"pid"
    job = write(tmp_path/"job.ipynb", f"import os, pathlib, time; pathlib.Path({str(flag)!r}).write_text(str(os.getpid())); time.sleep(300)")
    p = started(["run", job, out], flag)
    p.kill(); p.wait()
    pid = int(flag.read_text())
    for _ in range(200):
        if not alive(pid): break
        time.sleep(.1)
    assert not alive(pid)
    assert out.read_bytes() == good
    assert run_notebook(write(tmp_path/"job2.ipynb", "1"), out) and completed(out)  # the lock died with its holder


def test_stop_signal_reaches_training(tmp_path):
    "SIGTERM to the command: the kernel saves a checkpoint, the notebook ends normally, the exit code is 0"
    run_dir, out = tmp_path/"run", tmp_path/"out.ipynb"
    job = write(tmp_path/"job.ipynb", f"""
from brainlab.training.callbacks import standard
from brainlab.training.toy import Toy, ToyConfig, ToyLoader
from brainlab.training.trainer import TrainConfig, Trainer
run = Trainer(Toy(ToyConfig()), ToyLoader(4, 8), TrainConfig(steps=10**6, batch=4, length=8, save_every=0, eval_every=0), standard({str(run_dir)!r})).fit()
run.stopping""")
    p = started(["run", job, out], run_dir/"metrics.jsonl")
    p.send_signal(signal.SIGTERM)
    assert p.wait(60) == 0, p.stderr.read()
    assert completed(out) and read_json(run_dir/"status.json")["state"] == "stopped"
    assert latest(run_dir).name == f"step-{read_metrics(run_dir)[-1]['step']:06d}"


# S5: names and values that try to be code

EVIL = [
    '"; import os; os._exit(3) #', "'; import os; os._exit(3) #", '"""; raise SystemExit #', "\\", "\\\\", '\\"', "\\'", "\n", "a\nimport os; os._exit(3)", "\r\nos._exit(3)",
    "{x}", "{pm}", "{0.__class__}", "%s%n", "$(true)", "`true`", "__import__('os')._exit(3)", "f'{1/0}'", "\u2028os._exit(3)", "\t", "\\N{DIGIT ONE}", "\\x41", "\\u0041", "\\101",
    "뇌'); os._exit(3) #", "😀\\", "\\\n", "\\\r", "#", "%reset -f", "!true", "%%bash\ntrue", "?print", "lambda: 0", "[1, 2]", "{'a': 1}", "None", "True", "1e400", "-0",
]


def test_values_stay_values(tmp_path):
    names = [f"v{i}" for i in range(len(EVIL))]
    job = write(tmp_path/"job{x}.ipynb", "import json, sys", f"json.dump([sys.executable, {', '.join(names)}], open({str(tmp_path/'seen.json')!r}, 'w'))",
                parameters="\n".join(f'{n} = ""' for n in names))
    run_notebook(job, tmp_path/"뇌 {pm} out.ipynb", dict(zip(names, EVIL)))
    assert json.loads((tmp_path/"seen.json").read_text()) == [sys.executable, *EVIL]


NAMES = [f"{a}{b}" for a in ("import os; os._exit(3) #", "x = 1; y", "x\n", "x; ", "__import__('os')", "class", "x y", "", "x=", "(x)", "x.y", "x[0]", "*x", "x: int", "ⅹ") for b in ("", "1", " ", "\n")]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_are_code_are_refused(name):
    with pytest.raises(UsageError, match="Unknown parameter"): typed_parameters({name: "1"}, {"x": parameters_of(new_notebook(cells=[new_code_cell("x = 1", metadata={"tags": ["parameters"]})]))["x"]})


def test_undeclared_and_mistyped_values(tmp_path, capsys):
    job = write(tmp_path/"job.ipynb", "1", parameters="steps = 10  # how long\nlr = 1e-3\nname = None")
    out = str(tmp_path/"out.ipynb")
    for args, text in [(["-p", "step", "3"], "did you mean 'steps'"), (["-p", "steps", "3.5"], "expected int such as 10"), (["-p", "lr", "fast"], "expected float"),
                       (["--timeout", "-1"], "seconds above 0"), (["-p", "lr"], "expected 2 arguments")]:
        assert main(["run", str(job), out, *args]) == 2
        err = capsys.readouterr().err
        assert text in err and len(err.splitlines()) == 1
    assert not (tmp_path/"out.ipynb").exists()
