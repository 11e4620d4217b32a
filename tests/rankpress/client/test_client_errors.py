"""No exception of httpx reaches a caller, and importing the client needs no torch."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from rankpress.client.errors import _MAPPED, ClientError, from_httpx, mapped
from rankpress.errors import RankpressError

EXCEPTIONS = [
    found
    for name in dir(httpx)
    if isinstance(found := getattr(httpx, name), type) and issubclass(found, Exception)
]


def instance(kind: type[Exception]) -> Exception:
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("GET", "http://x")
        return kind("x", request=request, response=httpx.Response(500))
    if issubclass(kind, httpx.StreamError):
        return kind() if kind is not httpx.StreamError else kind("x")
    return kind("secret in the library's text")


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda k: k.__name__)
def test_every_httpx_exception_is_mapped(kind: type[Exception]) -> None:
    error = from_httpx(instance(kind))
    assert isinstance(error, ClientError)
    assert isinstance(error, RankpressError)
    assert "secret" not in error.detail
    # By itself or by a base of its own kind, never by luck of a catch-all.
    catch_all = (httpx.HTTPError, httpx.RequestError)
    assert kind in catch_all or next(b for b in kind.__mro__ if b in _MAPPED) not in catch_all


def test_there_were_exceptions_to_map() -> None:
    assert len(EXCEPTIONS) > 20


def test_others_pass() -> None:
    with pytest.raises(ZeroDivisionError), mapped():
        raise ZeroDivisionError
    with pytest.raises(ClientError) as caught, mapped():
        raise httpx.ReadTimeout("x")
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)


def test_the_client_imports_no_torch_and_the_package_no_httpx() -> None:
    code = (
        "import sys, rankpress; assert 'httpx' not in sys.modules; "
        "rankpress.Client; rankpress.AsyncClient; assert 'torch' not in sys.modules; "
        "assert not {m.split('.')[0] for m in sys.modules} & {'app', 'worker', 'fastapi'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
