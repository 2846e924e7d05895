"""The request that sends the programs in this folder to a kernel, to be executed at its start."""

from __future__ import annotations

import functools
import marshal
import re
import zlib
from base64 import b64encode
from importlib import resources
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

SCRIPT = (
    *("error_facts.py", "hidden_frames.py", "tracebacks.py"),
    *("asked_input.py", "script_environment.py", "script_registries.py", "script_exit.py"),
    *("script_hooks.py", "module_search.py"),
    *("pytest_report.py", "script_runner.py"),
)
CELLS = ("binary_streams.py", "commands.py", "figures.py", "spawning.py", "cells.py")
EVERYWHERE = (*(*CELLS, *SCRIPT, "any_json.py", "messages.py", "failed_commands.py", "setup.py"),)
# What a template executes, which forms its kernels before it forks them.
FORMED = tuple(
    Path(__file__).with_name(name)
    for name in (
        *(*EVERYWHERE, "frames.py", "wire.py", "socket_stream.py", "run_at_once.py"),
        *("rehearsal.py", "kernel_loop.py", "socket_kernel.py"),
        *("branch_losses.py", "branch_descriptors.py", "branch_libraries.py"),
        *("branch_changes.py", "branch_hooks.py", "branching.py"),
        "formed_kernel.py",
    )
)
# The programs are executed in one namespace: what they import from each other is there already.
FROM_EACH_OTHER = re.compile(rb"^from \.\w+ import (\([^)]*\)|.*)$", re.MULTILINE)
# Executes what `set_up_request` returns, in its own namespace. Only once: another of our servers
# may have set up a kernel that we attach to.
SET_UP = (
    "hasattr(get_ipython(), '_rmi_agent_script') or"
    " (lambda sent: exec(sent['begin'], {'sent': sent}))"
    "(get_ipython().get_parent()['metadata']['rmi_agent'])"
)
BEGIN = """
import base64, builtins, importlib.util, marshal, zlib
from IPython import get_ipython
names = {"__name__": "rmi_agent_inkernel", "__builtins__": dict(vars(builtins))}
same = sent["magic"] == importlib.util.MAGIC_NUMBER.hex()
programs = zlib.decompress(base64.b64decode(sent["codes" if same else "texts"]))
for program in marshal.loads(programs):
    exec(program, names)
if "remember_last_reply" in names:
    names["remember_last_reply"](get_ipython().kernel)
    names["hide_tokens"]()
names["install"](get_ipython(), *sent["arguments"])
if "install_files" in names:
    names["install_files"](get_ipython())
if "reaper" in sent:
    names["start_reaper"](get_ipython(), *sent["reaper"])
"""


@functools.cache
def set_up_request(more: tuple[str, ...]) -> dict[str, Any]:
    """Return what `SET_UP` executes: the programs for every kernel plus the files in `more`.

    Sends them as text, and compiled for Pythons like this one: compiling would delay every kernel
    start by 15 ms.
    """
    files = [resources.files(__package__).joinpath(name) for name in (*EVERYWHERE, *more)]
    texts = [FROM_EACH_OTHER.sub(b"", file.read_bytes()) for file in files]
    codes = [compile(text, "<rmi-agent>", "exec") for text in texts]
    return {
        "begin": BEGIN,
        "magic": MAGIC_NUMBER.hex(),
        "texts": packed(marshal.dumps(texts, 2)),  # a format that every Python 3 reads
        "codes": packed(marshal.dumps(codes)),
    }


def packed(data: bytes) -> str:
    """Compress bytes for a message."""
    return b64encode(zlib.compress(data)).decode()
