"""What pip and uv need to know of this machine: proxies, certificates, package indexes.

Read from the environment, and for sandboxes, which lack these files, from the configuration of pip
and uv. Code gets none of it with a user name or password unless RMI_AGENT_KERNEL_ENV names the
variable. Knows nothing of kernels.
"""

from __future__ import annotations

import configparser
import logging
import os
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

log = logging.getLogger(__name__)

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
# Options of pip that are about this machine rather than about one command, and where packages go.
PIP_OPTIONS = (
    *("index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "cert", "proxy"),
    *("timeout", "default-timeout", "retries", "constraint", "build-constraint", "only-binary"),
    *("no-binary", "prefer-binary", "pre", "uploaded-prior-to", "disable-pip-version-check"),
    *("use-feature", "use-deprecated", "progress-bar"),
)
UV = (
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"),
    *("UV_NO_INDEX", "UV_INDEX_STRATEGY", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"),
    *("UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE"),
    *("UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_RESOLUTION", "UV_OFFLINE", "UV_LINK_MODE"),
    *("UV_CONCURRENT_DOWNLOADS", "UV_PYTHON_DOWNLOADS", "UV_NO_CACHE"),
)
# What names a configuration file for processes that can read it.
FILES = ("PIP_CONFIG_FILE", "UV_CONFIG_FILE")
NAMED_FILES = (
    *CERTIFICATES,
    *("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_FIND_LINKS", "UV_FIND_LINKS"),
    *("UV_CONSTRAINT", "UV_BUILD_CONSTRAINT", "UV_OVERRIDE"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX"),  # file://…
)
USER_INFO = re.compile(r"(?<=://)[^/\s?#]*@")
BARE_USER_INFO = re.compile(r"^[^/\s]*@")  # of a proxy without a scheme


def variable(option: str) -> str:
    """The variable for an option of pip."""
    return "PIP_" + option.upper().replace("-", "_")


PASSED = {*PROXIES, *CERTIFICATES, *UV, *map(variable, PIP_OPTIONS)}


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that kernels inherit for pip and uv, without user names and passwords.

    Those that RMI_AGENT_KERNEL_ENV names should not be among the `environ`.
    """
    found = {name: value for name, value in environ.items() if name.upper() in PASSED}
    files = {name: environ[name] for name in FILES if name in environ}
    return {**without_credentials(found), **files}


def without_credentials(variables: Mapping[str, str]) -> dict[str, str]:
    """Remove user names and passwords from addresses, and log in which variables.

    The rest is kept: without it, pip would ask another index or go around the proxy.
    """
    kept = {}
    for name, value in variables.items():
        kept[name] = USER_INFO.sub("", value)
        if name.upper().endswith("PROXY"):
            kept[name] = BARE_USER_INFO.sub("", kept[name])
        if kept[name] != value:
            log.warning(
                "%s is passed to code without its user name and password;"
                " RMI_AGENT_KERNEL_ENV=%s passes them, too",
                name,
                name,
            )
    return kept


def from_files(environ: Mapping[str, str], whole: Collection[str] = ()) -> dict[str, str]:
    """What pip's and uv's configuration files say, as variables that `environ` does not have.

    uv does not read pip's files, so it gets the indexes and certificates that they name. Only the
    variables in `whole` keep user names and passwords.
    """
    pip = {variable(option): value for option, value in pip_options(environ).items()}
    uv = uv_variables(environ)
    given = {**pip, **{name: environ[name] for name in environ if name in PASSED}}
    translated = {
        "UV_DEFAULT_INDEX": given.get("PIP_INDEX_URL"),
        "UV_INDEX": given.get("PIP_EXTRA_INDEX_URL"),
        "UV_FIND_LINKS": ",".join(given.get("PIP_FIND_LINKS", "").split()),
        "UV_INSECURE_HOST": given.get("PIP_TRUSTED_HOST"),
        "SSL_CERT_FILE": given.get("PIP_CERT"),
    }
    if translated["UV_INDEX"]:  # to pip, all indexes are alike; to uv, the first one counts
        translated["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "UV_INDEX_URL" in environ:  # its former name
        del translated["UV_DEFAULT_INDEX"]
    if {"UV_EXTRA_INDEX_URL", "UV_INDEX"} & {*environ, *uv}:
        translated.pop("UV_INDEX_STRATEGY", None)
    if "UV_EXTRA_INDEX_URL" in environ:
        del translated["UV_INDEX"]
    found = {**{name: value for name, value in translated.items() if value}, **uv, **pip}
    found = {name: value for name, value in found.items() if name not in environ}
    kept = {name: found.pop(name) for name in whole if name in found}
    return {**without_credentials(found), **kept}


def pip_options(environ: Mapping[str, str]) -> dict[str, str]:
    """The options in pip's configuration files that kernels get; later files override earlier."""
    found: dict[str, str] = {}
    for path in pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeError) as error:
            log.warning("%s is not read: %s", path, type(error).__name__)
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                values = {name.replace("_", "-"): text for name, text in parser.items(section)}
                found |= {n: " ".join(values[n].split()) for n in PIP_OPTIONS if n in values}
    return found


def pip_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """The configuration files of pip, the least important first.

    Source: https://pip.pypa.io/en/stable/topics/configuration/
    """
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    if not (named and Path(named).exists()):
        yield Path("~/.pip/pip.conf").expanduser()
        yield Path(platformdirs.user_config_dir("pip"), "pip.conf")
    yield Path(sys.prefix, "pip.conf")
    if named:
        yield Path(named)


def uv_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What uv's configuration files say about indexes and certificates, as variables."""
    paths = [Path("/etc/uv/uv.toml"), Path(platformdirs.user_config_dir("uv"), "uv.toml")]
    if named := environ.get("UV_CONFIG_FILE"):
        paths = [Path(named)]
    found: dict[str, str] = {}
    for path in paths:
        try:
            given = tomllib.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning("%s is not read: %s", path, type(error).__name__)
            continue
        found |= uv_settings({**table(given.get("pip")), **given})
    return found


def uv_settings(given: dict[str, Any]) -> dict[str, str]:
    """The settings of a `uv.toml`, as variables."""
    indexes = [table(each) for each in listed(given.get("index"))]
    default = [each.get("url") for each in indexes if each.get("default")]
    more = [
        f"{each['name']}={each.get('url')}" if "name" in each else each.get("url")
        for each in indexes
        if not each.get("default")
    ]
    values = {
        "UV_DEFAULT_INDEX": [*default, *listed(given.get("index-url"))][:1],
        "UV_INDEX": [*more, *listed(given.get("extra-index-url"))],
        "UV_FIND_LINKS": listed(given.get("find-links")),
        "UV_INSECURE_HOST": listed(given.get("allow-insecure-host")),
        "UV_INDEX_STRATEGY": listed(given.get("index-strategy")),
    }
    found = {
        name: ("," if name == "UV_FIND_LINKS" else " ").join(map(str, filter(None, each)))
        for name, each in values.items()
    }
    switches = {"UV_NATIVE_TLS": "native-tls", "UV_NO_INDEX": "no-index", "UV_OFFLINE": "offline"}
    found |= {name: "1" for name, key in switches.items() if given.get(key) is True}
    return {name: value for name, value in found.items() if value}


def table(value: Any) -> dict[str, Any]:
    """A TOML table, or an empty one if it is something else."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A TOML value as a list."""
    return value if isinstance(value, list) else [value] if value is not None else []


def named_paths(variables: Mapping[str, str]) -> tuple[Path, ...]:
    """The existing files and folders on this machine that the variables name.

    Without those that the user's home folder is in.
    """
    found: dict[Path, None] = {}
    for name in NAMED_FILES:
        for part in re.split(r"[\s,=]+", variables.get(name, "")):
            path = Path(part.removeprefix("file://")).expanduser()
            if path.name == "simple":  # its pages link to files beside it, as bandersnatch's do
                path = path.parent
            usable = part and path.is_absolute() and path.exists()
            if usable and not Path.home().is_relative_to(path):
                found[path] = None
    return tuple(found)
