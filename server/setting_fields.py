"""All settings, one field each.

Does not read the environment: `settings.py` does, and reports errors.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr

from .attach_modes import Attach
from .setting_names import Notice, home
from .setting_types import (
    Age,
    Bytes,
    Contested,
    Default,
    Domain,
    Folder,
    Folders,
    HttpOnly,
    JupyterUrls,
    KernelsToJoin,
    LocalUrl,
    Name,
    Names,
    NotShared,
    Origins,
    Secret,
    Token,
    Unshown,
    empty_is_unset,
    from_switch,
)

# Imported by fresh kernels if installed.
PRELOADED = ("numpy", "pandas", "matplotlib.pyplot")
ADDRESS = r"localhost|[0-9.]+|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"


class Settings(BaseModel):
    """The settings. `setting_types.py` defines the markers on fields.

    A field's description is its text in docs/settings.md, in Markdown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    _notices: tuple[Notice, ...] = PrivateAttr(())

    python_projects_dir: Annotated[
        Folders,
        Name("PYTHON_PROJECTS_DIR"),
        NotShared(),
        Default("`python_projects` in the checkout, or in the current folder"),
    ] = Field(
        default_factory=lambda: (home() / "python_projects",),
        validate_default=True,
        description="Folder of the Python files that can be run, or several, separated by commas:"
        " cells start in the first, and names begin there, or with the name of one of the others.",
    )
    notebooks_dir: Annotated[
        Folder | None, NotShared(), Default("`notebooks` beside the projects folder")
    ] = Field(None, description="Folder where sessions are recorded.")
    notebooks_keep: Annotated[Age, NotShared(), Default("forever")] = Field(
        0.0,
        ge=0,
        description="How long [records of sessions](notebooks-and-review.md#delete-old-records)"
        " are kept after their last cell: `90d`, `12h` or `8w`; then they are deleted.",
    )
    python_timeout: Annotated[float, Name("PYTHON_TIMEOUT")] = Field(
        30.0,
        gt=0,
        description="Seconds until a run is interrupted, unless the call sets `timeout`.",
    )
    response_deadline: float = Field(
        45.0, gt=0, description="Seconds until a call returns while its run continues."
    )
    output_chars: int = Field(
        20_000,
        ge=1_000,
        description="Max characters of text in one result; `read_output` has the rest.",
    )
    result_size: int = Field(
        900_000,
        ge=50_000,
        description="Max bytes of one result, pictures included, which are scaled down for it:"
        " some hosts refuse more than 1 MB.",
    )
    output_limit: int = Field(
        10_000_000,
        ge=0,
        description="Bytes of output after which a cell is interrupted; 0: no limit.",
    )
    session_idle: float = Field(
        1800.0, ge=0, description="Seconds until an unused session is closed; 0: never."
    )
    kernel_name: str = Field(
        "python3",
        min_length=1,
        description="Kernelspec of the kernels (`jupyter kernelspec list`), in any language; only"
        " `run_python` needs Python.",
    )
    kernel_max: int = Field(
        16,
        ge=1,
        le=1000,
        description="Max kernels at the same time, warm ones included. When all are taken, a new"
        " session closes an idle one: file runs first, then the longest idle session.",
    )
    kernel_pool: int = Field(
        2,
        ge=0,
        le=100,
        description="Min number of warm kernels; grows with demand. 0: none.",
    )
    kernel_preload: Names = Field(
        PRELOADED,
        description="Comma-separated modules that fresh kernels have already imported, if they"
        " are installed; empty: none.",
    )
    kernel_env: Names = Field(
        (),
        description="Comma-separated names of more environment variables that kernels inherit.",
    )
    memory_limit: Annotated[Bytes, Default("2GB")] = Field(
        2_000_000_000,
        ge=0,
        description="Max memory of all processes of a session together, shared memory included,"
        " and of a run of uv; beyond it, they are killed. 0: no limit.",
    )
    crash_recovery: bool = Field(
        False,
        description="Whether sessions [keep their variables](tools.md#survive-a-crash) when a cell"
        " ends the kernel; costs some memory, and milliseconds after each cell.",
    )
    sandbox: Annotated[
        Literal["auto", "bwrap", "landlock", "off"],
        BeforeValidator(from_switch),
        Contested("auto|bwrap|landlock|off"),  # Gemini CLI, payment services' .env files
    ] = Field(
        "auto",
        description="[Sandbox](sandbox.md) of the kernels (Linux): `bwrap`, `landlock`, `auto`"
        " (the first of these that works), or `off`.",
    )
    sandbox_network: Annotated[
        bool | None, empty_is_unset, Default("1 over stdio, 0 over HTTP")
    ] = Field(None, description="1: code in the sandbox has network access. 0: it has none.")
    sandbox_read: Annotated[Names, Contested("[^:]*")] = Field(  # Portage separates with colons
        (), description="Comma-separated folders that code in the sandbox may also read."
    )
    sandbox_write: Annotated[Names, Contested("[^:]*")] = Field(
        (), description="Comma-separated folders that it may also read and change."
    )
    projects_readonly: Annotated[bool, Default("0")] = Field(
        False,
        description="1: code in the sandbox can't change the projects folder;"
        " `write_python_file` still can.",
    )
    jupyter_server_url: Annotated[
        JupyterUrls,
        Unshown(),
        Contested(".*", beside="JUPYTER_SERVER_TOKEN"),  # JupyterLab's terminals set only the URL
    ] = Field(
        (),
        description="Comma-separated URLs of [Jupyter Servers](jupyter-servers.md) that run the"
        " kernels instead of this machine.",
    )
    jupyter_server_token: Annotated[Token, Secret()] = Field(
        None,
        description="Their token, or a comma-separated list with one for each in order.",
    )
    attach_kernels: Annotated[KernelsToJoin, Default("`off`")] = Field(
        (),
        description="Which kernels that you have open yourself the assistant"
        " [may join](attaching.md): `local`, those on this machine (in JupyterLab, VS Code, a"
        " console); `servers`, those on the Jupyter Servers above; `local,servers`; or `off`.",
    )
    kernel_silence: float = Field(
        3.0,
        ge=1,
        description="Seconds without a heartbeat after which a kernel"
        " [on another machine](remote-kernels.md) is lost.",
    )
    remote_files: Literal["auto", "sent", "shared"] = Field(
        "auto",
        description="Whether kernels on other machines get a copy of the projects folder (`sent`)"
        " or have it at the same path (`shared`); `auto` checks.",
    )
    remote_files_limit: Annotated[Bytes, Default("50MB")] = Field(
        50_000_000, ge=0, description="Max size of that copy."
    )
    attach: Annotated[Attach, NotShared(), Contested("auto|always|never")] = Field(
        "auto",
        description="Whether a server on stdio forwards to the [background server](resident.md):"
        " `auto` if one runs with the same version, folders and settings; `always`, starting one"
        " if none runs; or `never`.",
    )
    rmi_agent_server: Annotated[LocalUrl, NotShared()] = Field(
        None,
        description="Address of that server, `http://127.0.0.1:PORT`, instead of discovery.",
    )
    host: Annotated[str, HttpOnly(), Contested(ADDRESS)] = Field(  # conda, tcsh: machine names
        "127.0.0.1",
        min_length=1,
        description="Address that HTTP listens on; a background server always uses 127.0.0.1.",
    )
    port: Annotated[int, HttpOnly(), Contested(r"\d*")] = Field(
        8000,
        ge=0,
        le=65535,
        description="Port that HTTP listens on; 0: any free one, as a background server does unless"
        " this is set.",
    )
    allowed_hosts: Annotated[Names, HttpOnly(), Contested(r"(?!\*$).*")] = Field(  # Django's *
        (),
        description="Comma-separated host names, besides loopback, that HTTP answers to; `*` is a"
        " wildcard.",
    )
    rmi_agent_token: Annotated[
        Token, Secret(), HttpOnly(), Default("created at the first start")
    ] = Field(None, description="Bearer token that HTTP clients need.")
    rmi_agent_tokens: Annotated[Token, Secret(), HttpOnly()] = Field(
        None,
        description="Tokens of several users: `alice:TOKEN,bob:TOKEN`, or the path of a file with"
        " one per line.",
    )
    auth: Annotated[  # secret because mcp-remote's AUTH is a header with a token
        Literal["token", "token+oauth", "token+github", "token+google", "token+oidc"],
        Secret(),
        HttpOnly(),
        Contested(r"token(\+\w+)?"),
    ] = Field(
        "token",
        description="How HTTP clients sign in [besides tokens](remote.md): `token+oauth`,"
        " `token+github`, `token+google`, `token+oidc`.",
    )
    public_url: Annotated[str | None, HttpOnly(), Contested("https?://.*")] = Field(
        None,
        description="URL at which clients and browsers reach the server: `https://HOST` without a"
        " path, or `http://` and a loopback host. Required for sign-in; its host is allowed.",
    )
    oauth_client_id: Annotated[str | None, HttpOnly()] = Field(
        None, description="Client ID that GitHub, Google or the issuer assigned to this server."
    )
    oauth_client_secret: Annotated[SecretStr | None, Secret(), HttpOnly()] = Field(
        None, description="Client secret that belongs to it."
    )
    oauth_config_url: Annotated[str | None, HttpOnly()] = Field(
        None,
        description="Configuration URL of the OpenID Connect issuer:"
        " `https://…/.well-known/openid-configuration`.",
    )
    oauth_users: Annotated[Names, HttpOnly()] = Field(
        (), description="Comma-separated users of the provider who may sign in."
    )
    cors_origins: Annotated[Origins, HttpOnly()] = Field(
        (),
        description="Comma-separated full origins (`https://page.example`) of web pages that may"
        " call over HTTP.",
    )
    rate_limit: Annotated[int, HttpOnly(), Contested(r"\d*")] = Field(
        600, ge=0, description="Max requests per minute of each user over HTTP; 0: no limit."
    )
    upload_limit: Annotated[Bytes, HttpOnly(), Default("1GB")] = Field(
        1_000_000_000,
        ge=0,
        description="Max size of a [file](files.md) that is uploaded over HTTP. 0: none is.",
    )
    sessions_per_user: Annotated[
        Annotated[int, Field(ge=1)] | None,
        empty_is_unset,
        HttpOnly(),
        Default("three quarters of `RMI_AGENT_KERNEL_MAX`"),
    ] = Field(
        None,
        description="Max sessions of each user over HTTP. One more closes that user's longest idle"
        " session, or waits until one is idle.",
    )
    ngrok_authtoken: Annotated[Token, Name("NGROK_AUTHTOKEN"), Secret(), HttpOnly()] = Field(
        None, description="Authtoken of your ngrok account, for `--tunnel ngrok`."
    )
    ngrok_domain: Annotated[Domain, HttpOnly()] = Field(
        None, description="One of your ngrok account's domains, for an address that stays the same."
    )
    session_store: Annotated[SecretStr, Secret(), Default("memory")] = Field(
        SecretStr("memory"),
        description="Where [several servers](clustering.md) record which of them has which session:"
        " `redis://…`, or a folder.",
    )

    @cached_property
    def projects(self) -> Path:
        """The real path of the first projects folder."""
        return self.roots[0]

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """The real paths of all projects folders."""
        return tuple(dict.fromkeys(path.resolve() for path in self.python_projects_dir))

    @property
    def projects_dir(self) -> str:
        """The projects folders as PYTHON_PROJECTS_DIR names them."""
        return ",".join(map(str, self.python_projects_dir))

    @cached_property
    def notebooks(self) -> Path:
        """The notebooks folder; beside the projects folder unless set."""
        return self.notebooks_dir or self.python_projects_dir[0].parent / "notebooks"

    @property
    def jupyter_server_tokens(self) -> list[str]:
        """The Jupyter Servers' tokens: one for all servers, or one each."""
        given = self.jupyter_server_token
        return [token.strip() for token in given.get_secret_value().split(",")] if given else [""]

    @property
    def most_sessions(self) -> int:
        """Max sessions of one user over HTTP; the default leaves room for other users."""
        return self.sessions_per_user or max(1, self.kernel_max * 3 // 4)

    def shared(self) -> dict[str, Any]:
        """The settings, besides folders, that sessions depend on, as JSON values keyed by field."""
        apart = (Secret, HttpOnly, NotShared)
        fields = type(self).model_fields.items()
        names = {
            name
            for name, field in fields
            if not any(isinstance(mark, apart) for mark in field.metadata)
        }
        return self.model_dump(mode="json", include=names)

    def warnings(self, *, http: bool) -> list[str]:
        """Messages to the user about the variables that were read, one line each."""
        return [one.text for one in self._notices if http or not one.http_only]
