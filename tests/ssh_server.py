"""An SSH server on this machine with SFTP and a shell, for keys of its own: `python tests/ssh_server.py FOLDER` makes the home
of a user in FOLDER, whose key and known host are in FOLDER/.ssh, and prints its port."""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncssh


async def run_command(process: asyncssh.SSHServerProcess) -> None:
    local = subprocess.Popen(process.command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await process.redirect(stdin=local.stdin, stdout=local.stdout, stderr=local.stderr)
    await process.stdout.drain()
    process.exit(await asyncio.to_thread(local.wait))


async def serve(home: Path) -> None:
    keys = home / ".ssh"
    keys.mkdir(parents=True)
    host, user = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user.write_private_key(keys / "id_ed25519")
    user.write_public_key(keys / "authorized_keys")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[host], authorized_client_keys=str(keys / "authorized_keys"),
        process_factory=run_command, sftp_factory=True,
    )  # fmt: skip
    public = host.export_public_key().decode().strip()
    (keys / "known_hosts").write_text(f"[127.0.0.1]:{server.get_port()} {public}\n")
    print(server.get_port(), flush=True)
    await server.wait_closed()


asyncio.run(serve(Path(sys.argv[1])))
