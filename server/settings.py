"""All that can be set, read once from the environment or a `.env` file.

Nothing else in the server reads the environment, and `.env` never becomes part of it.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

if TYPE_CHECKING:  # a server that is attached to another has no use for kernels
    from ..kernels import Config, Far, JupyterServer, Launch

# What kernels inherit. API keys and tokens are not in it; KERNEL_ENV adds names.
KERNEL_ENV = [
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
    "JUPYTER_PATH",
    "JUPYTER_DATA_DIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "MPLCONFIGDIR",
    "OMP_NUM_THREADS",
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
]
# Imported by fresh kernels, where they are installed.
PRELOADED = ("numpy", "pandas", "matplotlib.pyplot")
# Never inherited and never shown. In AUTH, other programs expect a header with a token in it.
SECRETS = {
    "RMI_AGENT_TOKEN",
    "RMI_AGENT_TOKENS",
    "OAUTH_CLIENT_SECRET",
    "NGROK_AUTHTOKEN",
    "JUPYTER_SERVER_TOKEN",
    "SESSION_STORE",
    "AUTH",
}
# Not repeated when it can't be used: people paste addresses with a token in them.
UNSHOWN = SECRETS | {"JUPYTER_SERVER_URL"}

# What provisioners of other machines read in a kernel's environment, if there is no secret in it.
PROVISIONERS = re.compile(r"(KERNEL|GP|EG)_\w+")
SECRET = re.compile(r"PWD|PASS|TOKEN|SECRET|CREDENTIAL|KEY(?!TAB)")

# Of no use to a server that a host starts on stdio.
HTTP_ONLY = {
    "HOST",
    "PORT",
    "ALLOWED_HOSTS",
    "CORS_ORIGINS",
    "RATE_LIMIT",
    "RUNS_PER_USER",
    "SESSIONS_PER_USER",
    "PUBLIC_URL",
    "OAUTH_CLIENT_ID",
    "OAUTH_CONFIG_URL",
    "OAUTH_USERS",
}

# Neither these nor the folders tell one server's sessions from another's.
NOT_SHARED = (
    HTTP_ONLY
    | SECRETS
    | {"PYTHON_PROJECTS_DIR", "NOTEBOOKS_DIR", "NGROK_DOMAIN", "ATTACH", "RMI_AGENT_SERVER"}
)

Names = Annotated[tuple[str, ...], NoDecode]
Attach = Literal["auto", "always", "never"]


class BadSettings(Exception):
    """A setting has a value that can't be used; the text is one line naming the variable."""


def checkout() -> Path | None:
    """The folder that this code is run from, where it is a checkout."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def home() -> Path:
    """Where the default folders are: the checkout, or the current directory."""
    return checkout() or Path.cwd()


class Settings(BaseSettings):
    """The settings, by their variables' names in lower case. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_file=(home() / ".env", ".env"), env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    python_projects_dir: Path = Field(default_factory=lambda: home() / "python_projects")
    notebooks_dir: Path | None = None
    python_timeout: float = Field(30.0, gt=0)
    response_deadline: float = Field(45.0, gt=0)
    kernel_name: str = Field("python3", min_length=1)
    kernel_pool: int = Field(2, ge=0, le=100)
    kernel_max: int = Field(16, ge=1, le=1000)
    kernel_wait: float = Field(30.0, gt=0)
    kernel_env: Names = ()
    kernel_preload: Names = PRELOADED
    kernel_silence: float = Field(3.0, ge=1)
    remote_files: Literal["auto", "sent", "shared"] = "auto"
    remote_files_limit: int = Field(50_000_000, ge=0)
    jupyter_server_url: Names = ()
    jupyter_server_token: SecretStr | None = None
    session_idle: float = Field(1800.0, ge=0)
    session_store: SecretStr = SecretStr("memory")
    output_limit: int = Field(10_000_000, ge=0)
    output_chars: int = Field(20_000, ge=1_000)
    memory_limit: int = Field(2_000_000_000, ge=0)
    sandbox: Literal["auto", "bwrap", "landlock", "off"] = "auto"
    sandbox_network: bool | None = None
    sandbox_read: Names = ()
    sandbox_write: Names = ()
    projects_readonly: bool = False
    attach: Attach = "auto"
    rmi_agent_server: str | None = None
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65535)
    allowed_hosts: Names = ()
    cors_origins: Names = ()
    rate_limit: int = Field(600, ge=0)
    runs_per_user: int = Field(32, ge=1)
    sessions_per_user: int | None = Field(None, ge=1)
    rmi_agent_token: SecretStr | None = None
    rmi_agent_tokens: SecretStr | None = None
    auth: Literal["token", "token+oauth", "token+github", "token+google", "token+oidc"] = "token"
    public_url: str | None = None
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_config_url: str | None = None
    oauth_users: Names = ()
    ngrok_authtoken: SecretStr | None = None
    ngrok_domain: str | None = None

    @field_validator(
        "kernel_env",
        "kernel_preload",
        "jupyter_server_url",
        "sandbox_read",
        "sandbox_write",
        "allowed_hosts",
        "cors_origins",
        "oauth_users",
        mode="before",
    )
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("memory_limit", "remote_files_limit", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        """Accept `2GB`, `512 MB` and plain bytes."""
        return TypeAdapter(ByteSize).validate_python(value)

    @field_validator(
        "rmi_agent_token",
        "rmi_agent_tokens",
        "sessions_per_user",
        "ngrok_authtoken",
        "ngrok_domain",
        "jupyter_server_token",
        "rmi_agent_server",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return value or None

    @field_validator("jupyter_server_url")
    @classmethod
    def _bases(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(base_url(url) for url in value))

    @field_validator("ngrok_domain")
    @classmethod
    def _bare_domain(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", value):
            raise ValueError("write a host name alone, such as python.ngrok.app")
        return value

    @field_validator("rmi_agent_server")
    @classmethod
    def _of_this_machine(cls, value: str | None) -> str | None:
        """Its base: http://ADDRESS:PORT."""
        if value is None:
            return None
        found = re.fullmatch(
            r"http://(localhost|127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})(/mcp|/)?", value
        )
        if found is None:
            raise ValueError(
                "write http://127.0.0.1:PORT, the address of a server of this machine;"
                " for one elsewhere there is install --url"
            )
        return f"http://{found[1].replace('localhost', '127.0.0.1')}:{found[2]}"

    @field_validator("cors_origins")
    @classmethod
    def _whole_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+", origin):
                raise ValueError(f"{origin} is no origin; write https://HOST, without * or a path")
        return value

    @field_validator("python_projects_dir", "notebooks_dir", mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:
        """Fill in `${HOME}` and the like, as shells do and programs with config files don't."""
        filled = os.path.expandvars(value) if isinstance(value, str) else value
        if isinstance(filled, str) and "${" in filled:
            raise ValueError("what is in ${} has no value here; write the path itself")
        return filled

    @field_validator("python_projects_dir", "notebooks_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else Path(os.path.abspath(value.expanduser()))

    @field_validator("sandbox", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        """Accept what a switch gives, as the Claude Desktop extension has one."""
        return {"true": "auto", "false": "off"}.get(str(value).lower(), value)

    @cached_property
    def projects(self) -> Path:
        """The projects folder by its real path."""
        return self.python_projects_dir.resolve()

    @cached_property
    def notebooks(self) -> Path:
        """Where notebooks go: beside the projects folder unless set."""
        return self.notebooks_dir or self.python_projects_dir.parent / "notebooks"

    @cached_property
    def servers(self) -> tuple[JupyterServer, ...]:
        """The Jupyter Servers that kernels run on; none if they run here.

        Raises:
            BadSettings: the tokens do not fit.
        """
        urls = self.jupyter_server_url
        if not urls:
            return ()
        from ..kernels import JupyterServer

        given = self.jupyter_server_token
        tokens = [token.strip() for token in given.get_secret_value().split(",")] if given else [""]
        if not all(re.fullmatch(r"[!-~]*", token) for token in tokens):
            raise BadSettings("JUPYTER_SERVER_TOKEN: a token has no spaces and is plain ASCII.")
        if len(tokens) not in (1, len(urls)):
            raise BadSettings(
                f"JUPYTER_SERVER_TOKEN: it has {len(tokens)} tokens, and JUPYTER_SERVER_URL"
                f" {len(urls)} addresses. Give one for all, or one for each in the same order."
            )
        tokens *= len(urls) if len(tokens) == 1 else 1
        return tuple(JupyterServer(*each) for each in zip(urls, tokens, strict=True))

    @property
    def most_sessions(self) -> int:
        """Sessions of one user over HTTP: unless set, some room is left for others."""
        return self.sessions_per_user or max(1, self.kernel_max * 3 // 4)

    def make_folders(self) -> None:
        """Create both folders.

        Raises:
            BadSettings: one can't be created.
        """
        for variable, folder in (
            ("PYTHON_PROJECTS_DIR", self.python_projects_dir),
            ("NOTEBOOKS_DIR", self.notebooks),
        ):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadSettings(
                    f"{variable}: can't use {folder} as a folder: {error.strerror}."
                    " Set it to an absolute path that you may write to."
                ) from None

    def launch(self) -> Launch:
        """How kernels start."""
        from ..kernels import Launch

        names = {*KERNEL_ENV, *self.kernel_env}
        env = {
            name: value
            for name, value in os.environ.items()
            if (name.upper() in names or name in names or name.startswith("LC_"))
            and name.upper() not in SECRETS
            and self.kernels_are_here
        }
        return Launch(
            cwd=self.projects,
            runtime=Path(),
            kernel_name=self.kernel_name,
            env=env,
            output_limit=self.output_limit,
            preload=self.kernel_preload,
            far=self.far(),
            servers=self.servers,
        )

    @cached_property
    def kernels_are_here(self) -> bool:
        """Whether kernels run on this machine, and not where a provisioner or server has them."""
        from ..kernels import is_here

        return not self.servers and is_here(self.kernel_name)

    def far(self) -> Far:
        """How it is with kernels that a provisioner puts on another machine."""
        from ..kernels import Far

        ours = {name.upper() for name in type(self).model_fields}
        env = {
            name: value
            for name, value in os.environ.items()
            if PROVISIONERS.fullmatch(name) and name not in ours and not SECRET.search(name)
        }
        return Far(
            env,
            silence=self.kernel_silence,
            confined=self.sandbox != "off",
            files=self.remote_files,
            most=self.remote_files_limit,
            private=(self.notebooks,),
        )

    def shared(self) -> dict[str, Any]:
        """What sessions depend on besides the folders, as JSON has it."""
        names = {name for name in Settings.model_fields if name.upper() not in NOT_SHARED}
        return self.model_dump(mode="json", include=names)

    def files(self) -> list[Path]:
        """The files that were read: `.env`, and what RMI_AGENT_TOKENS names."""
        found = [home() / ".env", Path(".env")]
        if self.rmi_agent_tokens is not None:
            found.append(Path(self.rmi_agent_tokens.get_secret_value()).expanduser())
        return [path for path in found if is_file(path)]

    def store_folder(self) -> Path | None:
        """The folder that SESSION_STORE names, if it is there."""
        value = self.session_store.get_secret_value()
        path = None if value in ("", "memory") or "://" in value else Path(value).expanduser()
        return path if path is not None and path.is_dir() else None

    def sessions(self, hints: dict[str, str]) -> Config:
        """What all sessions have in common; `hints` by the names of errors."""
        from ..kernels import Config

        return Config(
            notebooks=self.notebooks,
            timeout=self.python_timeout,
            output_limit=self.output_limit,
            idle=self.session_idle,
            memory_limit=self.memory_limit,
            hints=hints,
        )


def is_file(path: Path) -> bool:
    """Whether there is such a file; tokens themselves may be too long for a path."""
    try:
        return path.is_file()
    except OSError:
        return False


def base_url(url: str) -> str:
    """A Jupyter Server's address without what its pages add to it.

    Raises:
        ValueError: it is none; the text does not repeat it.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("write it without ?token=… or a user; JUPYTER_SERVER_TOKEN has the token")
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host or not url.isascii():
        raise ValueError("write http://HOST:PORT or https://HOST, with the base path if it has one")
    path = re.sub(r"/(lab|tree|notebooks|api)?/*$", "", parts.path.rstrip("/") + "/")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


def load(**overrides: Any) -> Settings:
    """Read the settings; `overrides` come from a command line and win.

    Raises:
        BadSettings: a value can't be used.
    """
    try:
        settings = Settings(**overrides)
        _ = settings.servers
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "settings"
        given = "" if name in UNSHOWN else f" (it is {first.get('input')!r})"
        raise BadSettings(f"{name}: {first['msg']}{given}") from None
    except (OSError, UnicodeError) as error:
        raise BadSettings(f".env can't be read: {error}") from None


def set_here() -> dict[str, str]:
    """What is set here for servers on stdio, and would not be where a host starts one.

    Hosts have an environment of their own and start servers in some other folder, so this is
    what the environment has, or a `.env` that is read in this folder alone. Call `load` first.
    """
    sources: list[EnvSettingsSource] = [EnvSettingsSource(Settings)]
    if Path.cwd() != checkout():
        sources.insert(
            0, DotEnvSettingsSource(Settings, env_file=".env", env_file_encoding="utf-8")
        )
    found: dict[str, str] = {}
    for source in sources:
        for name in Settings.model_fields:
            value = source.env_vars.get(name)
            if value is not None and name.upper() not in SECRETS | HTTP_ONLY:
                found[name.upper()] = value
    return found


def claude_code_folder() -> Path | None:
    """CLAUDE_CONFIG_DIR, by which Claude Code keeps its config elsewhere."""
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(folder).expanduser() if folder else None


def die(error: BadSettings) -> NoReturn:
    """Say the one line and leave with 2, as command lines do for bad usage."""
    print(f"rmi-agent-mcp-server: {error}", file=sys.stderr)
    raise SystemExit(2)
