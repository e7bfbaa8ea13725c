"""Generate the Python code of the contract, or check that the committed code is what would be generated.

generate_protos.py           write into clients/python/src
generate_protos.py --check   write nothing; list what differs and exit 1 if anything does
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("clients/python/src")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def run_buf(folder: Path) -> Path:
    """Run `buf generate` for the whole workspace below `folder`; return the folder that now holds the packages."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    command = ["buf", "generate", "--template", "protos/buf.gen.yaml", "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    out = folder / OUT
    for stub in out.rglob("*_pb2_grpc.pyi"):  # the stub generator writes one for every file, with services or without
        if not stub.with_suffix(".py").exists():
            stub.unlink()
    return out


def generated_files(folder: Path) -> dict[Path, bytes]:
    """Every generated file below `folder`, by its path relative to it."""
    return {path.relative_to(folder): path.read_bytes() for pattern in GENERATED for path in folder.rglob(pattern)}


def differences(committed: dict[Path, bytes], fresh: dict[Path, bytes]) -> list[str]:
    """One line for each file that is missing, left over or changed."""
    lines = [f"missing    {path}" for path in fresh.keys() - committed.keys()]
    lines += [f"left over  {path}" for path in committed.keys() - fresh.keys()]
    lines += [f"changed    {path}" for path in fresh.keys() & committed.keys() if fresh[path] != committed[path]]
    return sorted(lines)


def write(target: Path, committed: dict[Path, bytes], fresh: dict[Path, bytes]) -> None:
    """Bring `target` to the fresh state; files that are already right keep their modification time."""
    for path in committed.keys() - fresh.keys():
        (target / path).unlink()
    for path, content in fresh.items():
        if committed.get(path) != content:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed code differs")
    check: bool = parser.parse_args().check
    folder = Path(tempfile.mkdtemp(prefix="dunwell-protos-"))
    try:
        fresh = generated_files(run_buf(folder))
    except subprocess.CalledProcessError as error:
        return int(error.returncode) or 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    target = ROOT / OUT
    committed = generated_files(target)
    changed = differences(committed, fresh)
    if check and changed:
        print(f"The generated code below {OUT} is not what `make generate` writes:", *changed, sep="\n  ")
        return 1
    if not check:
        write(target, committed, fresh)
    print(f"{len(fresh)} generated files below {OUT}, {'up to date' if check or not changed else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
