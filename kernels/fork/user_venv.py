"""A user's own virtual environment, which sees the packages of the kernels' interpreter.

In it, pip and uv do all that they do elsewhere, while the interpreter's own packages stay
read-only. A kernel makes it inside its sandbox, so that nothing outside ever follows a link or runs
a file in it; `afterfork.py` then moves a forked kernel into it, and this file, run as a program,
starts a kernel with its Python. Uses the standard library only; knows nothing of sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Iterator

VARIABLE = "RMI_AGENT_VENV"  # where it is to be, without the version of Python
LENDER = "RMI_AGENT_PIP"  # a folder with a pip, for interpreters that have none
OURS = "rmi-agent"  # INSTALLER of the entries that stand for the interpreter's packages
PTH = "zzzz_rmi_agent.pth"  # sorts last, so the user's own packages and `.pth` files come first
STATE = ".rmi-agent.json"  # what it was last updated for
FORMAT = 1  # of what we write; another one is an update
LOCK_TIMEOUT = 3.0  # max seconds to wait for another kernel that updates it
SERIES = f"{sys.version_info.major}.{sys.version_info.minor}"
FREE_THREADED = "t" if "t" in getattr(sys, "abiflags", "") else ""
LINKED = ("METADATA", "WHEEL", "entry_points.txt")
LONGEST = 127  # bytes of a `#!` line that every Linux reads
SCRIPT = """{first_line}
# {ours}: for the package that this environment takes from the server
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({function}())
"""


def enter_environment(stem: str) -> str:
    """Make or update the environment, and set the variables that activate it; returns its folder.

    Args:
        stem: its folder, to which the version of this interpreter is added.

    Raises:
        OSError: it can't be made there.
    """
    venv = f"{stem}-{SERIES}{FREE_THREADED}"
    lender = os.environ.pop(LENDER, "")
    if not is_current(venv):
        os.makedirs(venv, exist_ok=True)
        with locked(f"{venv}/.lock"):
            if not is_current(venv):
                update(venv, lender)
    server = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:  # ahead of the system's: programs such as ruff
        path = [server, *(folder for folder in path if folder != server)]
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys([f"{venv}/bin", *path, server]))
    os.environ["VIRTUAL_ENV"] = venv
    if os.path.isdir(shared := f"{sys.prefix}/share/jupyter"):
        os.environ.setdefault("JUPYTER_PATH", shared)
    return venv


def packages_of(venv: str) -> str:
    """The folder with an environment's packages, for this version of Python."""
    return f"{venv}/lib/python{SERIES}{FREE_THREADED}/site-packages"


def seen_folders() -> list[str]:
    """The package folders of this interpreter, and what their `.pth` files have added."""
    own = site.getsitepackages()
    first = next((n for n, folder in enumerate(sys.path) if folder in own), len(sys.path))
    return sys.path[first:]


def wanted(venv: str) -> list[object]:
    """What an environment was updated for; JSON can hold it."""
    folders = [*seen_folders(), packages_of(venv), f"{venv}/bin", older_folder(venv)]
    times = [[folder, changed_at(folder)] for folder in folders]
    return [FORMAT, sys.version, base_python(), sys.executable, times]


def changed_at(folder: str) -> int:
    """When a folder's entries last changed, in nanoseconds; 0 if there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def is_current(venv: str) -> bool:
    """Whether an environment is complete, and nothing was installed or removed since."""
    try:
        with open(f"{venv}/{STATE}") as file:
            return os.path.exists(f"{venv}/bin/python") and json.load(file) == wanted(venv)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock file, unless another process has held it for too long."""
    import fcntl  # Windows, which has no sandbox, lacks it

    with open(path, "a") as file:
        until = time.monotonic() + LOCK_TIMEOUT
        while time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # not every file system has locks
                break
        yield


def update(venv: str, lender: str) -> None:
    """Make what is missing and renew what is ours; the user's own packages stay as they are."""
    packages = packages_of(venv)
    for folder in (f"{venv}/bin", packages, f"{venv}/include"):
        os.makedirs(folder, exist_ok=True)
    if sys.platlibdir != "lib" and not os.path.lexists(f"{venv}/{sys.platlibdir}"):
        os.symlink("lib", f"{venv}/{sys.platlibdir}")
    python = base_python()
    version = ".".join(map(str, sys.version_info[:3]))
    write(
        f"{venv}/pyvenv.cfg",
        f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n"
        f"version = {version}\nexecutable = {python}\n",
    )
    link(python, f"{venv}/bin/python")
    for name in ("python3", f"python{SERIES}"):
        link("python", f"{venv}/bin/{name}")
    sites = [folder for folder in site.getsitepackages() if os.path.isdir(folder)]
    # In an environment, `site` runs each file twice.
    adding = "import site, sys; {0!r} in sys.path or site.addsitedir({0!r})"
    lines = [adding.format(folder) for folder in sites]
    if fits_this_python(older := older_folder(venv)):
        lines.append(f"import sys; {older!r} in sys.path or sys.path.append({older!r})")
    write(f"{packages}/{PTH}", "\n".join(lines) + "\n")
    scripts = stand_in(packages, lender)
    write_scripts(f"{venv}/bin", scripts)
    write(f"{venv}/{STATE}", json.dumps(wanted(venv)))


def base_python() -> str:
    """The interpreter that environments are based on, as `venv` finds it."""
    return os.path.abspath(getattr(sys, "_base_executable", "") or os.path.realpath(sys.executable))


def older_folder(venv: str) -> str:
    """The user's ~/packages, where pip used to install."""
    return os.path.join(os.path.dirname(os.path.dirname(venv)), "packages")


def fits_this_python(folder: str) -> bool:
    """Whether a folder has packages, and none that was compiled for another Python.

    Such a package would be in the way of one that works.
    """
    this = "cp" + SERIES.replace(".", "") + FREE_THREADED
    entries = entries_in(folder)
    for entry in entries:
        wheel = read(f"{folder}/{entry}/WHEEL")
        abis = re.findall(r"^Tag: \w+-([\w.]+)-", wheel, re.MULTILINE)
        if abis and not {"none", "abi3", this}.intersection(".".join(abis).split(".")):
            return False
    return bool(entries)


# -- the interpreter's packages


def stand_in(packages: str, lender: str) -> dict[str, str]:
    """Let uv and pip see the interpreter's packages as installed here; returns their scripts.

    Each has an entry that lists no file but its own, so removing or upgrading one here works and
    leaves the interpreter's alone.
    """
    entries = [name for name in entries_in(packages) if not name.startswith("~")]  # pip is at work
    ours = {name for name in entries if read(f"{packages}/{name}/INSTALLER").strip() == OURS}
    known = {project(name) for name in entries if name not in ours}
    scripts: dict[str, str] = {}
    sources = [(folder, name) for folder in seen_folders() for name in entries_in(folder)]
    if lender and "pip" not in {project(name) for _, name in sources}:
        sources += [(lender, name) for name in entries_in(lender) if project(name) == "pip"]
    for folder, name in sources:
        source, target = f"{folder}/{name}", f"{packages}/{name}"
        if not os.path.exists(f"{source}/METADATA") or project(name) in known:
            continue
        known.add(project(name))  # the first in the path counts
        scripts.update(scripts_in(read(f"{source}/entry_points.txt")))
        if name in ours and points_to(f"{target}/METADATA", f"{source}/METADATA"):
            ours.remove(name)
            continue
        shutil.rmtree(target, ignore_errors=True)
        ours.discard(name)
        lent = ["pip"] if folder == lender else []
        for module in lent:
            link(f"{folder}/{module}", f"{packages}/{module}")
        add_entry(source, target, lent)
    for name in ours:  # of packages that the interpreter no longer has, or the user's hide
        shutil.rmtree(f"{packages}/{name}", ignore_errors=True)
    if "pip" in scripts:
        scripts[f"pip{SERIES}"] = scripts["pip"]
    return scripts


def entries_in(folder: str) -> list[str]:
    """The folders that describe the packages in a folder."""
    return [name for name in listed(folder) if name.endswith(".dist-info")]


def project(entry: str) -> str:
    """The normalized name of the project that a `.dist-info` folder describes."""
    return re.sub(r"[-_.]+", "-", entry.partition("-")[0]).lower()


def add_entry(source: str, target: str, more: list[str]) -> None:
    """Describe a package of the interpreter in the user's environment, with `more` of its files."""
    os.mkdir(target)
    for name in LINKED:
        if os.path.exists(f"{source}/{name}"):
            os.symlink(f"{source}/{name}", f"{target}/{name}")
    write(f"{target}/INSTALLER", f"{OURS}\n")
    folder = os.path.basename(target)
    files = [*more, *(f"{folder}/{name}" for name in (*sorted(os.listdir(target)), "RECORD"))]
    write(f"{target}/RECORD", "".join(f"{file},,\n" for file in files))


def scripts_in(entry_points: str) -> dict[str, str]:
    """The commands in a package's entry points, each with its `module:function`."""
    found, section = {}, ""
    for line in map(str.strip, entry_points.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif "=" in line and section in ("console_scripts", "gui_scripts"):
            name, _, value = line.partition("=")
            if re.fullmatch(r"[\w.+-]+", name.strip()) and ":" in value:
                found[name.strip()] = value.partition("[")[0].strip()
    return found


def write_scripts(folder: str, scripts: dict[str, str]) -> None:
    """Write the commands of the interpreter's packages, unless the user has others."""
    python = f"{folder}/python"
    first_line = f"#!{python}"
    if len(os.fsencode(first_line)) > LONGEST or " " in python:  # as pip does
        first_line = f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''"
    for name in listed(folder):
        path = f"{folder}/{name}"
        if name not in scripts and not os.path.islink(path) and is_ours(path):
            os.unlink(path)
    for name, value in scripts.items():
        path = f"{folder}/{name}"
        if os.path.lexists(path) and not is_ours(path):
            continue
        module, _, function = (part.strip() for part in value.partition(":"))
        names = {"module": module, "name": function.partition(".")[0], "function": function}
        write(path, SCRIPT.format(first_line=first_line, ours=OURS, **names), 0o777)


def is_ours(script: str) -> bool:
    """Whether we wrote a script."""
    return f"\n# {OURS}: " in read(script, 1000)


def linked_by(folder: str) -> Iterator[str]:
    """The folders that the user's `.pth` files in a folder name, as those of editable installs."""
    for name in listed(folder):
        if name.endswith(".pth") and name != PTH:
            for line in map(str.strip, read(f"{folder}/{name}").splitlines()):
                if line and not line.startswith(("#", "import ", "import\t")):
                    yield os.path.abspath(os.path.join(folder, line))


# -- files


def listed(folder: str) -> list[str]:
    """The names in a folder, sorted; none if it can't be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def read(path: str, size: int = -1) -> str:
    """A file's text, or empty if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(size)
    except OSError:
        return ""


def write(path: str, text: str, mode: int = 0o666) -> None:
    """Replace a file at once, unless it has this text already."""
    if os.path.exists(path) and read(path) == text:
        return
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def link(target: str, path: str) -> None:
    """Make or replace a symbolic link."""
    if points_to(path, target):
        return
    temporary = f"{path}.{os.getpid()}"
    os.symlink(target, temporary)
    os.replace(temporary, path)


def points_to(path: str, target: str) -> bool:
    """Whether a path is a symbolic link to exactly this target."""
    return os.path.islink(path) and os.readlink(path) == target


# -- the program


def main() -> None:
    """Run a command that begins with an interpreter, in the environment that the variable names.

    Without the variable, run the command as it is.
    """
    if sys.argv[1] == "--make":
        stem = os.environ.pop(VARIABLE)
        print(json.dumps([enter_environment(stem), dict(os.environ)]))
        return
    command = sys.argv[1:]
    if os.environ.get(VARIABLE):
        # Its version and packages are known to the interpreter alone.
        asking = [command[0], "-I", os.path.abspath(__file__), "--make"]
        made = subprocess.run(asking, stdout=subprocess.PIPE, check=False)
        for name in (VARIABLE, LENDER):
            os.environ.pop(name, None)
        if made.returncode == 0:
            venv, variables = json.loads(made.stdout.splitlines()[-1])
            os.environ.update(variables)
            command[0] = f"{venv}/bin/python"
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
