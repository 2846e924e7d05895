"""All settings, one field each.

Does not read the environment: `settings.py` does, and reports errors.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr

from .environment import Notice, home
from .setting_types import (
    Bytes,
    Contested,
    Default,
    Domain,
    Folder,
    HttpOnly,
    JupyterUrls,
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

Attach = Literal["auto", "always", "never"]


class Settings(BaseModel):
    """The settings. `setting_types.py` defines the markers on fields.

    A field's description is its text in docs/settings.md, in Markdown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    _notices: tuple[Notice, ...] = PrivateAttr(())

    python_projects_dir: Annotated[
        Folder,
        Name("PYTHON_PROJECTS_DIR"),
        NotShared(),
        Default("`python_projects` in the checkout, or else in the current folder"),
    ] = Field(
        default_factory=lambda: home() / "python_projects",
        validate_default=True,
        description="Folder of the Python files that can be run.",
    )
    notebooks_dir: Annotated[
        Folder | None, NotShared(), Default("`notebooks` beside the projects folder")
    ] = Field(None, description="Folder where sessions are recorded.")
    python_timeout: Annotated[float, Name("PYTHON_TIMEOUT")] = Field(
        30.0,
        gt=0,
        description="Seconds after which a run is interrupted, unless the call says otherwise.",
    )
    response_deadline: float = Field(
        45.0, gt=0, description="Seconds after which a call returns while its run goes on."
    )
    output_chars: int = Field(
        20_000,
        ge=1_000,
        description="Characters of text in one result; `read_output` has the rest.",
    )
    output_limit: int = Field(
        10_000_000,
        ge=0,
        description="Bytes of output after which a cell is interrupted; 0 is no limit.",
    )
    session_idle: float = Field(
        1800.0, ge=0, description="Seconds until an unused session is closed; 0 is never."
    )
    kernel_name: str = Field(
        "python3",
        min_length=1,
        description="Kernelspec of the kernels (`jupyter kernelspec list`), of any language: only"
        " `run_python` needs Python.",
    )
    kernel_max: int = Field(
        16,
        ge=1,
        le=1000,
        description="Kernels at the same time, warm ones included. When all are taken, a new"
        " session closes an idle one: file runs first, then the one that has been idle longest.",
    )
    kernel_pool: int = Field(
        2,
        ge=0,
        le=100,
        description="Kernels that are kept warm at least; more while more are asked for. 0 keeps"
        " none.",
    )
    kernel_preload: Names = Field(
        PRELOADED,
        description="Modules that fresh kernels have imported already where they are installed,"
        " with commas between; empty imports none.",
    )
    kernel_env: Names = Field(
        (),
        description="More environment variables that kernels inherit, by name, with commas"
        " between.",
    )
    memory_limit: Annotated[Bytes, Default("2GB")] = Field(
        2_000_000_000,
        ge=0,
        description="Memory of all processes of a session together, shared memory included, beyond"
        " which its kernel is ended; 0 is no limit.",
    )
    sandbox: Annotated[
        Literal["auto", "bwrap", "landlock", "off"],
        BeforeValidator(from_switch),
        Contested("auto|bwrap|landlock|off"),  # Gemini CLI, payment services' .env files
    ] = Field(
        "auto",
        description="[Sandbox](sandbox.md) of the kernels (Linux): `bwrap`, `landlock`, `auto` for"
        " the better one that works, or `off`.",
    )
    sandbox_network: Annotated[
        bool | None, empty_is_unset, Default("1 over stdio, 0 over HTTP")
    ] = Field(None, description="1: code in the sandbox has the machine's network. 0: it has none.")
    sandbox_read: Annotated[Names, Contested("[^:]*")] = Field(  # Portage separates with colons
        (), description="More folders that code in the sandbox may read, with commas between."
    )
    sandbox_write: Annotated[Names, Contested("[^:]*")] = Field(
        (), description="More folders that it may change as well, with commas between."
    )
    projects_readonly: Annotated[bool, Default("0")] = Field(
        False,
        description="1: code in the sandbox may only read the projects folder;"
        " `write_python_file` still writes there.",
    )
    jupyter_server_url: Annotated[
        JupyterUrls,
        Unshown(),
        Contested(".*", beside="JUPYTER_SERVER_TOKEN"),  # JupyterLab's terminals set only the URL
    ] = Field(
        (),
        description="[Jupyter Servers](jupyter-servers.md) that run the kernels instead of this"
        " machine, with commas between.",
    )
    jupyter_server_token: Annotated[Token, Secret()] = Field(
        None,
        description="Their token; or one for each in the same order, with commas between.",
    )
    kernel_silence: float = Field(
        3.0,
        ge=1,
        description="Seconds without a sign of life after which a kernel"
        " [on another machine](remote-kernels.md) counts as lost.",
    )
    remote_files: Literal["auto", "sent", "shared"] = Field(
        "auto",
        description="Whether kernels on other machines get a copy of the projects folder (`sent`),"
        " have it by the same path (`shared`), or are looked at first (`auto`).",
    )
    remote_files_limit: Annotated[Bytes, Default("50MB")] = Field(
        50_000_000, ge=0, description="Size of that copy at most."
    )
    attach: Annotated[Attach, NotShared(), Contested("auto|always|never")] = Field(
        "auto",
        description="Whether a server on stdio hands all to the [resident server](resident.md):"
        " `auto` where one runs with the same version, folders and settings; `always`, and starts"
        " one where there is none; or `never`.",
    )
    rmi_agent_server: Annotated[LocalUrl, NotShared()] = Field(
        None,
        description="Address of that server, `http://127.0.0.1:PORT`, instead of looking for it.",
    )
    host: Annotated[str, HttpOnly(), Contested(ADDRESS)] = Field(  # conda, tcsh: machine names
        "127.0.0.1",
        min_length=1,
        description="Address on which HTTP listens; a resident server's is always 127.0.0.1.",
    )
    port: Annotated[int, HttpOnly(), Contested(r"\d*")] = Field(
        8000,
        ge=0,
        le=65535,
        description="Port on which HTTP listens, 0 for any; a resident server takes any unless it"
        " is set.",
    )
    allowed_hosts: Annotated[Names, HttpOnly(), Contested(r"(?!\*$).*")] = Field(  # Django's *
        (),
        description="Host names besides loopback that HTTP answers to, with commas between; `*` is"
        " allowed in them.",
    )
    rmi_agent_token: Annotated[Token, Secret(), HttpOnly(), Default("made at the first start")] = (
        Field(None, description="Bearer token that HTTP asks for.")
    )
    rmi_agent_tokens: Annotated[Token, Secret(), HttpOnly()] = Field(
        None,
        description="Tokens of several users: `alice:TOKEN,bob:TOKEN`, or the path of a file with"
        " one a line.",
    )
    auth: Annotated[  # secret because mcp-remote's AUTH is a header with a token
        Literal["token", "token+oauth", "token+github", "token+google", "token+oidc"],
        Secret(),
        HttpOnly(),
        Contested(r"token(\+\w+)?"),
    ] = Field(
        "token",
        description="How callers over HTTP sign in [besides tokens](remote.md): `token+oauth`,"
        " `token+github`, `token+google`, `token+oidc`.",
    )
    public_url: Annotated[str | None, HttpOnly(), Contested("https?://.*")] = Field(
        None,
        description="Address by which clients and browsers reach the server: `https://HOST`"
        " without a path, or `http://` and a loopback host. Needed for sign-in, and its host is"
        " allowed.",
    )
    oauth_client_id: Annotated[str | None, HttpOnly()] = Field(
        None, description="Client id that GitHub, Google or the issuer has given this server."
    )
    oauth_client_secret: Annotated[SecretStr | None, Secret(), HttpOnly()] = Field(
        None, description="The secret that belongs to it."
    )
    oauth_config_url: Annotated[str | None, HttpOnly()] = Field(
        None,
        description="Configuration of the OpenID Connect issuer:"
        " `https://…/.well-known/openid-configuration`.",
    )
    oauth_users: Annotated[Names, HttpOnly()] = Field(
        (), description="Users of the provider who are let in, with commas between."
    )
    cors_origins: Annotated[Origins, HttpOnly()] = Field(
        (),
        description="Origins of web pages that may call over HTTP, whole (`https://page.example`),"
        " with commas between.",
    )
    rate_limit: Annotated[int, HttpOnly(), Contested(r"\d*")] = Field(
        600, ge=0, description="Requests a minute of each user over HTTP; 0 is no limit."
    )
    sessions_per_user: Annotated[
        Annotated[int, Field(ge=1)] | None,
        empty_is_unset,
        HttpOnly(),
        Default("three quarters of `RMI_AGENT_KERNEL_MAX`"),
    ] = Field(
        None,
        description="Sessions of each user over HTTP. One more closes that user's own idle one, or"
        " waits for it.",
    )
    ngrok_authtoken: Annotated[Token, Name("NGROK_AUTHTOKEN"), Secret(), HttpOnly()] = Field(
        None, description="Authtoken of your ngrok account, for `--tunnel ngrok`."
    )
    ngrok_domain: Annotated[Domain, HttpOnly()] = Field(
        None, description="One of your ngrok account's domains, if the address is to stay."
    )
    session_store: Annotated[SecretStr, Secret(), Default("memory")] = Field(
        SecretStr("memory"),
        description="Where [several servers](clustering.md) keep which of them has which session:"
        " `redis://…`, or a folder.",
    )

    @cached_property
    def projects(self) -> Path:
        """The real path of the projects folder."""
        return self.python_projects_dir.resolve()

    @cached_property
    def notebooks(self) -> Path:
        """The notebooks folder; beside the projects folder unless set."""
        return self.notebooks_dir or self.python_projects_dir.parent / "notebooks"

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
