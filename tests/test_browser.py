"The views in a real browser: JupyterLab, a kernel and Chromium; a control changes the figure, and the figure follows a run's files."
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (it drives the browser)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None: pytest.skip("no Chromium on the PATH (apt-get install chromium)", allow_module_level=True)

TOKEN = "browser-test-token"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
         "--disable-dev-shm-usage"]
CELLS = ['from brainlab.views.training import TrainingView\nTrainingView("runs")',
         'from brainlab.views.activation import ActivationView\nActivationView("runs/ko-tiny")',
         'from brainlab.views.depth import DepthView\nDepthView("runs/ko-tiny")']
PLOTS = "[...document.querySelectorAll('.jp-OutputArea-output .js-plotly-plot')].filter(p => p._fullLayout)"


def rows(first, last):
    "Lines of metrics.jsonl"
    return "".join(json.dumps(dict(step=i, loss=2 + 5/i, tokens_per_second=9000.)) + "\n" for i in range(first, last+1))


def write_run(folder):
    "A run as training leaves it: metrics, status and two recordings of a Korean and English text"
    import torch
    from brainlab.core.probe import Recording
    folder.mkdir(parents=True)
    (folder/"metrics.jsonl").write_text(rows(1, 40))
    (folder/"status.json").write_text(json.dumps(dict(state="running", pid=os.getpid(), heartbeat=time.time(), step=40, steps=90)))
    labels = ["뇌는", " 깨어", " 있다", ".", " The", " brain"]
    for step in (10, 20):
        gates = {f"blocks.{i}.columns.gate": [torch.eye(8)[[(step + i + t) % 8 for t in range(6)]][None]] for i in range(2)}
        exits = {"exits.confidence": [torch.tensor([[[.2, .9], [.95, .9], [.1, .3], [.8, .9], [.5, .99], [.99, 1.]]])]}
        Recording(gates | exits, {"step": step, "labels": labels, "n_layer": 3}).save(folder/f"recordings/step-{step:06d}.safetensors")


def write_notebook(path):
    "A notebook with one view in each cell"
    cells = [dict(cell_type="code", id=f"view{i}", metadata={}, source=s, execution_count=None, outputs=[]) for i, s in enumerate(CELLS)]
    kernel = dict(name="python3", display_name="Python 3", language="python")
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))


def wait_for_server(process, port, log):
    "Until the server answers"
    ask = urllib.request.Request(f"http://127.0.0.1:{port}/api/status", headers={"Authorization": f"token {TOKEN}"})
    for _ in range(600):
        if process.poll() is not None: pytest.fail(log.read_text()[-2000:])
        try: return urllib.request.urlopen(ask, timeout=5).close()
        except (urllib.error.URLError, OSError): time.sleep(.1)
    pytest.fail("JupyterLab did not start within a minute")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    "A folder of its own, with a run and a notebook"
    folder = tmp_path_factory.mktemp("browser")
    write_run(folder/"work/runs/ko-tiny")
    write_notebook(folder/"work/views.ipynb")
    return folder


@pytest.fixture(scope="module")
def address(work):
    "A running JupyterLab that knows nothing of the user's settings"
    from brainlab.cli.lab import command, environment, free_port
    port, log = free_port(), work/"log"
    folders = dict(JUPYTER_CONFIG_DIR="config", JUPYTER_DATA_DIR="data", JUPYTER_RUNTIME_DIR="runtime", IPYTHONDIR="ipython", JUPYTERLAB_SETTINGS_DIR="settings")
    own = {k: str(work/v) for k, v in folders.items()}
    with open(log, "w") as out:
        p = subprocess.Popen([*command(work/"work", "views.ipynb", port, browser=False), "--LabApp.expose_app_in_browser=True"], cwd=work/"work",
                             env=environment(TOKEN) | own, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for_server(p, port, log)
        yield f"http://127.0.0.1:{port}/lab/tree/views.ipynb?token={TOKEN}"
    finally:
        os.killpg(p.pid, signal.SIGTERM)
        try: p.wait(20)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def page(address, work):
    "The notebook after `run all`, with its three views on screen"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            page = browser.new_page(viewport=dict(width=1200, height=3000))  # tall: cells out of sight are not rendered
            page.set_default_timeout(40_000)
            page.goto(address)
            page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
            page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")  # awaited, it would hang until all cells are done
            page.wait_for_function(f"{PLOTS}.length === 5")  # one, two and two panels
            if shot := os.environ.get("BRAINLAB_SHOT"): page.wait_for_timeout(1500); page.screenshot(path=shot)
            yield page
        finally: browser.close()


def axis(page, plot, what): return page.evaluate(f"{PLOTS}[{plot}]._fullLayout.{what}")


def test_the_views_are_rendered(page):
    assert page.evaluate(f"{PLOTS}.map(p => p.querySelectorAll('.main-svg').length > 0)") == [True]*5
    assert axis(page, 0, "xaxis.visible") and axis(page, 1, "yaxis.visible")  # the axes the empty first state had hidden
    assert "running, step 40 of 90" in page.locator("[role=status]").first.inner_text()


def test_the_figures_fill_the_page(page):
    wide = f"{PLOTS}.map(p => [p._fullLayout.width, p.closest('.jp-OutputArea-output').clientWidth]).every(([w, room]) => .93 * room < w && w <= room)"
    try: page.wait_for_function(wide, timeout=20_000)  # a figure is resized after it has been attached
    except Exception: raise AssertionError(page.evaluate(f"{PLOTS}.map(p => [p._fullLayout.width, p.closest('.jp-OutputArea-output').clientWidth])")) from None


def test_the_sentence_stands_above_the_figure(page):
    said, drawn = page.locator("[role=status]").first.bounding_box(), page.evaluate(f"{PLOTS}[0].getBoundingClientRect().top")
    assert said["y"] + said["height"] <= drawn


def test_korean_labels_are_whole(page):
    ticks = page.evaluate(f"[...{PLOTS}[1].querySelectorAll('.xtick text')].map(t => t.textContent)")
    assert ticks == ["뇌는", "·깨어", "·있다", ".", "·The", "·brain"]


def test_the_log_axis_box_changes_the_figure(page):
    assert axis(page, 0, "yaxis.type") == "linear"
    page.get_by_label("log axis").check()
    page.wait_for_function(f"{PLOTS}[0]._fullLayout.yaxis.type === 'log'")


def test_the_layer_menu_changes_the_figure(page):
    before = page.evaluate(f"Array.from({PLOTS}[1]._fullData[0].z[0])")
    page.get_by_label("layer", exact=True).select_option("layer 2")
    page.wait_for_function(f"{PLOTS}[1]._fullLayout.title.text.includes('layer 2')")
    assert page.evaluate(f"Array.from({PLOTS}[1]._fullData[0].z[0])") != before


def test_the_figure_follows_the_file(page, work):
    with open(work/"work/runs/ko-tiny/metrics.jsonl", "a") as f: f.write(rows(41, 90))
    page.wait_for_function(f"Math.max(...{PLOTS}[0]._fullData[0].x) === 90")


def test_nothing_is_asked(page):
    "JupyterLab's question about news from the network stays away"
    assert page.locator(".Toastify__toast").all_inner_texts() == []
