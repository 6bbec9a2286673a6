"README.md is what the index notebook says, and its two commands are there."
from brainlab.cli.docs import read_notebook, readme, rebase


def test_readme_is_current(root):
    assert (root/"README.md").read_text(encoding="utf-8") == readme(read_notebook(root/"nbs"/"index.ipynb")), "run 'brainlab docs readme'"


def test_two_commands(root):
    text = (root/"README.md").read_text(encoding="utf-8")
    assert "pip install uv && uv run brainlab demo\n" in text
    assert "pip install uv && uv run pytest\n" in text
    assert "uv pip install --torch-backend=cpu" in text


def test_readme_links_exist(root):
    import re
    for link in re.findall(r"\]\(([^)#]+)\)", (root/"README.md").read_text(encoding="utf-8")):
        assert re.match(r"https?:", link) or (root/link).exists(), link


def test_first_screen(root):
    "Picture, Korean beside English, and a snippet of at most ten lines"
    nb = read_notebook(root/"nbs"/"index.ipynb")
    first = "".join(nb["cells"][0]["source"])
    assert "images/" in first and "한국어" in first
    shown = [c for c in nb["cells"] if c["cell_type"] == "code" and not "".join(c["source"]).startswith("#| hide")]
    assert sum(len("".join(c["source"]).splitlines()) for c in shown) <= 10


def test_rebase_leaves_the_web_alone(): assert rebase("[a](https://x.org/y) ![b](i/c.svg)") == "[a](https://x.org/y) ![b](nbs/i/c.svg)"
