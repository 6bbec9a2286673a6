"What must never stand in a tracked file, and what every notebook and module must have."
import ast
import json
import re
import subprocess

import pytest
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT/"brainlab").rglob("*.py") if p.name != "_modidx.py")
TESTS = sorted((ROOT/"tests").rglob("*.py"))


def name(p): return p.relative_to(ROOT).as_posix()
def cells(p): return json.loads(p.read_text(encoding="utf-8"))["cells"]
def code(c): return "".join(c["source"])


def tree(text):
    "Parse a cell or a module; IPython lines are dropped"
    return ast.parse("\n".join(line for line in text.splitlines() if not re.match(r"\s*[%!]", line)))


# S2: calls that run or load what they are given

def dotted(node) -> str:
    "`a.b.c` of a call's function"
    parts = []
    while isinstance(node, ast.Attribute): parts.append(node.attr); node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "?", *reversed(parts)])


def dangerous(text) -> list:
    "Calls in `text` that execute or unpickle their input"
    bad = []
    for n in ast.walk(tree(text)):
        if not isinstance(n, ast.Call): continue
        f, given = dotted(n.func), {k.arg: k.value for k in n.keywords}
        true = lambda k, given=given: k in given and not (isinstance(given[k], ast.Constant) and not given[k].value)
        if re.search(r"(^|\.)c?[pP]ickle\.(load|loads|Unpickler)$|^dill\.|^joblib\.load$|^marshal\.loads?$|^shelve\.", f): bad.append(f)
        if f in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"): bad.append(f)
        if f == "torch.load" and not (isinstance(w := given.get("weights_only"), ast.Constant) and w.value is True): bad.append(f)
        if f in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"): bad.append(f)
        bad += [f"{f}({k}=...)" for k in ("allow_pickle", "trust_remote_code", "shell") if true(k)]
    return bad


@pytest.mark.parametrize("text", ["import pickle\npickle.load(f)", "pickle.loads(b)", "torch.load(p)", "torch.load(p, weights_only=False)", "torch.load(p, weights_only=w)",
                                  "yaml.load(s)", "np.load(p, allow_pickle=True)", "datasets.load_dataset('x', trust_remote_code=True)", "eval('1')", "exec(s)",
                                  "subprocess.run('ls', shell=True)", "os.system('ls')", "np.load(p, allow_pickle=flag)"])
def test_the_lint_notices(text): assert dangerous(text)


def test_the_lint_lets_pass(): assert not dangerous("torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nmodel.eval()\nbuild('x').eval()\nyaml.safe_load(s)\nre.compile('x')")


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name)
def test_no_dangerous_call_in_python(path): assert dangerous(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_dangerous_call_in_notebook(path):
    assert [d for c in cells(path) if c["cell_type"] == "code" and not code(c).startswith("%%") for d in dangerous(code(c))] == []


# Notebooks

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "saved widget state"
    assert set(nb["metadata"]) <= {"kernelspec", "language_info", "papermill"} and nb["metadata"]["kernelspec"]["name"] == "python3"
    ids = [c["id"] for c in nb["cells"]]
    assert len(set(ids)) == len(ids), "cell ids repeat"
    for c in nb["cells"]:
        assert set(c["metadata"]) <= {"tags"}, f"cell {c['id']}: metadata {sorted(c['metadata'])}"
        assert code(c).strip(), f"cell {c['id']} is empty"
        if c["cell_type"] == "code":
            assert c["execution_count"] is None
            assert all(o.get("execution_count") is None for o in c["outputs"])
            assert len(json.dumps(c["outputs"])) < 300_000
    assert "widget-state+json" not in path.read_text(encoding="utf-8")


def test_papermill_parameters_keep_their_tag():
    for p in NOTEBOOKS:
        if p.parent.name in ("runs", "evidence"):
            tagged = [c for c in cells(p) if "parameters" in c["metadata"].get("tags", [])]
            assert len(tagged) == 1, f"{name(p)} has {len(tagged)} cells tagged 'parameters'"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_title_and_subtitle(path): assert re.match(r"# \S.*\n+> \S", code(cells(path)[0])), "the first cell needs '# Title' and '> subtitle'"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_imports_have_cells_of_their_own(path):
    "nbdev runs every cell that holds an import, hidden ones too, when it builds the pages; code beside it would run there without its state"
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    for c in cells(path):
        if c["cell_type"] != "code" or code(c).startswith("%%") or re.search(r"^#\|\s*(export|eval: false)", code(c), re.M): continue
        body = tree(code(c)).body
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for o in body for n in ast.walk(o)):
            assert all(isinstance(n, harmless) for n in body), f"cell {c['id']} mixes an import with code that runs:\n{code(c)[:300]}"


# Modules

def public(path):
    "Public functions and classes of a module"
    for n in tree(path.read_text(encoding="utf-8")).body:
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not n.name.startswith("_"):
            yield n


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_names_have_docstrings(path):
    missing = [n.name for n in public(path) if not ast.get_docstring(n)]
    assert not missing, f"no docstring: {missing}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_stay_small(path):
    lines = [o for o in path.read_text(encoding="utf-8").splitlines() if o.strip() and not o.lstrip().startswith("#")]
    assert len(lines) < 400


def test_no_import_points_upwards():
    "Rooms depend one way; what a lower room needs from a higher one it is handed"
    order = dict(core=0, text=1, kernels=1, layers=2, memory=3, plasticity=3, spiking=3, models=4, decoding=5, training=6, views=7, bench=7, cli=8)
    known = {"brainlab/core/model.py imports decoding", "brainlab/core/model.py imports text"}  # `model.generate` and the tokenizer beside the weights, which load the room when they are called
    up = set()
    for p in MODULES:
        room = p.parent.name
        if room not in order: continue
        for m in re.findall(r"^\s*(?:from|import) (?:\.\.|brainlab\.)(\w+)", p.read_text(encoding="utf-8"), re.M):
            if m in order and order[m] > order[room]: up.add(f"{name(p)} imports {m}")
    assert up <= known, up - known


# Tracked files

def tracked() -> list:
    "Text files that git tracks or would track"
    r = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    found = [ROOT/f for f in r.stdout.splitlines()] if r.returncode == 0 else [*NOTEBOOKS, *MODULES, *TESTS]
    return [p for p in found if p.is_file() and b"\0" not in p.read_bytes()[:4096]]


def test_no_machine_path_nor_registry_host():
    hosts = "|".join(a + r"\." + b for a, b in (("pypi", "org"), ("pythonhosted", "org"), ("registry", r"npmjs\.org"), ("deb", r"debian\.org")))
    paths = r"(^|[^A-Za-z0-9_.~])/(" + "|".join(("work", "farm", "home/[a-z]+", "Users/[a-z]+", "tmp/[a-z]", "root")) + ")/"
    bad = [f"{name(p)}: {m[0]}" for p in tracked() for m in re.finditer(f"{hosts}|{paths}", p.read_text(encoding="utf-8"), re.M)]
    assert not bad, bad


def test_nothing_large_is_tracked():
    larger = {"brainlab/text/tokenizer.json": 600_000}  # the trained tokenizer, which has to be in the package
    big = [f"{name(p)}: {p.stat().st_size} bytes" for p in tracked() if p.stat().st_size > larger.get(name(p), 400_000)]
    assert not big, big


def test_lock_file_and_runs_are_not_tracked():
    r = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for f in r.stdout.splitlines():
        assert f != "uv.lock" and not f.startswith(("_docs/", "_proc/"))
        assert not f.startswith(("checkpoints/", "data/prepared/")) or f.endswith(".gitkeep")


def test_site_config_is_one_file():
    link = ROOT/"nbs"/"_quarto.yml"
    assert link.is_symlink() and link.resolve() == ROOT/"_quarto.yml"
