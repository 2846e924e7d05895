"""Chooses the kernels' sandbox: what the settings ask for, as far as this machine supports it.

Knows settings and policies; building the sandbox is the job of `kernels`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import platformdirs

from ..kernels import (
    TIERS,
    Policy,
    Tier,
    keeps_devices,
    knows_system_calls,
    lets_signals_out,
    why_not,
)
from .errors import BadSettings
from .launch import kernels_are_here, make_folders
from .package_settings import from_files, named_paths
from .settings import Settings, dotenv_files
from .state_dir import private_folder, token_file

log = logging.getLogger(__name__)

PACKAGE = [Path(__file__).parent.parent / name for name in ("cli", "server", "kernels", "client")]

SIGNALS = "before Linux 6.12, code in it can signal this server and your other processes"


def choose_policy(settings: Settings, *, exposed: bool) -> Policy | None:
    """The sandbox to use, or None for no sandbox.

    Args:
        settings: the sandbox settings.
        exposed: whether anyone but this machine's user may run code; then a sandbox is
            required, without network unless the settings ask for it.

    Raises:
        BadSettings: the chosen sandbox does not work here, or one is required and none works.
    """
    if settings.sandbox == "off":
        return None
    if not kernels_are_here(settings):
        refuse_elsewhere(settings)
        return None
    network = settings.sandbox_network
    policy = policy_of(settings, TIERS[0], not exposed if network is None else network)
    wanted = TIERS if settings.sandbox == "auto" else (settings.sandbox,)
    reasons = []
    for tier in wanted:
        trying = replace(policy, tier=tier)
        reason = why_not(trying)
        if not reason and lets_signals_out(trying):
            if exposed and settings.sandbox == "auto":
                reason = f"{SIGNALS} (RMI_AGENT_SANDBOX=landlock accepts that)"
            else:
                log.warning("Kernels run in a sandbox with a gap: %s", SIGNALS)
        if not reason:
            log.info("Kernels run in a sandbox: %s", describe_policy(trying))
            return trying
        reasons.append(f"{tier}: {reason}")
    why = "; ".join(reasons)
    if settings.sandbox != "auto":
        raise BadSettings(f"RMI_AGENT_SANDBOX: {settings.sandbox} does not work here. {why}")
    if exposed:
        raise BadSettings(
            f"RMI_AGENT_SANDBOX: no sandbox works here ({why}), and over HTTP others can run code."
            " Install bubblewrap, or let them do all that this account can with --no-sandbox"
            " (RMI_AGENT_SANDBOX=off)."
        )
    log.warning("Kernels run without a sandbox and can do all that this user can: %s", why)
    return None


def refuse_elsewhere(settings: Settings) -> None:
    """Log that RMI_AGENT_SANDBOX does not apply to kernels on other machines.

    Raises:
        BadSettings: the settings ask for a sandbox.
    """
    where = elsewhere(settings)
    if settings.sandbox != "auto":
        raise BadSettings(
            f"RMI_AGENT_SANDBOX: {settings.sandbox} confines kernels on this machine, but these run"
            f" {where}. Set it to auto or off: the machine where they run confines them."
        )
    log.info("Kernels run %s: that machine confines the code, not RMI_AGENT_SANDBOX", where)


def elsewhere(settings: Settings) -> str:
    """Where kernels run, for messages, when they are not on this machine."""
    if settings.jupyter_server_url:
        return "on Jupyter Servers (RMI_AGENT_JUPYTER_SERVER_URL)"
    return f"where the provisioner of {settings.kernel_name} starts them"


def policy_of(settings: Settings, tier: Tier, network: bool) -> Policy:
    """Turn the settings into a policy.

    Creates the folders to hide first, since a folder created later would be visible.

    Raises:
        BadSettings: kernels could change the server's own files, or a folder can't be created.
    """
    read = folders("RMI_AGENT_SANDBOX_READ", settings.sandbox_read)
    write = folders("RMI_AGENT_SANDBOX_WRITE", settings.sandbox_write)
    changed = [("RMI_AGENT_SANDBOX_WRITE", folder) for folder in write]
    projects, *others = settings.roots
    inside = [] if settings.projects_readonly else settings.roots
    for root in inside:
        if not Path.home().resolve().is_relative_to(root):
            continue
        raise BadSettings(
            f"PYTHON_PROJECTS_DIR: {root} contains your whole home folder, so code that runs"
            " here could change programs that you start. Choose a folder inside it, or set"
            " RMI_AGENT_SANDBOX=off."
        )
    changed[:0] = [("PYTHON_PROJECTS_DIR", root) for root in inside]
    for path in settings_files(settings):
        refuse_within(path, changed)
    make_folders(settings)
    try:
        private_folder()
    except OSError as error:
        raise BadSettings(
            f"XDG_STATE_HOME: can't create the server's own folder ({error}), so it can't be"
            " hidden from code that runs here. Set it to a folder that you can write to."
        ) from None
    package_env = from_files(os.environ, settings.kernel_env)
    package_files = [
        path
        for path in named_paths({**package_env, **os.environ})
        if not any(path.is_relative_to(folder) for folder in (*settings.roots, *write))
    ]
    if settings.projects_readonly:
        read = (*others, *read)
    else:
        write = (*others, *write)
    return Policy(
        tier,
        projects,
        homes=Path(platformdirs.user_data_dir("rmi-agent"), "work"),
        read_only=settings.projects_readonly,
        network=network,
        read=read,
        write=write,
        hide=tuple(private_paths(settings)),
        fixed=tuple(PACKAGE),
        package_env=tuple(sorted(package_env.items())),
        package_files=tuple(package_files),
    )


def private_paths(settings: Settings) -> list[Path]:
    """The server's own files and folders, which neither code nor callers may read by name."""
    store = store_folder(settings)
    found = [settings.notebooks, token_file().parent, *settings_files(settings)]
    return [*found, store] if store is not None else found


def settings_files(settings: Settings) -> list[Path]:
    """The files that settings come from: `.env` files, and the one that RMI_AGENT_TOKENS names."""
    found = dotenv_files()
    if settings.rmi_agent_tokens is not None:
        found.append(Path(settings.rmi_agent_tokens.get_secret_value()).expanduser())
    return [path for path in found if is_file(path)]


def is_file(path: Path) -> bool:
    """Whether a path is a file; the value may be the tokens themselves, too long for a path."""
    try:
        return path.is_file()
    except OSError:
        return False


def store_folder(settings: Settings) -> Path | None:
    """The folder that RMI_AGENT_SESSION_STORE names, if it exists."""
    value = settings.session_store.get_secret_value()
    path = None if value in ("", "memory") or "://" in value else Path(value).expanduser()
    return path if path is not None and path.is_dir() else None


def refuse_within(path: Path, changed: list[tuple[str, Path]]) -> None:
    """Refuse a settings file if kernels could change it or the link that leads to it.

    Args:
        path: the settings file.
        changed: the folders that kernels may write to, each with the variable that names it.

    Raises:
        BadSettings: the file is in one of these folders.
    """
    link = path.parent.resolve() / path.name
    for variable, folder in changed:
        for place in (link, path.resolve()):
            if place.is_relative_to(folder.resolve()):
                raise BadSettings(
                    f"{variable}: it contains {place}, so code that runs here could change the"
                    " server's settings. Move that file, or set RMI_AGENT_SANDBOX=off."
                )


def folders(variable: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders that a setting lists, as absolute paths.

    Raises:
        BadSettings: a folder does not exist.
    """
    paths = tuple(Path(os.path.abspath(Path(name).expanduser())) for name in names)
    for path in paths:
        if not path.exists():
            raise BadSettings(
                f"{variable}: {path} does not exist. Use a comma-separated list of folders."
            )
    return paths


def describe_sandbox(policy: Policy | None, settings: Settings) -> str:
    """Describe the kernels' sandbox, or why there is none, in one line."""
    if policy is not None:
        return describe_policy(policy)
    if kernels_are_here(settings):
        return "none"
    return f"none here: kernels run {elsewhere(settings)}"


def describe_rights(policy: Policy | None, settings: Settings) -> str:
    """Where code runs and what it can do, for people who are asked to let it run."""
    if policy is None and kernels_are_here(settings):
        return "with all rights of the account that runs the server"
    if policy is None:
        return "on another machine, which decides what it can do there"
    network = "with" if policy.network else "without"
    change = "read" if policy.read_only else "read and change"
    more = " and other folders that the server's settings name" * bool(policy.read or policy.write)
    return (
        f"in a sandbox, {network} network access, where it can {change} the projects folder{more}"
    )


def describe_policy(policy: Policy) -> str:
    """Describe a policy in one line: what kernels may read, write and connect to."""
    projects = f"{policy.projects} ({'read only' if policy.read_only else 'read and write'})"
    more = [*(f"{path} (read only)" for path in policy.read), *map(str, policy.write)]
    network = "the network" if policy.network else "no network"
    return f"{policy.tier}; {', '.join([projects, *more])}, a home folder, /tmp; {network}"


def describe_gaps(policy: Policy | None, settings: Settings) -> str:
    """List what the sandbox does not protect, in one line."""
    if not kernels_are_here(settings) and settings.sandbox == "auto":
        return "that machine decides what kernels may do there"
    if policy is None:
        return "kernels can do all that this user can"
    left = ["processor time", "disk space where they may write", "bugs in the Linux kernel"]
    if policy.tier == "landlock":
        left.insert(0, "the list of all processes (not their sockets, memory or environments)")
        left.insert(1, "whether a file exists, its size and times")
        if os.getuid() == 0:
            left.insert(2, "what /proc shows only to root")
        if lets_signals_out(policy):
            left.insert(0, SIGNALS)
    if not keeps_devices(policy):
        left.insert(0, "the modes of /dev/null and other devices, since root may not mount here")
    if not knows_system_calls():
        left.insert(0, f"setuid files (system call numbers for {os.uname().machine} are unknown)")
    if policy.network:
        left.insert(0, "the network, including services on this machine")
        if policy.tier == "landlock":
            left.insert(1, "socket files of other programs")
    return ", ".join(left)
