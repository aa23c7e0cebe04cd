"""docs/slurm/train.sbatch, run by bash with stand-ins for SLURM's own programs: two nodes, which are processes here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import Training, write_params

import train

SBATCH = Path("docs/slurm/train.sbatch").resolve()
# As SLURM does: the same command on each node, which is told its number; ends with the first bad code.
SRUN = """#!/bin/bash
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & pids="$pids $!"; done
code=0
for pid in $pids; do wait "$pid" || code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
[ "$1 $2 $3" = "show hostnames here[1-2]" ] && echo 127.0.0.1 && echo 127.0.0.2
"""


@pytest.mark.slow
def test_two_nodes_write_the_bytes_of_one_process(training_inputs: Path, tmp_path: Path) -> None:
    alone = Training(training_inputs, tmp_path / "alone")
    alone.folder.mkdir()
    train.main(alone.arguments(write_params(tmp_path / "params.yaml"), "--state", str(alone.folder / "state/own")))
    project = tmp_path / "a project"
    for folder in ("data", "models", "reports", "programs", ".venv/bin"):
        (project / folder).mkdir(parents=True)
    (project / "stages").symlink_to(Path("stages").resolve())
    for name, place in (("latents", "data"), ("captions", "data"), ("base", "models")):
        (project / place / name).symlink_to(training_inputs / name)
    shutil.copyfile(tmp_path / "params.yaml", project / "params.yaml")
    (project / ".venv/bin/activate").write_text("")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("dvc", '#!/bin/bash\necho "dvc $@" > committed\n')):
        (project / "programs" / name).write_text(text)
        (project / "programs" / name).chmod(0o755)
    path = os.pathsep.join((str(project / "programs"), str(Path(sys.executable).parent), os.environ["PATH"]))
    slurm = {"SLURM_JOB_NODELIST": "here[1-2]", "SLURM_JOB_ID": str(os.getpid()), "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    environment = os.environ | slurm | {"PATH": path, "GLOO_SOCKET_IFNAME": "lo", "STATE_ROOT": str(project / "state")}
    result = subprocess.run(["bash", str(SBATCH)], cwd=project, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (project / "models/lokr.safetensors").read_bytes() == alone.lokr.read_bytes()
    assert (project / "reports/train.csv").read_bytes() == alone.history.read_bytes()
    assert (project / "committed").read_text() == "dvc commit --force train\n"
