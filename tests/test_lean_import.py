"""The model rooms run on a bare GPU box: torch, numpy and fastcore, with what those three bring, and nothing else.

The environment is a virtual one made by `venv` whose site-packages holds links to exactly the distributions in the closure
of those three requirements (from their own metadata, environment markers applied) and to `brainlab` itself. Nothing of the
environment that runs the tests is reachable from it, as the first test proves. Links rather than an installation: nothing is
downloaded, and the 6 GB of torch are not copied."""
import os
import subprocess
import textwrap
import venv
from importlib import metadata

import pytest
from conftest import ROOT

LEAN = ("torch", "numpy", "fastcore")
ROOMS = ("core", "kernels", "layers", "memory", "plasticity", "models", "decoding")


def closure(names) -> dict:
    "Distributions that `names` require here, by name"
    from packaging.requirements import Requirement
    found, todo = {}, [Requirement(n) for n in names]
    while todo:
        r = todo.pop()
        if r.marker and not any(r.marker.evaluate({"extra": e}) for e in ("", *r.extras)): continue
        try: d = metadata.distribution(r.name)
        except metadata.PackageNotFoundError: continue
        extras = found.setdefault(d.name, (d, set()))[1]
        if d.name in found and extras >= {"", *r.extras}: continue
        extras |= {"", *r.extras}
        for s in d.requires or []:
            q = Requirement(s)
            if q.marker is None or any(q.marker.evaluate({"extra": e}) for e in extras): q.marker = None; todo.append(q)
    return {n: d for n, (d, _) in found.items()}


def top_level(dist) -> set:
    "Names that a distribution puts into site-packages"
    parts = {f.parts[0] for f in dist.files or [] if len(f.parts) > 1 or f.suffix in (".py", ".so", ".pth")}
    return {p for p in parts if p not in ("..", "__pycache__", "bin") and not p.endswith(".pth")}


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    "Python of an environment with the lean closure"
    home = tmp_path_factory.mktemp("lean")
    venv.create(home, with_pip=False, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    for d in closure(LEAN).values():
        for n in top_level(d):
            src = d.locate_file(n)
            if os.path.exists(src) and not (site/n).exists(): (site/n).symlink_to(src)
    (site/"brainlab").symlink_to(ROOT/"brainlab")
    return home/"bin"/"python"


def run(python, code):
    "Run `code` in the lean environment, away from the checkout"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "BRAINLAB"))} | dict(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    r = subprocess.run([python, "-c", textwrap.dedent(code)], cwd=python.parent, env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout


@pytest.mark.parametrize("name", ["plotly", "tokenizers", "safetensors", "papermill", "IPython", "ipywidgets", "datasets", "tqdm", "faiss"])
def test_it_is_really_bare(lean, name):
    "The control: what must not be needed cannot be imported"
    assert run(lean, f"from importlib.util import find_spec; print(find_spec({name!r}))").strip() == "None"


def test_torch_is_the_only_heavy_thing(lean): assert run(lean, "import torch, numpy, fastcore; print(torch.ones(2).sum().item())").strip() == "2.0"


def test_every_model_room_imports(lean):
    done = run(lean, f"""
        import importlib, pkgutil
        import brainlab
        for room in {ROOMS!r}:
            try: top = importlib.import_module("brainlab." + room)
            except ModuleNotFoundError as e:
                if e.name != "brainlab." + room: raise
                continue
            for m in pkgutil.iter_modules(top.__path__):
                importlib.import_module(f"brainlab.{{room}}.{{m.name}}")
                print(room, m.name)
    """)
    assert {"core", "layers", "models", "decoding"} <= {line.split()[0] for line in done.splitlines()}


def test_build_forward_generate(lean):
    said = run(lean, """
        import brainlab, torch
        from brainlab.core.probe import record
        from brainlab.core.cost import cost
        from brainlab.decoding.generate import generate
        for name in brainlab.models.names():
            model = brainlab.build(name, preset="tiny").eval()
            tokens = torch.randint(model.config.vocab_size, (2, 9))
            with torch.no_grad(): logits = model(tokens).logits
            assert logits.shape == (2, 9, model.config.vocab_size) and logits.isfinite().all()
            assert cost(model, tokens).macs_per_token > 0
            new = torch.as_tensor(generate(model, tokens[:1], max_new_tokens=4, temperature=0.))
            assert new.numel() >= 4
            loss = model.loss(tokens[:, :-1], tokens[:, 1:]).total
            loss.backward()
            print(name, float(loss.detach()))
    """)
    assert {"gpt", "braingpt"} <= {line.split()[0] for line in said.splitlines()}


def test_command_line_starts_bare(lean):
    "`brainlab --help` needs neither torch nor anything else"
    said = run(lean, """
        import sys
        from brainlab.cli.main import main
        assert main([]) == 0
        heavy = [m for m in ("torch", "numpy", "plotly", "papermill", "nbdev", "tokenizers") if m in sys.modules]
        assert not heavy, heavy
    """)
    assert "brainlab" in said
