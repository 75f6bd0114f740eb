"""Connecting to a server: its API key, and a client that never mixes up answers and never waits indefinitely."""

import ipaddress
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import openai

NO_KEY = "none"  # sent to a server on this machine if there is no key
SHORTEST_SECRET = 12  # characters; a shorter key is a placeholder such as "none", which may occur in any text


class ServerError(RuntimeError):
    """A server that does not answer or cannot be reached; the message names it and says what to check."""


def read_key(base_url: str, variable: str) -> str:
    """Read the server's key from an environment variable, or from the file named by ``<variable>_FILE``.

    Raises ServerError for a file that cannot be read, or if there is no key and the server is not local.
    """
    key, file = os.environ.get(variable, "").strip(), os.environ.get(f"{variable}_FILE", "").strip()
    if not key and file:
        try:
            key = Path(file).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            raise ServerError(f"{variable}_FILE names {file}, which cannot be read as text") from None
        if not key:
            raise ServerError(f"{variable}_FILE names {file}, which contains no key")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ServerError(f"the key in {variable} contains spaces or non-ASCII characters: give only the key itself")
    if key:
        return key
    if is_local(base_url):
        return NO_KEY
    raise ServerError(
        f"{base_url}: the environment variables {variable} and {variable}_FILE are both unset or empty; set one of "
        f"them ({variable} to anything, if the server needs no key)"
    )


def is_local(base_url: str) -> bool:
    """Whether a server runs on this machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def without_key(text: str, key: str) -> str:
    """Remove the key from a text: some servers repeat what they were sent."""
    return text.replace(key, "***") if len(key) >= SHORTEST_SECRET else text


def connect(base_url: str, key: str, *, timeout: float) -> "openai.OpenAI":
    """A client that never retries by itself. ``timeout`` (seconds) applies to a whole request, not to each read.

    Every request uses a new connection: on a persistent one, an answer that a server or proxy sends twice would be
    taken for the answer to the next question.
    """
    import httpx2
    import openai

    class Limited(httpx2.SyncByteStream):
        """A response body with a deadline: the client's own timeout restarts with every chunk."""

        def __init__(self, stream: httpx2.SyncByteStream, end: float) -> None:
            self.stream, self.end = stream, end

        def __iter__(self) -> Iterator[bytes]:
            for piece in self.stream:
                yield piece
                if time.monotonic() > self.end:
                    raise httpx2.ReadTimeout(f"no complete answer within {timeout:g} s")

        def close(self) -> None:
            self.stream.close()

    def begin(request: httpx2.Request) -> None:
        request.extensions["end"] = time.monotonic() + timeout

    def limit(response: httpx2.Response) -> None:
        response.stream = Limited(response.stream, response.request.extensions["end"])

    return openai.OpenAI(
        api_key=key,
        base_url=base_url,
        timeout=timeout,
        max_retries=0,
        default_headers={"Connection": "close"},
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [begin], "response": [limit]}),
    )
