"""Two hosts on this machine: network namespaces, each with an address of its own and a cable between them, nothing else."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "eth0"


@dataclass(frozen=True)
class Host:
    """A network namespace and its address on the cable."""

    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """What runs a command on this host."""
        return ["ip", "netns", "exec", self.namespace, *words]


def refusal() -> str | None:
    """Why this machine has no namespaces for us, or None."""
    name = f"probe-{os.getpid()}"
    try:
        result = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except OSError as error:
        return f"ip: {error.strerror}"
    if result.returncode:
        return f"ip netns add: {result.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make the two, and remove them at the end, whatever happened."""
    hosts = tuple(Host(f"kohaku-{os.getpid()}-{number}", f"10.77.0.{number}") for number in (1, 2))
    cable = tuple(f"kr{os.getpid() % 100_000}x{number}" for number in (1, 2))
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for host, end in zip(hosts, cable, strict=True):
            _ip("link", "set", end, "netns", host.namespace)
            inside = ("-n", host.namespace)
            _ip(*inside, "link", "set", end, "name", INTERFACE)
            _ip(*inside, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip(*inside, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in hosts:  # the cable goes with them
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
