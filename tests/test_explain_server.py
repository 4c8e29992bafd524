"""The server of the live page, spoken to over HTTP: its answers, who is let in, and what it survives."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import numpy as np
import pytest

from numpy_gpt2 import forward, load
from numpy_gpt2.explain import __main__ as command
from numpy_gpt2.explain import analysis, answers, explain, server
from numpy_gpt2.explain.page import asset, encoded, page_arrays, page_data
from numpy_gpt2.explain.server import Server

from .browser import KINDS
from .conftest import run_in_process, write_model
from .live_server import running

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny)


@pytest.fixture(scope="module")
def live(model):
    with running(model, "float32", "the you", 16) as served:
        yield served


def send(live, method="POST", name="", body=b"", headers=JSON, path=None):
    """Status, headers and body of the answer. `headers` replace the usual ones."""
    with closing(HTTPConnection(live.host, timeout=30)) as connection:
        connection.request(method, live.folder + name if path is None else path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def ask(live, name="explain", **content):
    """The JSON objects of the answer to a request that succeeds."""
    request = {"model": live.models.first.tokenizer.name, "prompt": "the you the", **content}
    status, _, body = send(live, name=name, body=json.dumps(request))
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


def refused(live, *mentioned, **request):
    """The status of the answer to a request that fails. Its body is one JSON object with an error."""
    status, _, body = send(live, **request)
    error = json.loads(body)["error"]
    assert "\n" not in error
    assert all(words in error for words in mentioned), error
    return status


def still_answers(live):
    return ask(live, "tokens")[0]["n_prompt"] > 0


def test_answer_holds_what_the_static_page_holds(live, model):
    first, *others = ask(live)
    e = explain("the you the", model)
    arrays = page_arrays(e)
    data = json.loads(json.dumps(page_data(e, arrays, asset("gradients.html") + asset("second.html"))))
    pieces = {**first["pieces"], **{token: text for part in others for token, text in part["pieces"].items()}}
    assert {**first, "pieces": pieces} == {
        **data,
        "arrays": first["arrays"],
        "typed": "the you the",
        "n_prompt": len(e.tokens),
        "refused": [],
        "unused": [],
    }
    found = {name: array for part in (first, *others) for name, array in part["arrays"].items()}
    rest = found.pop("next.rest")
    assert found == {name: encoded(array) for name, array in arrays.items()}
    assert rest["axes"] == str(max(0, model.config.vocab_size - 200))
    assert [*others[0]["arrays"]] == ["lens.tokens", "lens.probabilities", "lens.target"]


def test_taken_tokens_follow_the_prompt_as_they_are(live, model):
    """Encoded again, the text could have other tokens."""
    taken = [model.tokenizer.encode_single_token(letter) for letter in " a"]
    assert model.tokenizer.encode_ordinary(" a") != taken
    first, *_ = ask(live, prompt="the", taken=taken, target=7)
    tokens = [*model.tokenizer.encode_ordinary("the"), *taken]
    assert (first["tokens"], first["typed"], first["target"]) == (tokens, "the a", [7])
    kind, numbers = (first["arrays"]["next.logits"][key] for key in ("kind", "numbers"))
    logits = np.frombuffer(base64.b64decode(numbers), KINDS[kind])
    expected = np.sort(forward(tokens, model.weights, model.config)[-1])[::-1]
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    assert [(piece["text"], piece["start"]) for piece in first["merges"]][1:] == [("·", 1), ("a", 2)]
    first, *_ = ask(live, prompt="", taken=taken * 20)
    assert (len(first["tokens"]), first["n_prompt"]) == (16, 41)


def test_tokens_are_those_of_the_tokenizer(live, model):
    (answer,) = ask(live, "tokens", prompt="the you é" * 9)
    ids = model.tokenizer.encode_ordinary("the you é" * 9)
    assert (answer["tokens"], answer["n_prompt"]) == (ids[-16:], len(ids))
    assert answer["pieces"][str(ids[-1])] == "é"


def test_page_has_the_policy_of_the_static_page_and_may_ask_its_server(live):
    status, headers, page = send(live, "GET", headers={})
    assert status == 200
    hashes = r"style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='"
    assert re.search(f"content=\"default-src 'none'; {hashes}; img-src data:; connect-src 'self'\"", page)
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert live.folder.strip("/") not in page


def test_static_page_has_no_trace_of_the_server(example):
    page = example.page()
    for word in ("fetch(", "connect-src", "textarea", "--serve", "AbortController", "__"):
        assert word not in re.sub(r"<script id=.*?</script>", "", page, flags=re.DOTALL), word


def test_nothing_is_answered_without_the_secret(live):
    secret = live.folder.strip("/")
    assert len(secret) >= 43
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    paths = ["/", "/explain", "/tokens", f"/{secret}", f"/{wrong}/", f"/{wrong}/explain", f"/{secret.swapcase()}/"]
    paths += [f"/x{live.folder}", f"/?{secret}", f"http://{live.host}/", "*"]
    for path in paths:
        for method in ("GET", "POST"):
            assert refused(live, method=method, path=path, body=b"{}") == 403
    with Server(live.models.first, "float32", "", 16) as other:
        assert other.folder != live.folder


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:{port}", "127.0.0.1:{port}.evil.example", ""])
def test_other_hosts_are_refused(host, live):
    """DNS rebinding: the attacker's name resolves to 127.0.0.1, but the Host is the name."""
    host = host.format(port=live.server_address[1])
    assert refused(live, "Host", method="GET", headers={"Host": host}) == 403
    assert refused(live, "Host", name="tokens", headers={**JSON, "Host": host}, body=b"{}") == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://{host}", "http://localhost:1", "{host}"])
def test_other_origins_are_refused(origin, live):
    for method in ("GET", "POST"):
        headers = {**JSON, "Origin": origin.format(host=live.host)}
        assert refused(live, "Origin", method=method, name="", headers=headers) == 403
    own = {**JSON, "Origin": f"http://{live.host}"}
    assert send(live, "GET", headers=own)[0] == 200


def test_form_of_another_site_is_refused(live):
    """A form cannot send JSON's content type. A script must ask for it with OPTIONS, which nothing here allows."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        request = {"name": "explain", "body": b"{}", "headers": {"Content-Type": kind}}
        assert refused(live, "application/json", **request) == 415
    status, headers, _ = send(live, "OPTIONS", headers={"Origin": "http://evil.example"})
    assert status == 501
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["../../pyproject.toml", "page.html", "%2e%2e/", "/etc/passwd", "explain/", "?x", "\0", "é"]
)
def test_no_path_opens_a_file(path, live, monkeypatch):
    monkeypatch.setattr("builtins.open", None)
    with socket.create_connection(live.server_address, 30) as client:
        client.sendall(f"GET {live.folder}{path} HTTP/1.1\r\nHost: {live.host}\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.0 40[04] ", client.recv(1 << 16))


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (b"{}", 400, "model is None; it must be the name of a model"),
        ({"prompt": 5}, 400, "prompt is 5; it must be a text"),
        ({"prompt": None}, 400, "prompt is None"),
        ({"taken": [1.5]}, 400, "taken is [1.5]; it must be a list of token ids"),
        ({"taken": [True]}, 400, "taken is [True]"),
        ({"taken": [-1]}, 400, "taken is [-1]"),
        ({"taken": [999_999]}, 400, "the model has no token 999999"),
        ({"target": "a"}, 400, "target is 'a'; it must be a token id or null"),
        ({"target": 10**8}, 400, "the model has no token 100000000"),
        ({"file": "x"}, 400, "'file' is not a field"),
        ({"model": "gpt9"}, 404, "there is no model 'gpt9' here; it must be one of"),
        ({"model": "../../etc"}, 404, "there is no model"),
        ({"prompt": "a" * 200_000}, 413, "it must have 100,000 at most"),
    ],
)
def test_wrong_request_gets_a_clear_answer(content, status, message, live):
    if isinstance(content, dict):
        content = json.dumps({"model": "tiny", "prompt": "the", **content}).encode()
    assert refused(live, message, name="explain", body=content) == status
    assert still_answers(live)


def test_prompt_of_10_mb_is_refused(live):
    body = json.dumps({"model": "tiny", "prompt": "the " * 2_500_000})
    assert refused(live, "bytes; it must have 100,000 at most", name="tokens", body=body) == 413


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("Content-Length: -1", 411),
        ("Content-Length: 1e3", 411),
        ("Content-Length: " + "9" * 4000, 413),
        ("Transfer-Encoding: chunked", 411),
        ("A: " + "b" * 70_000, 431),
        ("\r\n".join(f"H{i}: 1" for i in range(200)), 431),
    ],
)
def test_wrong_headers_get_a_clear_answer(head, status, live):
    lines = (
        f"POST {live.folder}tokens HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
    )
    with socket.create_connection(live.server_address, 30) as client:
        client.sendall(lines.encode())
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").readline().split()[1] == str(status).encode()
    assert still_answers(live)


def test_requests_at_once_load_a_model_once(model, bundled, monkeypatch):
    loaded = []
    monkeypatch.setattr(answers, "load", lambda *_: loaded.append(time.sleep(0.05)) or bundled)
    models = answers.Models(model, "float32", 16)
    threads = [threading.Thread(target=models.model, args=("shakespeare",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1


def test_model_that_cannot_be_read_is_an_answer(live, tmp_path, monkeypatch, model):
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path))
    write_model(tmp_path / "good", seed=1)
    write_model(tmp_path / "owner" / "bad")
    (tmp_path / "owner" / "bad" / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "not a model").mkdir()
    with running(model, "float32", "", 16) as served:
        assert {*served.models.folders} == {"tiny", "shakespeare", "good", "owner/bad"}
        body = json.dumps({"model": "owner/bad", "prompt": "the"})
        assert refused(served, "model.safetensors", name="explain", body=body) == 400
        good, *_ = ask(served, model="good")
        assert good["facts"].startswith("good: 2 blocks")


def test_error_in_the_program_is_an_answer(live, monkeypatch, capsys):
    def fail(*arguments):
        raise KeyError("oh")

    monkeypatch.setattr(answers, "begin", fail)
    body = json.dumps({"model": "tiny", "prompt": "the"})
    assert refused(live, "KeyError: 'oh'", name="explain", body=body) == 500
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(answers, "later_arrays", fail)  # the answer has begun
    status, _, answer = send(live, name="explain", body=body)
    assert (status, json.loads(answer.splitlines()[-1])) == (200, {"error": "KeyError: 'oh'"})


def test_slow_and_closed_connections_do_not_stop_the_server(live, monkeypatch, capsys):
    monkeypatch.setattr(server, "SECONDS", 0.3)
    start = f"POST {live.folder}explain HTTP/1.1\r\nHost: {live.host}\r\n".encode()
    clients = [socket.create_connection(live.server_address, 30) for _ in range(4)]
    clients[1].sendall(start)
    clients[2].sendall(start + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
    clients[3].sendall(start)
    clients[3].close()
    assert still_answers(live)
    assert clients[0].recv(100) == clients[1].recv(100) == clients[2].recv(100) == b""  # they were too slow
    for client in clients:
        client.close()
    assert capsys.readouterr().err == ""


def test_request_whose_client_has_left_is_not_computed(live, monkeypatch):
    begun = []
    monkeypatch.setattr(answers, "begin", lambda prompt, *rest: begun.append(prompt) or analysis.begin(prompt, *rest))
    clients = []
    with live.computing:
        for prompt in ("one", "two", "three"):
            client = socket.create_connection(live.server_address, 30)
            body = json.dumps({"model": "tiny", "prompt": prompt})
            client.sendall(
                f"POST {live.folder}explain HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            clients.append(client)
        clients[0].close()
        clients[1].close()
        time.sleep(0.2)
        assert begun == []
    assert b'"typed": "three"' in clients[2].makefile("rb").read()
    clients[2].close()
    assert begun == ["three"]


def test_client_that_leaves_stops_a_long_answer(live, monkeypatch):
    steps = []

    def endless(analysis):
        while True:
            steps.append(1)
            yield {}

    monkeypatch.setattr(answers, "gradients_of", endless)
    body = json.dumps({"model": "tiny", "prompt": "the you"})
    with socket.create_connection(live.server_address, 30) as client:
        client.sendall(
            f"POST {live.folder}gradients HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert client.recv(100)
        assert still_answers(live)  # in between
    deadline, n = time.monotonic() + 30, 0
    while n != len(steps):
        n = len(steps)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_rows_without_a_token_are_known_and_cannot_be_taken(tmp_path):
    padded = load(write_model(tmp_path / "padded", vocab_size=300))
    n = padded.tokenizer.n_vocab
    with running(padded, "float32", "", 16) as served:
        assert ask(served)[0]["unused"] == [*range(n, 300)]
        body = json.dumps({"model": "padded", "prompt": "the", "taken": [n]})
        assert refused(served, f"the model has no token {n}", name="explain", body=body) == 400


def test_twenty_requests_at_once_run_one_forward_at_a_time(live, monkeypatch):
    inside, most = [], []

    def begin(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.002)
        result = analysis.begin(*arguments)
        inside.pop()
        return result

    monkeypatch.setattr(answers, "begin", begin)
    results = []
    threads = [threading.Thread(target=lambda: results.append(ask(live)[0]["typed"])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["the you the"] * 20
    assert most == [1] * 20


def test_connections_beyond_the_limit_are_closed(live):
    clients = [socket.create_connection(live.server_address, 30) for _ in range(server.MAX_CONNECTIONS)]
    time.sleep(0.2)
    with socket.create_connection(live.server_address, 30) as one_more:
        assert one_more.recv(1) == b""
    for client in clients:
        client.close()
    time.sleep(0.2)
    assert still_answers(live)


# ---- the command


@pytest.mark.parametrize(
    "option", [["-o", "x.html"], ["--text"], ["--target", " a"], ["--ablate"], ["--gradients"], ["--source"]]
)
def test_serve_excludes_what_needs_a_file_or_a_report(option, tiny, capsys):
    result = run_in_process(command.main, capsys, "-m", tiny, "--serve", *option)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"error: --serve excludes {option[0]}; leave out one of them; see --help\n"


def test_wrong_port_is_an_error(tiny, capsys, live):
    for port in ("0", "65536", "x"):
        result = run_in_process(command.main, capsys, "-m", tiny, "--serve", "--port", port)
        assert (result.status, result.err.count("\n")) == (2, 1)
    assert run_in_process(command.main, capsys, "-m", tiny, "--port", "80", "the").status == 2
    used = live.server_address[1]
    result = run_in_process(command.main, capsys, "-m", tiny, "--serve", "--port", used)
    assert (result.status, result.out) == (1, "")
    assert re.fullmatch(rf"error: port {used} cannot be used \(.*\); choose another with --port\n", result.err)


def test_command_prints_one_address_and_ctrl_c_ends_it(tiny, tmp_path):
    arguments = [sys.executable, "-m", "numpy_gpt2.explain", "-m", str(tiny), "--serve", "the"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
    with subprocess.Popen(arguments, stdin=subprocess.DEVNULL, **options) as process:
        address = process.stdout.readline().decode()
        host, folder = re.fullmatch(r"http://(127\.0\.0\.1:\d+)(/[\w-]{43}/)\n", address).groups()
        with closing(HTTPConnection(host, timeout=30)) as connection:
            connection.request("GET", folder)
            assert b'"prompt": "the"' in connection.getresponse().read()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())
