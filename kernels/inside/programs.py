"""The request that sends the programs in this folder to a kernel, to be executed at its start."""

from __future__ import annotations

import functools
import marshal
import zlib
from base64 import b64encode
from importlib import resources
from importlib.util import MAGIC_NUMBER
from typing import Any

EVERYWHERE = ("script_runner.py", "messages.py", "setup.py")
# Executes what `set_up_request` returns, in its own namespace. Only once: another of our servers
# may have set up a kernel that we attach to.
SET_UP = (
    "hasattr(get_ipython(), '_rmi_agent_script') or"
    " (lambda sent: exec(sent['begin'], {'sent': sent}))"
    "(get_ipython().get_parent()['metadata']['rmi_agent'])"
)
BEGIN = """
import base64, importlib.util, marshal, zlib
from IPython import get_ipython
names = {"__name__": "rmi_agent_inkernel"}
same = sent["magic"] == importlib.util.MAGIC_NUMBER.hex()
for text, code in sent["texts"]:
    data = zlib.decompress(base64.b64decode(code if same else text))
    exec(marshal.loads(data) if same else data, names)
if "remember_last_reply" in names:
    names["remember_last_reply"](get_ipython().kernel)
    names["hide_tokens"]()
names["install"](get_ipython(), *sent["arguments"])
if "install_files" in names:
    names["install_files"](get_ipython())
if "warden" in sent:
    names["install_warden"](get_ipython(), *sent["warden"])
"""


@functools.cache
def set_up_request(more: tuple[str, ...]) -> dict[str, Any]:
    """Return what `SET_UP` executes: the programs for every kernel plus the files in `more`.

    Sends each as text, and compiled for Pythons like this one: compiling would delay every kernel
    start by 15 ms.
    """
    here = resources.files(__package__)
    packed = []
    for name in (*EVERYWHERE, *more):
        text = here.joinpath(name).read_bytes()
        code = marshal.dumps(compile(text, "<rmi-agent>", "exec"))
        packed.append([b64encode(zlib.compress(each)).decode() for each in (text, code)])
    return {"begin": BEGIN, "magic": MAGIC_NUMBER.hex(), "texts": packed}
