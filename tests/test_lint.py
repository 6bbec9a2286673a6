"Ruff finds nothing in the package and the tests."
import subprocess
import sys


def test_ruff(root):
    r = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "brainlab", "tests"], cwd=root, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout[-4000:] + r.stderr[-1000:]


def test_ruff_would_notice(root, tmp_path):
    "The control: a file with a fault is refused under the same settings"
    bad = tmp_path/"bad.py"
    bad.write_text("import os\n")
    r = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(root/"pyproject.toml"), str(bad)], capture_output=True, text=True, timeout=120)
    assert r.returncode == 1 and "F401" in r.stdout
