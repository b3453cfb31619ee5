"""Content Credentials (C2PA): a file signed with the user's certificate, and such a signature verified.

c2pa-python does the work; it is an optional extra, and nothing here goes to the network.
"""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sky4 import __version__
from sky4.errors import RequestError, Sky4Failure
from sky4.files import partial_name
from sky4.media.xmp import TRAINED

TYPES = {".mp4": "video/mp4", ".mov": "video/quicktime", ".png": "image/png", ".wav": "audio/wav"}
MOST_BYTES = 2**20  # of a certificate chain or a key
OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


@dataclass(frozen=True)
class Credentials:
    """PEM files: the signer's certificate with those that it rests on, the signer's first, and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Verification:
    """valid: the signature is whole and fits the file. signer: as the certificate names it. problems: their codes."""

    valid: bool
    signer: str
    problems: tuple[str, ...]


def check_credentials(credentials: Credentials, path: Path) -> None:
    """RequestError where a file of that name cannot be signed with them: proved by signing a pixel."""
    if path.suffix.lower() not in TYPES:
        raise RequestError(
            f"--c2pa: the output '{path}' is of a kind that holds no Content Credentials; use {', '.join(TYPES)}"
        )
    pixel, signed = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    pixel.seek(0)
    c2pa = _library()
    try:
        _builder(c2pa, "a pixel", TRAINED).sign(_signer(c2pa, credentials), "image/png", pixel, signed)
    except c2pa.C2paError as error:
        raise RequestError(
            f"--c2pa {credentials.certificate} {credentials.key}: nothing can be signed with them ({_words(error)}); "
            "give a chain in PEM, the signer's certificate first, and its key; a self-signed one will not do"
        ) from error


def sign(partial: Path, path: Path, credentials: Credentials, source: str) -> None:
    """Sign the finished file at `partial`, which will be called `path`. source: IPTC's word for where it comes from."""
    c2pa, target = _library(), partial_name(partial)
    try:
        with partial.open("rb") as unsigned, target.open("wb+") as signed:
            builder = _builder(c2pa, path.name, source)
            builder.sign(_signer(c2pa, credentials), TYPES[path.suffix.lower()], unsigned, signed)
        os.replace(target, partial)
    except c2pa.C2paError as error:
        raise Sky4Failure(f"'{path}' was made and could not be signed ({_words(error)}); nothing was kept") from error
    finally:
        target.unlink(missing_ok=True)


def verify(path: Path) -> Verification | None:
    """What the file's Content Credentials are worth; None where it holds none. RequestError where c2pa is missing."""
    if path.suffix.lower() not in TYPES or not _may_hold(path):
        return None
    c2pa = _library()
    try:
        with path.open("rb") as file:
            reader = c2pa.Reader.try_create(TYPES[path.suffix.lower()], file, context=c2pa.Context.from_dict(OFFLINE))
            if reader is None:
                return None
            told = json.loads(reader.json())
            state = reader.get_validation_state()
    except c2pa.C2paError as error:
        return Verification(False, "", (_words(error),))
    active = told.get("manifests", {}).get(told.get("active_manifest"), {})
    who = active.get("signature_info") or {}
    signer = who.get("common_name") or who.get("issuer") or ""
    problems = tuple(str(status.get("code", "")) for status in told.get("validation_status") or ())
    return Verification(state in ("Valid", "Trusted"), signer, problems)


def _may_hold(path: Path) -> bool:
    """Whether the bytes of a manifest store's label occur: a file without credentials needs no library to say so."""
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            if b"c2pa" in before + chunk:
                return True
            before = chunk[-3:]
    return False


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise RequestError(
            "Content Credentials need the package c2pa-python; "
            f"install it with: {sys.executable} -m pip install c2pa-python"
        ) from error
    return c2pa


def _builder(c2pa: Any, title: str, source: str) -> Any:
    action = {"action": "c2pa.created", "digitalSourceType": source}
    manifest = {
        "claim_generator_info": [{"name": "sky4", "version": __version__}],
        "title": title,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    return c2pa.Builder(json.dumps(manifest), context=c2pa.Context.from_dict(OFFLINE))


def _signer(c2pa: Any, credentials: Credentials) -> Any:
    """RequestError, naming the file, where either is no such thing."""
    certificate, key = _pem(credentials.certificate), _pem(credentials.key)
    info = c2pa.C2paSignerInfo(_algorithm(key, credentials.key), certificate, key, None)
    return c2pa.Signer.from_info(info)


def _pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES)
    except OSError as error:
        raise RequestError(f"--c2pa: '{path}' cannot be read ({error.strerror}); give a PEM file") from error
    if b"-----BEGIN" not in content:
        raise RequestError(f"--c2pa: '{path}' is no PEM file; give the certificate chain first, then the key")
    return content


def _algorithm(key: bytes, path: Path) -> bytes:
    """C2PA's name for the signatures that this key makes."""
    from cryptography.exceptions import UnsupportedAlgorithm  # comes with c2pa-python
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise RequestError(f"--c2pa: '{path}' is no private key without a password; give one in PEM") from error
    if isinstance(private, Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(private, RSAPrivateKey):
        return b"ps256"
    by_size = {256: b"es256", 384: b"es384", 521: b"es512"}
    if isinstance(private, EllipticCurvePrivateKey) and private.key_size in by_size:
        return by_size[private.key_size]
    raise RequestError(f"--c2pa: '{path}' is a key that C2PA does not sign with; use EC P-256, RSA or Ed25519")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
