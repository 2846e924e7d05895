"""Derives from the settings how kernels start, and creates the folders they work in.

Kernels inherit only an allowlist of environment variables: API keys never reach them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BadSettings
from .package_settings import from_environment, from_files
from .settings import VARIABLES, Settings, variable_of

if TYPE_CHECKING:  # an attached server creates folders but needs no kernels
    from ..kernels import Config, Failed, JupyterServer, Launch, RemoteOptions

# Environment variables that kernels inherit besides LC_*; RMI_AGENT_KERNEL_ENV adds names.
INHERITED = {
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONPATH",
    "PYTHONHASHSEED",
    "PYTHONWARNINGS",
    "PYTHONUTF8",
    "PYTHONIOENCODING",
    "MPLBACKEND",
    "MPLCONFIGDIR",
    "JUPYTER_PATH",
    "JUPYTER_DATA_DIR",
    "OMP_NUM_THREADS",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SYSTEMROOT",
    "SYSTEMDRIVE",
    "COMSPEC",
    "PATHEXT",
    "TEMP",
    "TMP",
    "USERPROFILE",
    "APPDATA",
    "LOCALAPPDATA",
    "PROGRAMFILES",
    "PROGRAMDATA",
    "WINDIR",
    "NUMBER_OF_PROCESSORS",
    "PROCESSOR_ARCHITECTURE",
}
FOR_TOOLS = {"UV_NO_PROGRESS": "1"}  # bars that grow are one line each in a result
# Variables that provisioners of remote kernels read; passed on unless their name matches SECRET.
PROVISIONERS = re.compile(r"(KERNEL|GP|EG)_\w+")
SECRET = re.compile(r"PWD|PASS|TOKEN|SECRET|CREDENTIAL|KEY(?!TAB)")


def launch(settings: Settings) -> Launch:
    """The options for starting kernels."""
    from ..kernels import Launch

    return Launch(
        cwd=settings.projects,
        runtime=Path(),
        kernel_name=settings.kernel_name,
        env={**FOR_TOOLS, **inherited(settings)} if kernels_are_here(settings) else {},
        package_env=uv_settings(settings),
        output_limit=settings.output_limit,
        preload=settings.kernel_preload,
        remote_options=remote_options(settings),
        servers=jupyter_servers(settings),
    )


def uv_settings(settings: Settings) -> dict[str, str]:
    """What pip's and uv's configuration files say, for uv when the server runs it."""
    found = from_files(os.environ, settings.kernel_env)
    names = {"SSL_CERT_FILE"}
    return {name: value for name, value in found.items() if name in names or name[:3] == "UV_"}


def sessions(settings: Settings, hint: Callable[[Failed], Awaitable[str]]) -> Config:
    """The configuration common to all sessions; `hint` finds what to say about a failed run."""
    from ..kernels import Config

    return Config(
        notebooks=settings.notebooks,
        timeout=settings.python_timeout,
        output_limit=settings.output_limit,
        idle=settings.session_idle,
        memory_limit=settings.memory_limit,
        hint=hint,
        keep=settings.notebooks_keep,
        crash_recovery=settings.crash_recovery,
    )


def remote_options(settings: Settings) -> RemoteOptions:
    """Options for kernels that a provisioner starts on another machine."""
    from ..kernels import RemoteOptions

    ours = {name for one in VARIABLES.values() for name in one.names}
    env = {
        name: value
        for name, value in os.environ.items()
        if PROVISIONERS.fullmatch(name) and name not in ours and not SECRET.search(name)
    }
    return RemoteOptions(
        env,
        silence=settings.kernel_silence,
        confined=settings.sandbox != "off",
        files=settings.remote_files,
        max_bytes=settings.remote_files_limit,
        private=(settings.notebooks,),
    )


def inherited(settings: Settings) -> dict[str, str]:
    """The environment of kernels on this machine."""
    names = {*INHERITED, *settings.kernel_env}
    secrets = {name for one in VARIABLES.values() if one.secret for name in one.names}
    found = {
        name: value
        for name, value in os.environ.items()
        if (name.upper() in names or name in names or name.startswith("LC_"))
        and name.upper() not in secrets
    }
    rest = {name: value for name, value in os.environ.items() if name not in found}
    return {**from_environment(rest), **found}


def jupyter_servers(settings: Settings) -> tuple[JupyterServer, ...]:
    """The Jupyter Servers that kernels run on; empty if they run on this machine."""
    urls, tokens = settings.jupyter_server_url, settings.jupyter_server_tokens
    if not urls:
        return ()
    from ..kernels import JupyterServer

    tokens *= len(urls) if len(tokens) == 1 else 1
    return tuple(JupyterServer(*each) for each in zip(urls, tokens, strict=True))


def kernels_are_here(settings: Settings) -> bool:
    """Whether kernels run on this machine rather than on a Jupyter Server or remote provisioner."""
    from ..kernels import is_here

    return not settings.jupyter_server_url and is_here(settings.kernel_name)


def environment_is_fixed(settings: Settings) -> bool:
    """Whether the server's settings choose the environment of all sessions that name none."""
    field = type(settings).model_fields["kernel_name"]
    return settings.kernel_name != field.default or not kernels_are_here(settings)


def make_folders(settings: Settings) -> None:
    """Create the folders for Python files and notebooks.

    Raises:
        BadSettings: a folder can't be created.
    """
    for field, folder in (
        *(("python_projects_dir", folder) for folder in settings.python_projects_dir),
        ("notebooks_dir", settings.notebooks),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadSettings(
                f"{variable_of(field)}: can't use {folder} as a folder: {error.strerror}."
                " Set it to an absolute path that you can write to."
            ) from None
