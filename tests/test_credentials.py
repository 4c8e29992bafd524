"""Who may see HF_TOKEN, and that no message contains a secret."""

import base64
import itertools

import pytest

from numpy_gpt2 import hub
from numpy_gpt2.__main__ import main
from numpy_gpt2.credentials import redact
from numpy_gpt2.download import download_file, why_unreachable
from numpy_gpt2.weights import FILE

from .conftest import assert_one_error, run_in_process
from .fake_hub import (
    MODEL,
    Handler,
    Hub,
    chunked,
    closed_port,
    deep,
    endless,
    first,
    hang_up,
    page,
    reset,
    stored,
)

TOKEN, PASSWORD, SIGNATURE = "hf_Secret1", "pw-Secret2", "Secret3"


@pytest.fixture
def server(server, tmp_path, monkeypatch) -> Hub:
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc but the tests'
    return server


def with_password(address: str, password: str = PASSWORD) -> str:
    return address.replace("://", f"://me:{password}@")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def sent(server: Hub) -> dict[str, set[str | None]]:
    """The authorizations that the hub and the store got."""
    return {
        place: {r.headers.get("authorization") for r in server.requests if r.place == place} for place in server.servers
    }


def private(handler: Handler, body: bytes) -> None:
    """Send the file only to those who have the token."""
    handler.serve(body) if handler.headers.get("Authorization") == f"Bearer {TOKEN}" else handler.answer(401)


# Authorization


def test_the_token_is_sent_when_the_hub_is_looked_for(server, monkeypatch):
    server.faults["hub", "config.json"] = itertools.repeat(private)
    assert "401" in why_unreachable(server.url("config.json"), 5)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert why_unreachable(server.url("config.json"), 5) is None
    assert hub.choose_model(None) == str(hub.weights_folder() / "gpt2")
    assert sent(server)["store"] == {None}


@pytest.mark.parametrize("token", ["", TOKEN])
def test_netrc_does_not_replace_the_token(server, tmp_path, monkeypatch, token):
    """Also after a redirect on the same host. Without a token, ~/.netrc is used."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("HF_TOKEN", token)
    hub.model_folder("gpt2")
    assert why_unreachable(server.url("config.json", "gpt2"), 5) is None
    assert sent(server)["hub"] == {f"Bearer {token}" if token else basic("me", "other")}
    if token:
        assert sent(server)["store"] == {None}


@pytest.mark.parametrize("token", ["", TOKEN])
def test_user_and_password_of_the_endpoint_are_sent_to_the_hub_only(server, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_ENDPOINT", with_password(server.address(), "p%40%C3%A9") + "/")
    hub.model_folder("gpt2")
    assert hub.why_unreachable("gpt2") is None
    assert sent(server) == {"hub": {basic("me", "p@é")}, "store": {None}}


@pytest.mark.parametrize("token", ["hf_Secret1\nX: y", "hf_Secret1 b", "hf_Secret1\u20ac", "hf_Secret1\x7f", "a\r\nb"])
def test_a_token_that_no_header_can_contain_is_an_error_without_the_token(server, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    for message in (hub.why_unreachable("gpt2"), error_of(hub.model_folder, "gpt2")):
        assert "HF_TOKEN has a blank, a line end or a character that is not ASCII" in message
        assert "Secret" not in message
    assert server.requests == []


def error_of(function, *arguments) -> str:
    with pytest.raises((OSError, ValueError)) as caught:
        function(*arguments)
    return str(caught.value)


# Messages


def echo(handler: Handler, body: bytes) -> None:
    """Repeat the token in the answer's first line."""
    handler.send_response(400, f"no {TOKEN} here")
    handler.end_headers()
    handler.close_connection = True


@pytest.mark.parametrize("file", ["config.json", FILE])
@pytest.mark.parametrize(
    "fault",
    [204, 400, 401, 403, 404, 410, 503, reset, hang_up, page, deep, echo, endless, first(10), chunked(10), None],
)
def test_no_message_contains_a_secret(server, monkeypatch, capsys, fault, file):
    """Passwords and signatures in the hub's address and in redirects. None: there is no server."""
    monkeypatch.setattr("numpy_gpt2.download.PAUSE", 0)
    monkeypatch.setattr("numpy_gpt2.download.LIMIT", 100_000)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", with_password(server.address()))
    store = f"http://127.0.0.1:{closed_port()}" if fault is None else server.address("store")
    for place in server.servers:
        server.faults[place, file] = itertools.repeat(fault) if place == server.home(file) else iter(())
    server.redirect = {"Location": with_password(f"{store}/{MODEL}/resolve/main/{FILE}?X-Amz-Signature={SIGNATURE}")}
    if fault is None and file != FILE:
        monkeypatch.setenv("HF_ENDPOINT", with_password(store))
    result = run_in_process(main, capsys, "-m", MODEL, "the")
    if (fault is not deep and fault is not page) or file == "config.json":
        assert_one_error(result, 1, before=r"(config|vocab|merges|model).*")
    assert "Secret" not in result.err + str(hub.why_unreachable(MODEL))


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://me:{}@[bad",
        "http://me:{}@host:port",
        "http://me:{}/x@hub.invalid",
        "http://me:{}?x@hub.invalid",
        "http://me:x/{}@hub.invalid",
        "ftp://me:{}@hub.invalid",
        "me:{}@hub.invalid",
        " http://me:{}@hub.invalid",
        "http://{}@hub.invalid",
        "http://me:x {}@hub.invalid",
    ],
)
def test_no_message_about_the_endpoint_contains_its_password(server, monkeypatch, capsys, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint.format(PASSWORD))
    result = run_in_process(main, capsys, "-m", MODEL, "the")
    assert_one_error(result, 1, "cannot download")
    assert "Secret" not in result.err + str(hub.why_unreachable(MODEL)) + hub.by_hand(MODEL)


@pytest.mark.parametrize("proxy", ["http://me:{}@127.0.0.1:{port}", "http://me:{}@host:port", "ftp://me:{}@127.0.0.1"])
def test_no_message_contains_the_password_of_a_proxy(server, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy.format(PASSWORD, port=closed_port()))
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "Secret" not in str(hub.why_unreachable(MODEL)) + error_of(hub.model_folder, MODEL)


def test_an_address_with_a_password_works_and_is_not_shown(server, tmp_path):
    url = with_password(server.url("config.json"))
    download_file(url, tmp_path / "folder" / "config.json")
    assert stored(tmp_path / "folder") == {"config.json": server.files["config.json"]}
    server.faults["hub", "config.json"] = itertools.repeat(404)
    assert "Secret" not in error_of(download_file, url, tmp_path / "other") + str(why_unreachable(url, 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("there is no https://hub.org/a/b; try again?", "there is no https://hub.org/a/b; try again?"),
        ("url: http://u:p@h:1/x?sig=1&b=2 (x)", "url: http://h:1/x (x)"),
        ("url: http://h/x?eyJhbGciOi and /path?a=b", "url: http://h/x and /path"),
        ("http://u:p/q@h/x", "http://h/x"),
    ],
)
def test_redacted_messages_keep_what_is_no_secret(text, expected):
    assert redact(text) == expected
