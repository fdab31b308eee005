"""Machines of the tests' own: namespaces of this one, with an sshd each, on a network that only they and we see.

Ray's `ray stop` ends every Ray process that it finds, so that machines need process lists of their own; `ray start`
takes fixed ports, so that they need networks of their own. Each has its own /home and /tmp/ray too, and all see one
folder as /mnt. Needs root, Linux, iproute2, util-linux, sshd and rsync.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT, wait_until

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
USER = "machine"
NETWORK = "10.77.0"


def why_not() -> str:
    """Why this machine cannot play several; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [
        name for name in ("ip", "unshare", "ssh", "sshd", "ssh-keygen", "rsync") if not shutil.which(name, path=SBIN)
    ]
    if missing:
        return f"needs {', '.join(missing)} (Debian: openssh-server, openssh-client, rsync, iproute2, util-linux)"
    trial = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "true"]
    refused = subprocess.run(trial, capture_output=True, text=True, check=False)
    return f"no namespaces here: {refused.stderr.strip()}" if refused.returncode else ""


class Machines(NamedTuple):
    """Some machines, the network namespace from which they are seen, and their common folder."""

    addresses: list[str]
    pids: list[int]
    namespace: str
    key: Path
    shared: Path
    home: Path

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command where the machines are seen, from the project's root."""
        words = self.words(*command)
        return subprocess.run(words, cwd=ROOT, env=self.environment(), text=True, **options)  # type: ignore[call-overload, no-any-return]

    def words(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]

    def environment(self) -> dict[str, str]:
        """Of who stands before them: a home of the test's own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SSH_"))}
        return environment | {"PATH": SBIN, "HOME": str(self.home), "RAY_TMPDIR": str(self.home / "ray")}

    def processes(self, number: int) -> list[str]:
        """Command lines of all that runs on a machine."""
        words = ["nsenter", "-t", str(self.pids[number]), "-p", "-m", "ps", "-eo", "args="]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


@contextmanager
def machines(count: int, folder: Path) -> Iterator[Machines]:
    """Start machines; all that runs on them ends with the block."""
    namespace, link = f"sttn-{os.getpid()}", f"s{os.getpid()}"
    shared, home, key = folder / "shared", folder / "me", folder / "key"
    shared.mkdir()
    (home / "ray").mkdir(parents=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    started: list[subprocess.Popen[bytes]] = []
    pids: list[int] = []
    _run("ip", "netns", "add", namespace)
    try:
        _here(namespace, "ip link set lo up && ip link add bridge type bridge && ip link set bridge up")
        _here(namespace, f"ip addr add {NETWORK}.1/24 dev bridge")
        for number in range(count):
            own = folder / f"machine{number}"
            process = _start(own, number, key)
            started.append(process)
            pid = first_inside(process)
            pids.append(pid)
            name = f"{link}m{number}"
            _here(namespace, f"ip link add {name} type veth peer name eth0 netns {pid}")
            _here(namespace, f"ip link set {name} master bridge && ip link set {name} up")
            inside = f"ip addr add {NETWORK}.{10 + number}/24 dev eth0 && ip link set eth0 up && ip link set lo up"
            # Nothing is sent there: Ray takes its own address from where a route would lead.
            _run("nsenter", "-t", str(pid), "-n", "sh", "-c", f"{inside} && ip route add default via {NETWORK}.1")
        found = Machines([f"{NETWORK}.{10 + n}" for n in range(count)], pids, namespace, key, shared, home)
        for address in found.addresses:
            _wait_for_ssh(found, address)
        yield found
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # the first of its process namespace: the kernel ends the others
        for process in started:
            process.kill()
            process.wait()
        _run("ip", "netns", "delete", namespace)


def _start(own: Path, number: int, key: Path) -> subprocess.Popen[bytes]:
    (own / "home" / USER).mkdir(parents=True)
    (own / "ray").mkdir()
    (own / "etc").mkdir()
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "etc/host_key"))
    shutil.copy(f"{key}.pub", own / "etc/authorized")
    # Another name of root, whose home is the machine's; the first one, since ssh asks by number.
    passwd = f"{USER}:x:0:0::/home/{USER}:/bin/bash\n" + Path("/etc/passwd").read_text()
    (own / "etc/passwd").write_text(passwd)
    (own / "home" / USER / ".bashrc").write_text("")
    (own / "home" / USER / ".profile").write_text("")
    settings = ["HostKey /run/etc/host_key", "AuthorizedKeysFile /run/etc/authorized", "StrictModes no", "UsePAM no"]
    settings += ["PermitRootLogin prohibit-password", "PasswordAuthentication no", "PidFile none", "MaxStartups 100"]
    (own / "etc/sshd_config").write_text("".join(f"{line}\n" for line in settings))
    script = f"""set -e
        mount --bind {own.parent}/shared /mnt
        mount --bind {own}/home /home
        mount --bind {own}/ray /tmp/ray
        mount --bind {own}/etc/passwd /etc/passwd
        mount -t tmpfs tmpfs /run
        mkdir -p /run/sshd /run/etc
        cp -p {own}/etc/* /run/etc/
        chmod 600 /run/etc/host_key
        hostname machine{number}
        unset SSH_AUTH_SOCK
        $(command -v sshd) -D -e -f /run/etc/sshd_config &
        wait
    """
    words = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "bash"]
    with open(own / "log", "wb") as log:
        environment = {"PATH": SBIN, "LANG": "C.UTF-8"}
        return subprocess.Popen([*words, "-c", script], stdout=log, stderr=log, env=environment, start_new_session=True)


def first_inside(process: subprocess.Popen[bytes]) -> int:
    """The first process of the namespaces that an `unshare --fork` made."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: bool(children.read_text()), "what unshare starts")
    return int(children.read_text().split()[0])


def _wait_for_ssh(found: Machines, address: str) -> None:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    command = ["ssh", "-i", str(found.key), *options, f"{USER}@{address}", "true"]
    wait_until(lambda: found.run(*command, capture_output=True).returncode == 0, f"an answer of {address} to SSH")


def _here(namespace: str, script: str) -> None:
    _run("ip", "netns", "exec", namespace, "sh", "-c", script)


def _run(*command: Sequence[str] | str) -> None:
    environment = {**os.environ, "PATH": SBIN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # type: ignore[arg-type]
    assert done.returncode == 0, f"{command}: {done.stderr}"
