"""What a forked kernel does before its user's first line of code: walls, environment and paths.

A sandboxed template sees nothing that kernels can write: those folders are missing from its
environment. Its kernels add them to their paths here, as `site` does when a process starts, and
move into their user's virtual environment. Loaded by `zygote.py` without a trace in `sys.modules`;
uses the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import importlib.util
import os
import platform
import shutil
import site
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import user_venv
else:
    place = os.path.join(os.path.dirname(os.path.abspath(__file__)), "user_venv.py")
    spec = importlib.util.spec_from_file_location("user_venv", place)
    user_venv = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(user_venv)

# Landlock's system calls, the same on all architectures, and flags from linux/landlock.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
MAKE_BLOCK_DEVICES, MOVE_BETWEEN_FOLDERS = 1 << 11, 1 << 13
SIGNALS = 2  # LANDLOCK_SCOPE_SIGNAL
DUMPABLE, SUBREAPER = 4, 36  # PR_SET_DUMPABLE and PR_SET_CHILD_SUBREAPER of prctl(2)
SECCOMP = {"x86_64": 317, "aarch64": 277}  # number of the system call
SET_FILTER, ALL_THREADS = 1, 1
MARK, FILE_LOCKS = "RMI_AGENT_KERNEL", 10  # see `process_tree/reaper.py`
CUSTOMS = ("sitecustomize", "usercustomize")
PREFIXES, PACKAGES = [*site.PREFIXES], site.getsitepackages()  # the template's

libc = ctypes.CDLL(None, use_errno=True)
libc.getenv.restype = ctypes.c_void_p
MARK_PLACE = libc.getenv(MARK.encode())  # address of the mark's value, which other processes read
MARK_LENGTH = len(os.environ.get(MARK, ""))


class Walls:
    """Keeps a kernel away from the memory of its template and of the other kernels.

    Each kernel gets a Landlock domain: a process inside can't trace processes outside, and so
    can't open their `/proc/PID/mem`, but they can trace it. Since Linux 6.12 it can't signal them
    either. Before Linux 5.19 only the template is protected, by not being dumpable.
    """

    def __init__(self) -> None:
        none = ctypes.c_size_t(0)
        self.version = max(0, int(libc.syscall(CREATE_RULESET, None, none, VERSION)))

    def protect_template(self) -> None:
        """Protect the template without Landlock; call in the template before its first fork."""
        if self.version < 2:
            libc.prctl(DUMPABLE, 0, 0, 0, 0)

    def keep_apart(self) -> None:
        """Enter a Landlock domain; call in a kernel's process while it has a single thread.

        Raises:
            OSError: the system refuses.
        """
        if self.version < 2:
            libc.prctl(DUMPABLE, 1, 0, 0, 0)
            return
        # A domain within one that handles files, as the sandbox's, forbids moving them between
        # folders unless it allows that.
        if self.version >= 6:
            ruleset = self._ruleset(MOVE_BETWEEN_FOLDERS, 0, SIGNALS)
        else:  # it has to forbid something
            ruleset = self._ruleset(MAKE_BLOCK_DEVICES | MOVE_BETWEEN_FOLDERS)
        self._allow_everywhere(ruleset, MOVE_BETWEEN_FOLDERS)
        self._checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)

    def _ruleset(self, *handled: int) -> int:
        rules = (ctypes.c_uint64 * len(handled))(*handled)
        size = ctypes.c_size_t(ctypes.sizeof(rules))
        return self._checked(libc.syscall(CREATE_RULESET, rules, size, 0))

    def _allow_everywhere(self, ruleset: int, allowed: int) -> None:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        rule = allowed.to_bytes(8, sys.byteorder) + root.to_bytes(4, sys.byteorder)
        self._checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0))
        os.close(root)

    def _checked(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "landlock")
        return result


def adopt_orphans() -> None:
    """Let the orphans of all kernels become children of this process, where they are found fast.

    Raises:
        OSError: the system refuses.
    """
    if sys.platform == "linux" and libc.prctl(SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "subreaper")


class Program(ctypes.Structure):
    """The C structure `struct sock_fprog`, a BPF program for seccomp."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_calls(program: bytes) -> None:
    """Apply a system call filter to all threads, irrevocably; see `seccomp(2)`.

    Raises:
        OSError: the system refuses.
    """
    given = Program(len(program) // 8, program)
    number = SECCOMP[platform.machine()]
    if libc.syscall(number, SET_FILTER, ALL_THREADS, ctypes.byref(given)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def loaded() -> set[str]:
    """The top-level names of all loaded modules."""
    return {name.partition(".")[0] for name in sys.modules} - {"__main__", *CUSTOMS}


def mark_this_process(mark: str, number: int | None) -> None:
    """Give this process a kernel's mark, where other processes look for it, and its number."""
    if MARK_PLACE and len(mark) == MARK_LENGTH:
        ctypes.memmove(MARK_PLACE, mark.encode(), MARK_LENGTH)
    if number is not None:  # in a sandbox it is set from outside
        libc.setrlimit(FILE_LOCKS, struct.pack("QQ", number, number))


def take_mark(mark: str, number: int) -> None:
    """Give a kernel that was forked from another one a mark of its own."""
    mark_this_process(mark, number)
    os.environ[MARK] = mark


def take_environment(request: Mapping[str, Any], template: Mapping[str, str]) -> None:
    """Replace the template's environment by the kernel's, but keep what imports have set.

    Args:
        request: the request for the kernel: see `zygote.py`.
        template: the environment that the template was started with.
    """
    env = request["env"]
    mark_this_process(env.get(MARK, ""), request["number"])
    for name in template.keys() - env.keys():  # those that imports have set stay
        os.environ.pop(name, None)
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    tempfile.tempdir = None  # a template's TMPDIR is its own
    # matplotlib made a folder if the template's home was not writable; all kernels share it.
    made = "matplotlib" in sys.modules and "MPLCONFIGDIR" not in env
    if made and os.environ.pop("MPLCONFIGDIR", ""):
        atexit.unregister(shutil.rmtree)
    if hasattr(time, "tzset"):
        time.tzset()
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    if stem := os.environ.pop(user_venv.VARIABLE, ""):
        try:
            move_into(user_venv.enter_environment(stem))
        except OSError as error:  # a full disk, for example; the interpreter's packages are there
            os.write(2, f"[No environment for pip and uv: {error}]\n".encode())


def move_into(venv: str) -> None:
    """Make this process one of the environment's interpreter, but run nothing of it yet."""
    sys.prefix = sys.exec_prefix = venv
    sys.executable = f"{venv}/bin/python"
    site.PREFIXES[:] = [venv]
    site.ENABLE_USER_SITE = False
    site.USER_BASE = site.USER_SITE = None
    site.getusersitepackages()
    if "sysconfig" in sys.modules:
        renew_sysconfig(sys.modules["sysconfig"])
    if "multiprocessing.spawn" in sys.modules:
        sys.modules["multiprocessing.spawn"].set_executable(sys.executable)


def renew_sysconfig(sysconfig: ModuleType) -> None:
    """Let a module that has read the prefixes read them again; executing it takes a millisecond."""
    own, needed = vars(sysconfig), {"_PREFIX", "_EXEC_PREFIX", "_CONFIG_VARS", "_USER_BASE"}
    if not needed <= own.keys():  # another Python's
        importlib.reload(sysconfig)
        return
    own["_PREFIX"] = own["_EXEC_PREFIX"] = os.path.normpath(sys.prefix)
    own["_CONFIG_VARS"] = own["_USER_BASE"] = None
    if "_CONFIG_VARS_INITIALIZED" in own:  # since Python 3.12
        own["_CONFIG_VARS_INITIALIZED"] = False


def renew_random_state() -> None:
    """Replace random state and keys made before the fork, as each kernel needs its own."""
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if "numpy.random" in sys.modules:
        # Given integers, it needs a quarter of the time that it takes to find some by itself.
        words = struct.unpack("8I", os.urandom(32))
        sys.modules["numpy.random"].seed(words)


def conflicts(names: set[str], template: Mapping[str, str]) -> set[str]:
    """Top-level names of loaded modules that an ordinary start would have loaded differently.

    The user has other versions of them, or settings that they read on import.

    Args:
        names: of the loaded modules, as `loaded` says: known before the fork, since looking at
            all modules would copy the memory that they share with the template.
        template: the environment that the modules were loaded in.
    """
    found = set()
    own = own_folders(template)
    for folder in [*own, *(linked for each in own for linked in user_venv.linked_by(each))]:
        with contextlib.suppress(OSError):
            there = {name.partition(".")[0] for name in os.listdir(folder)}
            found |= {name for name in there & names if not is_same(name, folder)}
    if "matplotlib" in names and any(map(os.path.exists, settings_of_matplotlib(template))):
        found.add("matplotlib")
    return found


def own_folders(template: Mapping[str, str]) -> list[str]:
    """Package folders that this process's environment names but its template's does not."""
    inherited = folders_in(template)
    found = [folder for folder in folders_in(os.environ) if folder not in inherited]
    found += folders_of_venv()
    if any(os.environ.get(name) != template.get(name) for name in ("HOME", "PYTHONUSERBASE")):
        site.USER_BASE = site.USER_SITE = None  # `site` caches them
        user = site.getusersitepackages()
        if site.ENABLE_USER_SITE and os.path.isdir(user):
            found.append(user)
    return found


def folders_of_venv() -> list[str]:
    """The package folders of the environment that this process has moved into, before `enter`."""
    found = [] if site.PREFIXES == PREFIXES else site.getsitepackages()
    return [folder for folder in found if os.path.isdir(folder)]


def folders_in(env: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH, as they appear in `sys.path`."""
    parts = env.get("PYTHONPATH", "").split(os.pathsep)
    return [*dict.fromkeys(os.path.abspath(part) for part in parts if part)]


def is_same(name: str, folder: str) -> bool:
    """Whether the loaded modules of a package equal those in a folder."""
    top = getattr(sys.modules[name], "__file__", None)
    if not top:
        return False
    root = os.path.dirname(top)
    if hasattr(sys.modules[name], "__path__"):
        root = os.path.dirname(root)
    for module in [name, *(each for each in sys.modules if each.startswith(f"{name}."))]:
        file = getattr(sys.modules[module], "__file__", None)
        if file and not is_same_file(file, os.path.join(folder, os.path.relpath(file, root))):
            return False
    return True


def is_same_file(first: str, second: str) -> bool:
    """Whether two files are equal; compiled ones next to equal sources are compared by size."""
    try:
        if os.path.getsize(first) != os.path.getsize(second):
            return False
        if not first.endswith(".py"):
            return True
        with open(first, "rb") as one, open(second, "rb") as other:
            return one.read() == other.read()
    except OSError:
        return False


def settings_of_matplotlib(template: Mapping[str, str]) -> list[str]:
    """The files that matplotlib reads on import, if their paths differ from the template's."""
    env = os.environ
    config = env.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folder = env.get("MPLCONFIGDIR") or os.path.join(config, "matplotlib")
    found = [os.path.join(folder, "matplotlibrc"), os.path.join(folder, "stylelib")]
    named = env.get("MATPLOTLIBRC")
    return [*found, named] if named and named != template.get("MATPLOTLIBRC") else found


def enter(template: Mapping[str, str]) -> None:
    """Set up this process's paths as `site` would, and run what `site` runs.

    Args:
        template: the environment in which `site` has already run.
    """
    if not own_folders(template):
        return
    inherited = folders_in(template)
    rest = [folder for folder in sys.path if folder not in inherited]
    sys.path[:] = dict.fromkeys([*folders_in(os.environ), *rest])
    if folders := folders_of_venv():
        add_venv(folders)
    elif site.ENABLE_USER_SITE:
        add_user_site()
    for folder in sys.path:
        if sys.path_importer_cache.get(folder, sys) is None:  # the folder did not exist before
            del sys.path_importer_cache[folder]
    customs = [site.execsitecustomize]
    customs += [site.execusercustomize] if site.ENABLE_USER_SITE else []
    for name, execute in zip(CUSTOMS, customs, strict=False):
        spec, before = PathFinder.find_spec(name), sys.modules.get(name)
        if spec and spec.origin != getattr(before, "__file__", None):
            sys.modules.pop(name, None)
            execute()


def add_venv(folders: list[str]) -> None:
    """Insert an environment's packages, and what its `.pth` files add, before the template's."""
    place = next((n for n, folder in enumerate(sys.path) if folder in PACKAGES), len(sys.path))
    behind, before = sys.path[place:], set(sys.path)
    for folder in folders:
        site.addsitedir(folder)  # our `.pth` file there skips the template's, which were added
    older = user_venv.older_folder(sys.prefix)
    last = [folder for folder in sys.path if folder == older and folder not in before]
    own = [folder for folder in sys.path if folder not in behind and folder not in last]
    sys.path[:] = [*own, *behind, *last]


def add_user_site() -> None:
    """Insert the user's site-packages, and what its `.pth` files add, before the system's."""
    system = site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])
    place = next((n for n, folder in enumerate(sys.path) if folder in system), len(sys.path))
    behind = sys.path[place:]
    del sys.path[place:]
    site.addusersitepackages(set(map(os.path.normcase, sys.path)))
    sys.path += [folder for folder in behind if folder not in sys.path]
