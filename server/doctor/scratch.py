"""A temporary place for what a server would create, so that checks leave nothing behind.

Folders that exist are used as they are: a check must see what a server would.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir

from ..settings import Settings, load, variable_of
from ..state_dir import token_file

# Variables that say where programs keep their own files, and the folder that each stands for.
PLACES: dict[str, Callable[[], Path]] = {
    "XDG_STATE_HOME": lambda: token_file().parent,
    "XDG_DATA_HOME": lambda: platformdirs.user_data_path("rmi-agent"),
    "XDG_RUNTIME_DIR": lambda: platformdirs.user_runtime_path("rmi-agent"),
    "JUPYTER_CONFIG_DIR": lambda: Path(jupyter_config_dir()),
    "MPLCONFIGDIR": lambda: platformdirs.user_cache_path("matplotlib"),
    "IPYTHONDIR": lambda: Path.home() / ".ipython",
}


@dataclass(frozen=True)
class Scratch:
    """Where checks work.

    Attributes:
        settings: the settings, with temporary folders in place of those that don't exist.
        env: the variables that lead this process's children there.
        real: the temporary folders, each with the one that it stands for.
    """

    settings: Settings
    env: dict[str, str]
    real: dict[Path, Path]

    def with_real_paths(self, text: str) -> str:
        """A text with the real folders in place of the temporary ones."""
        for temporary, folder in self.real.items():
            text = text.replace(str(temporary), str(folder))
        return text


@contextlib.contextmanager
def scratch(settings: Settings) -> Iterator[Scratch]:
    """A place where this process and its children create what is missing; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="rmi-", ignore_cleanup_errors=True) as name:
        top = Path(os.path.realpath(name))
        env = {name: str(private(top / str(number))) for number, name in enumerate(missing())}
        if "XDG_DATA_HOME" in env:  # kernelspecs of the user's are below the real one
            env["JUPYTER_DATA_DIR"] = jupyter_data_dir()
        if not Path(jupyter_data_dir()).exists():
            env["JUPYTER_DATA_DIR"] = str(private(top / "jupyter"))
        real: dict[Path, Path] = {}
        roots = tuple(stand_in(folder, top, real) for folder in settings.python_projects_dir)
        notebooks = stand_in(settings.notebooks, top, real)
        elsewhere = load(python_projects_dir=roots, notebooks_dir=notebooks)
        env[variable_of("python_projects_dir")] = elsewhere.projects_dir
        env[variable_of("notebooks_dir")] = str(notebooks)
        before = {variable: os.environ.get(variable) for variable in env}
        os.environ.update(env)
        try:
            yield Scratch(elsewhere, env, real)
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value


def missing() -> list[str]:
    """The variables that lead to folders that a server or its kernels would create."""
    with warnings.catch_warnings():  # platformdirs warns without XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        found = [name for name, folder in PLACES.items() if not folder().exists()]
    return [name for name in found if name.startswith("XDG_") or name not in os.environ]


def stand_in(folder: Path, top: Path, real: dict[Path, Path]) -> Path:
    """A folder itself, or a temporary one if it does not exist."""
    if folder.exists():
        return folder
    temporary = private(top / f"folder{len(real)}")
    real[temporary] = folder
    return temporary


def private(folder: Path) -> Path:
    """A new folder that only this user can access."""
    folder.mkdir(mode=0o700)
    return folder
