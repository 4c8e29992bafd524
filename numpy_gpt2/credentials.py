"""Addresses on the hub, what a request sends to be allowed in, and messages without such secrets."""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import unquote

# At the start of an address, up to the last "@": a password may have a "/" or "@" that should have been "%2F" or "%40".
USER_AND_PASSWORD = re.compile(r"\s*([a-z0-9+.-]+://)?(.*)@", re.IGNORECASE | re.DOTALL)


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT` without user and password, or Hugging Face's."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if found := USER_AND_PASSWORD.match(address):
        address = (found[1] or "") + address[found.end() :]
    return address.rstrip("/")


def authorization() -> str | None:
    """The header "Authorization" for the hub: user and password of `HF_ENDPOINT`, else `HF_TOKEN`, else None.

    Raises PermissionError for a token that no header can contain.
    """
    if found := USER_AND_PASSWORD.match(os.environ.get("HF_ENDPOINT", "")):
        user, _, password = found[2].partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode("utf-8", "surrogateescape")
        return f"Basic {base64.b64encode(pair).decode()}"
    token = os.environ.get("HF_TOKEN", "").strip()
    if not re.fullmatch("[!-~]*", token):
        raise PermissionError("HF_TOKEN has a blank, a line end or a character that is not ASCII; it must be one token")
    return f"Bearer {token}" if token else None


def redact(text: str) -> str:
    """Remove secrets from a message: user, password and query of each address, and the values in the environment.

    >>> redact("503 Server Error for url: https://me:pw@hub.org/file?X-Amz-Signature=8f3a&v=1, after 2 s")
    '503 Server Error for url: https://hub.org/file after 2 s'
    """
    found = USER_AND_PASSWORD.match(os.environ.get("HF_ENDPOINT", ""))
    for secret in (os.environ.get("HF_TOKEN", "").strip(), found[2] if found else ""):
        if len(secret) > 2:  # anything shorter is no secret, and part of many words
            text = text.replace(secret, "***")
    text = re.sub(r"://\S*@", "://", text)
    text = re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", text)
    return re.sub(r"[?#]\S*=\S*", "", text)  # of an address without its host, as in some errors


def file_url(repository: str, file: str, revision: str = "main") -> str:
    """The address of a file on the hub."""
    return f"{endpoint()}/{repository}/resolve/{revision}/{file}"


def page(repository: str) -> str:
    """The address of a model on the hub, for messages."""
    return f"{redact(endpoint())}/{repository}"
