"S6: the notebook server as brainlab starts it lets nobody in without its token, and nobody at all from elsewhere."
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOKEN = "a-token-that-must-not-be-logged-0123456789"


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    "A running server: port and log file"
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    home = tmp_path_factory.mktemp("lab")
    (home/"config").mkdir()  # a user who once switched the token off, and let everybody in
    loose = {"IdentityProvider": {"token": ""}, "ServerApp": {"token": "", "password": "", "ip": "0.0.0.0", "allow_origin_pat": ".*", "allow_remote_access": True, "disable_check_xsrf": True}}
    for name in ("jupyter_server_config", "jupyter_lab_config", "jupyter_config"): (home/"config"/f"{name}.json").write_text(json.dumps(loose))
    env = os.environ | dict(JUPYTER_TOKEN=TOKEN, JUPYTER_RUNTIME_DIR=str(home/"run"), JUPYTER_CONFIG_DIR=str(home/"config"), JUPYTER_DATA_DIR=str(home/"data"))
    with open(home/"log", "w") as out:
        p = subprocess.Popen([sys.executable, "-c", "import sys; from brainlab.cli.main import main; sys.exit(main())", "lab", "nbs/index.ipynb", "--no-browser", "--port", str(port)],
                             cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            if p.poll() is not None: pytest.fail((home/"log").read_text()[-2000:])
            try:
                if ask(port, "/api/status", token=TOKEN)[0] == 200: break
            except OSError: time.sleep(.1)
        else: pytest.fail("the server did not start")
        yield port, home/"log"
    finally:
        os.killpg(p.pid, signal.SIGTERM)
        try: p.wait(20)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)


def ask(port, path, method="GET", token=None, host="127.0.0.1", **headers):
    "Status and body of one request"
    c = http.client.HTTPConnection(host, port, timeout=20)
    if token: headers["Authorization"] = f"token {token}"
    c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    r = c.getresponse()
    return r.status, r.read()


PATHS = ["/api/contents", "/api/kernels", "/api/sessions", "/api/terminals", "/files/pyproject.toml", "/api/contents/nbs/index.ipynb"]


@pytest.mark.parametrize("path", PATHS)
def test_no_token_no_answer(lab, path):
    status, _ = ask(lab[0], path)
    assert status in (401, 403) or (status == 302 and path.startswith("/files"))  # pages are sent to the login form


@pytest.mark.parametrize("path", PATHS[:2])
def test_wrong_token(lab, path): assert ask(lab[0], path, token="wrong")[0] in (401, 403)


def test_right_token(lab): assert ask(lab[0], "/api/contents", token=TOKEN)[0] == 200


def test_foreign_host(lab): assert ask(lab[0], "/api/contents", token=TOKEN, Host="evil.example")[0] == 403


@pytest.fixture(scope="module")
def cookie(lab):
    "The session of a browser that came in with the token; requests that carry the token itself are not a browser's"
    c = http.client.HTTPConnection("127.0.0.1", lab[0], timeout=20)
    c.request("GET", f"/lab?token={TOKEN}")
    r = c.getresponse()
    r.read()
    return "; ".join(v.split(";")[0] for k, v in r.getheaders() if k == "Set-Cookie")


EVIL = "http://evil.example"
SOCKET = dict(Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", Sec_WebSocket_Version="13")


def test_the_session_works(lab, cookie):
    "The control: the same requests are answered when they come from our own pages"
    assert ask(lab[0], "/api/contents", Cookie=cookie)[0] == 200
    assert ask(lab[0], "/api/events/subscribe", Cookie=cookie, Origin=f"http://127.0.0.1:{lab[0]}", **SOCKET)[0] == 101


def test_foreign_origin_may_not_start_a_kernel(lab, cookie):
    assert ask(lab[0], "/api/kernels", "POST", Cookie=cookie, Origin=EVIL)[0] in (401, 403, 404)  # 404: the server hides what it refuses
    status, body = ask(lab[0], "/api/kernels", token=TOKEN)
    assert (status, body.strip()) == (200, b"[]"), "a kernel was started"


def test_foreign_origin_may_not_read(lab, cookie):
    c = http.client.HTTPConnection("127.0.0.1", lab[0], timeout=20)
    c.request("GET", "/api/contents", headers=dict(Origin=EVIL, Cookie=cookie))
    r = c.getresponse()
    assert r.status in (401, 403, 404) or r.getheader("Access-Control-Allow-Origin") in (None, "")


def test_foreign_origin_websocket(lab, cookie): assert ask(lab[0], "/api/events/subscribe", Cookie=cookie, Origin=EVIL, **SOCKET)[0] in (401, 403)


def test_loopback_only(lab):
    "No other address of this machine answers"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try: s.connect(("192.0.2.1", 9)); mine = s.getsockname()[0]
        except OSError: mine = None
    if mine is None or mine.startswith("127."): mine = "127.0.0.2"  # loopback as well, but not the bound address
    with pytest.raises(OSError): socket.create_connection((mine, lab[0]), timeout=5)


def test_token_is_not_logged(lab):
    text = lab[1].read_text()
    assert "127.0.0.1" in text and TOKEN not in text


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_token_is_on_no_command_line(lab):
    "Every user of the machine can read the command lines of all processes"
    seen = b""
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try: seen += p.read_bytes()
        except OSError: pass  # it has ended
    assert f"--ServerApp.port={lab[0]}".encode() in seen and TOKEN.encode() not in seen


def test_port_taken(lab, root, capsys):
    from brainlab.cli.main import main
    assert main(["lab", "--no-browser", "--port", str(lab[0])]) == 1
    assert "choose another with --port" in capsys.readouterr().err
