"""A real sshd on loopback, and a kernelspec that puts kernels behind it.

gateway-provisioners goes past ssh where a host's address is among those that psutil lists for
this machine's interfaces. All of 127.0.0.0/8 leads here on Linux, and only 127.0.0.1 is listed:
by 127.0.0.2 it takes the whole way, through paramiko and this sshd, and back.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.ports import free_port

HOST = "127.0.0.2"
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"  # not in an ordinary user's PATH
SEPARATION = Path("/run/sshd")  # an empty folder that root's sshd wants; its service makes it too

CONFIG = """
ListenAddress {host}
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/home/.ssh/id_ed25519.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
LogLevel VERBOSE
"""


@dataclass(frozen=True)
class SshHost:
    """A host that is reached by ssh.

    Attributes:
        env: what a server needs to start kernels there.
        log: sshd's.
        tmp: the host's folder for temporary files.
        process: sshd.
    """

    env: dict[str, str]
    log: Path
    tmp: Path
    process: subprocess.Popen[bytes]

    def logins(self) -> int:
        """How often somebody came in by a key."""
        return self.log.read_text().count("Accepted publickey")


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    import pwd

    if sys.platform != "linux":
        return "127.0.0.2 leads to this machine on Linux alone"
    if not Path(SSHD).is_file() or not shutil.which("ssh-keygen"):
        return "needs openssh-server"
    shell = pwd.getpwuid(os.getuid()).pw_shell
    if Path(shell).name in ("nologin", "false"):
        return f"nobody can log in as this user, whose shell is {shell}"
    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each]
    if all(a.startswith("127.") or ":" in a for a in addresses):
        return "gateway-provisioners needs one address besides loopback"
    return ""


@contextlib.contextmanager
def ssh_host(folder: Path) -> Iterator[SshHost]:
    """One that runs as this user, with a kernelspec `ssh` for it."""
    home, tmp = folder / "home", folder / "tmp"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    tmp.mkdir()
    for key in (folder / "host", home / ".ssh" / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    port = free_port(HOST)
    (folder / "config").write_text(CONFIG.format(host=HOST, port=port, folder=folder))
    public = (folder / "host.pub").read_text()
    (home / ".ssh" / "known_hosts").write_text(f"[{HOST}]:{port} {public}")
    kernelspec(folder, tmp)
    if os.getuid() == 0:  # and it stays: another sshd may need it as well
        SEPARATION.mkdir(mode=0o755, exist_ok=True)
    log = folder / "sshd.log"
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", log])
    try:
        until_it_listens(process, port)
        env = {
            "HOME": str(home),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "RMI_AGENT_KERNEL_NAME": "ssh",
            "KERNEL_USERNAME": "somebody",  # a label; the login is GP_REMOTE_USER
            "GP_REMOTE_USER": getpass.getuser(),
            "GP_SSH_PORT": str(port),
            "GP_KERNEL_LOG_DIR": str(tmp),
        }
        yield SshHost(env, log, tmp, process)
    finally:
        process.kill()
        process.wait()


def kernelspec(folder: Path, tmp: Path) -> None:
    """As gateway-provisioners' own program makes it, with this interpreter and folders of ours."""
    data = folder / "data"
    program = Path(sys.executable).with_name("jupyter-ssh-spec")
    subprocess.run(
        [program, "install", "--user", "--kernel-name=ssh", f"--remote-hosts={HOST}"],
        env={**os.environ, "JUPYTER_DATA_DIR": str(data)},
        check=True,
        capture_output=True,
    )
    path = data / "kernels" / "ssh" / "kernel.json"
    spec = json.loads(path.read_text())
    spec["argv"][0] = sys.executable
    spec["env"] = {"HOME": str(tmp), "TMPDIR": str(tmp), "ON_THE_FAR_SIDE": "yes"}
    path.write_text(json.dumps(spec))


def until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for sshd, for ten seconds at most."""
    ends = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < ends, "sshd did not start"
            time.sleep(0.02)
