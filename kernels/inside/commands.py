"""Runs the commands of cells (`!pip list`) so that their questions find an end instead of a wait.

Sent to the kernel as text, like `setup.py`; knows IPython's `system` and nothing about cells.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import os
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from typing import Any

GRACE = 1.5  # max seconds that a command may take to end after an interrupt: less than a cell
LENT_PIP = "RMI_AGENT_LENT_PIP"  # arguments for Python by which it runs the server's pip
POLL = 0.05  # seconds between checks whether a command has ended
READ = 65_536  # max bytes of a command's output to read at once


def end_questions_of_commands() -> None:
    """Let commands find the end of their input at once, as nobody can type into their terminal.

    Their output still goes to a terminal, so that they flush every line.
    """
    zmqshell: Any = sys.modules.get("ipykernel.zmqshell")
    if hasattr(zmqshell, "system") and hasattr(os, "openpty"):
        zmqshell.system = run_command


def run_command(command: str) -> int:
    """Run a shell command, and print its output as it comes.

    Returns:
        Its exit code; a negative one is the number of the signal that ended it.

    Raises:
        KeyboardInterrupt: after the command has ended, too.
    """
    command = with_lent_tools(command)
    shell = shutil.which(os.environ.get("SHELL", "sh")) or "/bin/sh"
    reading, terminal = open_terminal()
    try:
        # A session of its own has no terminal: `/dev/tty` can't be asked either.
        process = subprocess.Popen(
            [shell, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(terminal)
    try:
        print_output(reading, process)
    except BaseException:  # KeyboardInterrupt, or whatever a handler of the user's raises
        end(process)
        raise
    finally:
        os.close(reading)
    code = process.wait()
    return -(code - 128) if code > 128 else code  # shells report signals so


def with_lent_tools(command: str) -> str:
    """What `%pip` and `%uv` run, with the server's pip and uv if this environment has none."""
    python, lent = shlex.quote(sys.executable), os.environ.get(LENT_PIP, "")
    for name, instead in (("pip", f"{python} {lent}"), ("uv", "uv")):
        begin = f"{python} -m {name} "
        if lent and command.startswith(begin) and importlib.util.find_spec(name) is None:
            return f"{instead} {command[len(begin) :]}"
    return command


def open_terminal() -> tuple[int, int]:
    """Open a terminal that leaves line breaks as they are; returns its reading and writing end.

    Where this process may open none, as in the Landlock sandbox, they are those of a pipe.
    """
    import fcntl
    import termios

    try:
        reading, terminal = os.openpty()
    except OSError:
        return os.pipe()
    modes = termios.tcgetattr(terminal)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return reading, terminal


def print_output(reading: int, process: subprocess.Popen[bytes]) -> None:
    """Print what a command writes until it ends; what it leaves running may keep the terminal."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waiting = select.poll()  # `select.select` refuses high descriptors
    waiting.register(reading, select.POLLIN)
    ended = False
    while True:
        if waiting.poll(0 if ended else POLL * 1000):
            try:
                data = os.read(reading, READ)
            except OSError:  # nobody has the terminal any more
                data = b""
            print(decoder.decode(data, final=not data), end="", flush=True)
            if not data:
                return
        elif ended:
            return
        else:
            ended = process.poll() is not None


def end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command and all that it has started; kill what ignores that."""
    try:
        signal_group(process, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL)
    finally:  # whatever interrupts this, such as the next SIGINT
        if process.poll() is None:
            signal_group(process, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a command and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
