"Every page of the site, processed as nbdev does, holds together; and the check notices when one does not."
import json
import shutil

import pytest

from brainlab.cli import docs


here = [] # what lay in the checkout before and after


@pytest.fixture(scope="module")
def processed(root, tmp_path_factory):
    "The pages, processed once in a copy of the checkout"
    here.append((root/"_proc").exists())
    found = docs.process(root, tmp_path_factory.mktemp("site"))
    here.append((root/"_proc").exists())
    return found


def test_sources(root): assert docs.check_sources(root) == []


def test_pages(root, processed):
    assert len(list(processed.rglob("*.ipynb"))) == len(docs.pages(root))
    assert docs.check_pages(processed, docs.site_url(root)) == []


def test_processing_writes_nothing_here(root, processed):
    assert here[0] == here[1] and root not in processed.parents


def test_pages_have_title_and_description(processed):
    for p in processed.rglob("*.ipynb"):
        first = "".join(docs.read_notebook(p)["cells"][0]["source"])
        assert first.startswith("---") and "title:" in first and "description:" in first, p.name


def test_public_names_are_on_their_pages(processed):
    "nbdev's show_doc really ran: an exported function appears with its signature"
    text = docs.page_text(docs.read_notebook(processed/"core"/"errors.ipynb"))
    assert "unknown" in text and "BrainlabError" in text


@pytest.fixture
def small(root, tmp_path):
    "A site of three pages that can be spoilt"
    (tmp_path/"nbs"/"core").mkdir(parents=True)
    for name in ("index.ipynb", "core/errors.ipynb"): shutil.copy(root/"nbs"/name, tmp_path/"nbs"/name)
    (tmp_path/"nbs"/"sidebar.yml").write_text(docs.sidebar(["index.ipynb", "core/errors.ipynb"]), encoding="utf-8")
    (tmp_path/"README.md").write_text(docs.readme(docs.read_notebook(tmp_path/"nbs"/"index.ipynb")), encoding="utf-8")
    assert docs.check_sources(tmp_path) == []
    return tmp_path


def spoil(path, f):
    "Change a notebook's cells"
    nb = json.loads(path.read_text(encoding="utf-8"))
    f(nb["cells"])
    path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")


def test_missing_from_sidebar(small):
    shutil.copy(small/"nbs"/"core"/"errors.ipynb", small/"nbs"/"core"/"new.ipynb")
    assert ["missing from the sidebar" in b for b in docs.check_sources(small)] == [True]


def test_sidebar_entry_without_page(small):
    (small/"nbs"/"core"/"errors.ipynb").unlink()
    assert ["which does not exist" in b for b in docs.check_sources(small)] == [True]


@pytest.mark.parametrize("source, said", [("## Not an H1", "H1 title"), ("# Title\n\nno subtitle", "subtitle")])
def test_missing_title(small, source, said):
    spoil(small/"nbs"/"core"/"errors.ipynb", lambda cells: cells[0].update(source=source))
    assert [said in b for b in docs.check_sources(small)] == [True]


def test_stale_readme(small):
    spoil(small/"nbs"/"index.ipynb", lambda cells: cells.append(dict(cell_type="markdown", source="new", metadata={}, id="x")))
    assert ["docs readme" in b for b in docs.check_sources(small)] == [True]


def test_script_in_output(small):
    out = [dict(output_type="display_data", metadata={}, data={"text/html": ["<b>hi</b>", "<script>alert(1)</script>"]})]
    spoil(small/"nbs"/"core"/"errors.ipynb", lambda cells: cells.append(dict(cell_type="code", source="1", outputs=out, metadata={}, id="x", execution_count=None)))
    assert any("<script" in b for b in docs.check_sources(small))


def test_not_a_notebook(small):
    from brainlab.core.errors import BrainlabError
    (small/"nbs"/"core"/"errors.ipynb").write_text("[]")
    with pytest.raises(BrainlabError, match="is not a notebook"): docs.check_sources(small)
