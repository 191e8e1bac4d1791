"""What TLS parameters amount to, for the origin and for the hop to an https proxy."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from whimbrel._policy.urls import check_text, refuse_control_bytes

FILE_PARAMETERS = ("ca_certs", "client_cert", "client_key")


class TLS(NamedTuple):
    """How one TLS hop is verified and what it presents."""

    validate: bool = True
    ca_certs: str | bytes | None = None
    client_cert: str | None = None
    client_key: str | None = None
    ciphers: str | None = None
    check_hostname: bool = True
    context: ssl.SSLContext | None = None
    context_state: tuple[Any, ...] = ()
    """What of `context` may have changed since it was last looked at."""


DEFAULT_TLS = TLS()


def refuse_control_bytes_in_files(options: Mapping[str, Any]) -> None:
    """Raise ValueError for control bytes in a file name, whether or not TLS will need it."""
    for field in FILE_PARAMETERS:
        value = options.get(field)
        if isinstance(value, str):
            _refuse_text(field, value)


def decide_tls(options: Mapping[str, Any]) -> tuple[TLS, TLS]:
    get = options.get
    ca_certs = get("ca_certs")
    if ca_certs is not None and not isinstance(ca_certs, bytes):
        ca_certs = _path("ca_certs", ca_certs)
    ssl_options = get("ssl_options")
    if ssl_options is not None:
        tls = _tls_from("ssl_options", ssl_options)
    else:
        cert, key = get("client_cert"), get("client_key")
        if key is not None and cert is None:
            raise ValueError("client_key needs client_cert too")
        tls = TLS(
            bool(get("validate_cert", True)),
            ca_certs,
            None if cert is None else _path("client_cert", cert),
            None if key is None else _path("client_key", key),
        )
    proxy_ssl = get("proxy_ssl")
    # What weakens the origin's verification must not weaken the proxy's; trust is shared.
    proxy_tls = TLS(ca_certs=ca_certs) if proxy_ssl is None else _tls_from("proxy_ssl", proxy_ssl)
    return tls, proxy_tls


def _path(field: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{field} must be the name of a PEM file, not {type(value).__name__}")
    path = os.fspath(value)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    _refuse_text(field, path)
    if os.path.isdir(path):
        raise ValueError(f"{field}: {path!r} is a directory; name a single PEM file")
    if not os.path.isfile(path):
        raise ValueError(f"{field}: there is no file {path!r}")
    return path


def _refuse_text(field: str, name: str) -> None:
    """Refuse what is no file's name: what should be in the file, or control bytes."""
    if "-----BEGIN " in name:
        remedy = "pass it as bytes, or pass" if field == "ca_certs" else "pass"
        raise ValueError(f"{field} holds PEM text: {remedy} the name of a file that holds it")
    refuse_control_bytes(field, name)


_SSL_DICT_KEYS = frozenset(("certfile", "keyfile", "ca_certs", "cert_reqs", "ciphers"))


def _tls_from(field: str, value: Any) -> TLS:
    """TLS settings of an SSLContext, or of Tornado's dict of ``ssl.wrap_socket`` arguments."""
    if isinstance(value, ssl.SSLContext):
        state = (
            value.verify_mode,
            value.check_hostname,
            value.minimum_version,
            value.maximum_version,
            value.options,
            value.verify_flags,
            tuple(value.cert_store_stats().values()),
            tuple(cipher["name"] for cipher in value.get_ciphers()),
        )
        return TLS(
            value.verify_mode != ssl.CERT_NONE,
            check_hostname=value.check_hostname,
            context=value,
            context_state=state,
        )
    if isinstance(value, dict):
        unknown = value.keys() - _SSL_DICT_KEYS
        if unknown:
            raise ValueError(
                f"{field} has the unknown key {sorted(map(str, unknown))[0]!r}: use"
                f" {', '.join(sorted(_SSL_DICT_KEYS))}, or an ssl.SSLContext"
            )
        ciphers = value.get("ciphers")
        if ciphers is not None:
            check_text(f"{field}['ciphers']", ciphers)
        validate = value.get("cert_reqs", ssl.CERT_REQUIRED) != ssl.CERT_NONE
        paths = {
            key: None if value.get(key) is None else _path(f"{field}[{key!r}]", value[key])
            for key in ("ca_certs", "certfile", "keyfile")
        }
        return TLS(
            validate,
            paths["ca_certs"],
            paths["certfile"],
            paths["keyfile"],
            ciphers,
        )
    raise ValueError(f"{field} must be an ssl.SSLContext or a dict, not {type(value).__name__}")
