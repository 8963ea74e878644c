"""What libpq's connection URIs become for asyncpg, and which are refused."""

import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from domain.database_url import parse

PASSWORD = "hunter2"


def arguments(rest: str) -> dict[str, Any]:
    """The arguments of asyncpg for a URL; empty server settings are left out."""
    found = dict(parse(f"postgresql://{rest}").arguments)
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("", {}),
        ("db", {"host": ["db"]}),
        ("db:5433/vms", {"host": ["db"], "port": [5433], "database": "vms"}),
        ("me@/vms?host=/run/pg&port=5433", {"user": "me", "host": ["/run/pg"], "port": [5433], "database": "vms"}),
        ("%2Frun%2Fpg/vms", {"host": ["/run/pg"], "database": "vms"}),
        ("me:p%40ss%3A%2F%3F@db", {"user": "me", "password": "p@ss:/?", "host": ["db"]}),
        ("db/a%20b", {"host": ["db"], "database": "a b"}),
        ("me:12?user=b@db/vms", {"user": "me", "password": "12?user=b", "host": ["db"], "database": "vms"}),
        ("db/vms?user=me@tenant", {"user": "me@tenant", "host": ["db"], "database": "vms"}),
        ("a,b?port=5433,", {"host": ["a", "b"], "port": [5433, 5432]}),
        ("db?port=", {"host": ["db"]}),
        ("me:a#b+c@db", {"user": "me", "password": "a#b+c", "host": ["db"]}),
        ("[::1]:5433/vms", {"host": ["::1"], "port": [5433], "database": "vms"}),
        ("[::1],[fe80::2]", {"host": ["::1", "fe80::2"]}),
        (":5433/vms?host=/run/pg", {"host": ["/run/pg"], "port": [5433], "database": "vms"}),
        ("/vms?host=::1", {"host": ["::1"], "database": "vms"}),
        (
            "a,b:5433?target_session_attrs=any",
            {"host": ["a", "b"], "port": [5432, 5433], "target_session_attrs": "any"},
        ),
        ("/?host=a,b&port=5433", {"host": ["a", "b"], "port": [5433]}),
        ("/?user=me&password=x%26y&dbname=vms", {"user": "me", "password": "x&y", "database": "vms"}),
        ("db?connect_timeout=10", {"host": ["db"], "timeout": 10.0}),
        ("db?sslmode=require", {"host": ["db"], "dsn": "postgresql://?sslmode=require"}),
        ("db?ssl=true", {"host": ["db"], "dsn": "postgresql://?sslmode=require"}),
        ("db?sslpassword=a%26b", {"host": ["db"], "dsn": "postgresql://?sslpassword=a%26b"}),
        (
            "db?application_name=my%20vms&options=-c%20geqo%3Doff",
            {"host": ["db"], "server_settings": {"application_name": "my vms", "options": "-c geqo=off"}},
        ),
    ],
)
def test_libpq_parameters_become_arguments_of_asyncpg(rest: str, expected: dict[str, Any]) -> None:
    assert arguments(rest) == expected


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("me:hunter2@db:port", "must have the form"),
        ("me:hunter2@db:0", "must have the form"),
        ("me:hunter2@db:70000", "must have the form"),
        ("me:hunter2@[::1", "must have the form"),
        ("me:hunter2@[::1]5432", "must have the form"),
        ("me:%ff@db", "must have the form"),
        ("/vms?host=@abstract", "abstract Unix socket"),
        ("%40abstract/vms", "abstract Unix socket"),
        ("/vms?host=/run/pg,@abstract", "abstract Unix socket"),
        ("me:hunter2%0A@db", "control characters"),
        ("me:hunter2@hunter2@db", "%40"),
        ("me:hunter2/hunter2@db", "must have the form"),
        ("me:12/hunter2@db:5432/vms", "/ is written %2F"),
        ("me:/hunter2@db", "/ is written %2F"),
        ("me:12/?hunter2@db", "parameter ?"),
        ("me:12/?hunter=2@db", "parameter ?"),
        ("db?sslmode=require&sslmode=disable", "sslmode twice"),
        ("db?sslmode=require&ssl=disable", "sslmode twice"),
        ("db?hunter2&sslmode=require", "parameter ?"),
        ("db?sslmode", "sslmode without a value"),
        ("db?sslmode=on", "wrong sslmode; it must be one of allow, disable, prefer, require, verify-ca, verify-full"),
        ("db?sslrootcert=/nowhere.crt", "sslrootcert /nowhere.crt, which is not a readable file"),
        ("db?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("db?target_session_attrs=standby", "wrong target_session_attrs"),
        ("db?connect_timeout=0", "wrong connect_timeout"),
        ("db?connect_timeout=soon", "wrong connect_timeout"),
        ("db?keepalives_idle=5", "parameter keepalives_idle, which is not supported; use only"),
        ("db?channel_binding=require", "parameter channel_binding"),
        ("db?pgbouncer=yes", "wrong pgbouncer"),
        ("a,b:1?port=1,2,3", "one port for all of them or one for each"),
        ("a,,b", "must name each host"),
    ],
)
def test_anything_else_is_refused_in_one_line_without_the_password(rest: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        parse(f"postgresql://{rest}")
    text = str(refusal.value)
    assert "hunter" not in text
    assert text.isprintable()


def test_the_password_is_not_shown_with_the_target() -> None:
    assert PASSWORD not in repr(parse(f"postgresql://me:{PASSWORD}@db"))


def test_a_line_end_after_the_url_is_ignored() -> None:
    """A secret that is read from a file often ends with one."""
    assert parse("postgresql://db/vms\n").arguments == parse("postgresql://db/vms").arguments


def certificate(folder: Path, name: str = "server") -> Path:
    """A new certificate; its key is in the file with the ending `.key`."""
    file = folder / f"{name}.crt"
    names = ["-subj", f"/CN={name}", "-keyout", str(file.with_suffix(".key")), "-out", str(file)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:hunter2", *names]
    subprocess.run(command, check=True, capture_output=True)
    return file


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("sslrootcert={other}.key", "has the sslrootcert {other}.key, which has no certificate that can be used"),
        ("sslcrl={other}.key", "has the sslcrl {other}.key, which has no certificate that can be used"),
        ("sslcert={mine}.crt&sslkey={other}.key&sslpassword=hunter2", "do not belong together"),
        ("sslcert={mine}.key&sslkey={mine}.crt&sslpassword=hunter2", "do not belong together"),
        ("sslcert={mine}.crt&sslkey={mine}.key&sslpassword=hunter3", "do not belong together"),
        ("sslcert={mine}.crt&sslkey={mine}.key", "do not belong together"),
        ("sslcert={mine}.crt", "an sslcert without an sslkey, and sslcert has no key that belongs to it"),
    ],
)
def test_files_that_openssl_cannot_use_are_refused(tmp_path: Path, parameters: str, message: str) -> None:
    files = {name: certificate(tmp_path, name).with_suffix("") for name in ("mine", "other")}
    usable = "sslrootcert={other}.crt&sslcert={mine}.crt&sslkey={mine}.key&sslpassword=hunter2"
    assert "sslpassword" in arguments(f"db?{usable.format(**files)}")["dsn"]
    with pytest.raises(ValueError, match=re.escape(message.format(**files))) as refusal:
        arguments(f"db?{parameters.format(**files)}")
    assert "hunter" not in str(refusal.value)


def test_a_key_that_the_url_does_not_name_is_found_where_libpq_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    mine, other = certificate(tmp_path, "mine"), certificate(tmp_path, "other")
    url = f"db?sslcert={mine}&sslpassword=hunter2"
    with pytest.raises(ValueError, match="without an sslkey"):
        arguments(url)
    default = tmp_path / ".postgresql" / "postgresql.key"
    default.parent.mkdir()
    default.write_bytes(mine.with_suffix(".key").read_bytes())
    assert "sslcert" in arguments(url)["dsn"]
    monkeypatch.setenv("PGSSLKEY", str(other.with_suffix(".key")))
    with pytest.raises(ValueError, match=re.escape(f"and {other.with_suffix('.key')} has no key")):
        arguments(url)


@pytest.mark.parametrize(
    ("variable", "name", "mode"),
    [
        ("PGSSLCERT", "postgresql.crt", ""),
        ("PGSSLCERT", "postgresql.crt", "?sslmode=verify-full"),
        ("PGSSLROOTCERT", "root.crt", "?sslmode=require"),
        ("PGSSLCRL", "root.crl", "?sslmode=verify-ca"),
    ],
)
def test_files_that_only_the_environment_names_or_are_at_home_are_refused_in_the_same_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, name: str, mode: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    usable, wrong, folder = certificate(tmp_path, "mine"), tmp_path / "wrong.crt", tmp_path / ".postgresql"
    wrong.write_text("-----BEGIN CERTIFICATE-----")
    key = f"{'&' if mode else '?'}sslkey={usable.with_suffix('.key')}&sslpassword=hunter2"
    for file in (wrong, tmp_path / "missing", tmp_path):
        monkeypatch.setenv(variable, str(file))
        with pytest.raises(ValueError, match=re.escape(f"{file} ({variable})")):
            arguments(f"db{mode}{key}")
        for without_tls in ("db?sslmode=disable", "?host=/run/postgresql"):
            arguments(without_tls)
    monkeypatch.setenv(variable, str(usable))
    arguments(f"db{mode}{key}")
    monkeypatch.delenv(variable)
    folder.mkdir()
    (folder / name).write_bytes(wrong.read_bytes())
    with pytest.raises(ValueError, match=re.escape(f"{folder / name} ({variable})")):
        arguments(f"db{mode}{key}")


def test_a_variable_may_also_name_the_certificates_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    parameters = arguments("db")["dsn"]
    assert "sslmode=verify-full" in parameters
    assert "sslrootcert=%2F" in parameters
    assert "sslrootcert" not in arguments("?host=/run/postgresql").get("dsn", "")


def test_files_are_read_where_the_url_names_them(tmp_path: Path) -> None:
    file = tmp_path / "root.crt"
    file.write_text(certificate(tmp_path).read_text())
    found = arguments(f"db?sslmode=verify-ca&sslrootcert={file}")
    assert found["dsn"].startswith("postgresql://?sslmode=verify-ca&sslrootcert=%2F")


def test_the_certificates_of_the_system_stand_for_a_full_check() -> None:
    paths = ssl.get_default_verify_paths()
    dsn = arguments("db?sslrootcert=system")["dsn"]
    assert "sslmode=verify-full" in dsn
    assert str(paths.cafile or paths.openssl_cafile).rpartition("/")[2] in dsn
