"The package is what the notebooks say: exporting them again changes nothing."
import os
import shutil
import subprocess
import sys


def modules(folder) -> dict:
    "Every exported file and its text; nbdev's index is not kept in git"
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*.py") if p.name != "_modidx.py"}


def export(root, tmp_path):
    "A copy of the checkout, exported afresh"
    copy = tmp_path/root.name
    for name in ("nbs", "brainlab"): shutil.copytree(root/name, copy/name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "_quarto.yml"): shutil.copy(root/name, copy/name)
    r = subprocess.run([sys.executable, "-c", "from nbdev.export import nb_export; from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()"],
                       cwd=copy, env=os.environ | dict(PYTHONPATH=str(copy)), capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-2000:]
    return copy


def test_export_leaves_no_diff(root, tmp_path):
    copy = export(root, tmp_path)
    was, now = modules(root/"brainlab"), modules(copy/"brainlab")
    changed = sorted(n for n in was | now if was.get(n) != now.get(n))
    assert not changed, f"run nbdev-export: {changed}"


def test_no_orphan_modules(root):
    "Every module names a notebook that exists"
    for p in (root/"brainlab").rglob("*.py"):
        head = p.read_text(encoding="utf-8")[:2000]
        if "File to edit:" not in head: assert p.name in ("__init__.py", "_modidx.py"), f"{p} was written by hand"
        else:
            nb = (p.parent/head.split("File to edit: ")[1].split()[0].rstrip(".")).resolve()
            assert nb.is_file(), f"{p} comes from {nb}, which is gone"


def test_nbdev_leaves_site_files_alone(root, tmp_path):
    "`nbdev-docs` begins by refreshing nbdev.yml: it must already be what nbdev writes"
    copy = export(root, tmp_path)
    before = (copy/"nbs"/"nbdev.yml").read_text(encoding="utf-8")
    r = subprocess.run([sys.executable, "-c", "from nbdev.quarto import refresh_quarto_yml, nbdev_sidebar; refresh_quarto_yml(); nbdev_sidebar.__wrapped__()"],
                       cwd=copy, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stderr[-2000:]
    assert (copy/"nbs"/"nbdev.yml").read_text(encoding="utf-8") == before == (root/"nbs"/"nbdev.yml").read_text(encoding="utf-8")
    assert (copy/"nbs"/"sidebar.yml").read_text(encoding="utf-8") == (root/"nbs"/"sidebar.yml").read_text(encoding="utf-8")
