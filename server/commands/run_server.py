"""Runs the server on stdio or HTTP, with the settings that a command line gives.

All messages go to stderr; on stdio, stdout carries only the protocol. Knows nothing of how command
lines are parsed: a host gives none, and its server should start without a parser.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from .. import logs, quick_imports
from ..console import die
from ..errors import BadSettings
from ..process_life import be_unreadable, give_memory_back, main_loop, pause_gc

log = logging.getLogger(__name__)

NO_SETTINGS: Mapping[str, Any] = {}


def run_server(
    given: Mapping[str, Any] = NO_SETTINGS,
    transport: Literal["stdio", "http"] | None = None,
    *,
    insecure_no_auth: bool = False,
    tunnel: bool = False,
    few_runs: bool = False,
    here: tuple[Path, ...] = (),
    wanted: str | None = None,
    log_level: logs.Level | None = None,
    log_format: logs.Format = "text",
) -> None:
    """Serve until the client leaves or a signal comes.

    Args:
        given: settings by their names, before those of the environment and of `.env`.
        transport: if None, stdio, or HTTP with a tunnel.
        insecure_no_auth: whether to serve HTTP without a token.
        tunnel: whether to serve HTTP at a public address.
        few_runs: whether to make nothing ahead, for a command that runs one program.
        here: folders whose `.env` is not read, since their program is run.
        wanted: the file that one command runs.
        log_level: if None, info over HTTP and warning on stdio.
        log_format: of the lines on stderr.
    """
    pause_gc()
    from ..launch import make_folders  # lazy: --help needs no settings
    from ..setting_place import ignore_dotenv_in
    from ..settings import load

    on_http = transport == "http" or tunnel
    logs.set_up(log_level or ("info" if on_http else "warning"), log_format)
    give_memory_back()
    be_unreadable()
    ending: AbstractContextManager[None] = nullcontext()
    if tunnel:
        from ..serving import left_at_once

        ending = left_at_once()
    with ending:
        try:
            ignore_dotenv_in(here)
            settings = load(**given)
            if here or wanted:
                from .one_run import for_one_run

                settings = for_one_run(settings, here, wanted)
            make_folders(settings)
            for line in settings.warnings(http=on_http):
                log.warning(line)
            if tunnel and transport == "stdio":
                raise BadSettings("--tunnel: a tunnel needs HTTP. Remove --transport stdio.")
            if on_http:
                if "attach" in given:
                    raise BadSettings("--attach: it applies to stdio only. Remove it.")
                quick_imports.import_jsonschema()
                from ..serving import http

                logs.log_run_context()
                main_loop(http(settings, insecure_no_auth, tunnel))
            else:
                from .stdio import explain_to_a_person, on_stdio

                explain_to_a_person()
                main_loop(on_stdio(settings, few_runs))
        except BadSettings as error:
            die(error)
