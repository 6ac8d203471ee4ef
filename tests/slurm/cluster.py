"""A one-node SLURM on this machine, for tests.

Two counted GPUs (character devices that are not), three partitions, no accounting.

Needs root and the Debian packages slurm-wlm and munge; neither systemd nor cgroups. The
configuration is linked into /etc/slurm, because the executor plugin drops SLURM_CONF inside its
jobs.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
NODE = "fasb-test"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONFIGURATION = """
ClusterName={node}
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=2
# Jobs that ended stay visible to squeue, which is where the plugin looks without accounting.
MinJobAge=600
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} \
    Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP
PartitionName=models Nodes={node} MaxTime=INFINITE DefMemPerCPU=500 State=UP
PartitionName=judges Nodes={node} MaxTime=INFINITE DefMemPerCPU=500 State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "needs root to start SLURM's daemons"
    absent = [
        name
        for name in ("slurmctld", "slurmd", "munged", "sbatch")
        if shutil.which(name, path=PATH) is None
    ]
    if absent:
        return f"needs the Debian packages slurm-wlm and munge (no {', '.join(absent)})"
    if any((ETC / name).exists() and not _left_behind(ETC / name) for name in FILES):
        return f"{ETC} holds the configuration of a real cluster"
    return None


def _left_behind(path: Path) -> bool:
    """Whether a test that was killed left this link, and no daemon reads it any more."""
    running = subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).returncode == 0
    ours = path.is_symlink() and f"NodeName={NODE}" in path.read_text()
    return ours and not running


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A running node.

    Its jobs and daemons are gone, and /etc/slurm as before, when the block ends.
    """
    _configure(folder)
    munge = _start_munge()
    try:
        call("slurmctld", "-c")
        call("slurmd", "-N", NODE)
        _wait_until_idle(folder)
        yield
    finally:
        call("scancel", "-u", "root", check=False)
        for name in ("slurmd", "slurmctld"):
            _end(folder / f"{name}.pid")
        if munge is not None:
            _end(munge)
        for name in FILES:
            (ETC / name).unlink(missing_ok=True)


def call(*command: str, check: bool = True) -> str:
    """The standard output of one of SLURM's programs."""
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": PATH}, timeout=120
    )
    if check and run.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def jobs() -> list[dict[str, str]]:
    """All jobs that the controller remembers.

    `rule` (or the group), `JobId`, `JobState`, `Partition`, `TresPerJob`, and so on.
    """
    listed = call("scontrol", "--oneliner", "show", "jobs").splitlines()
    fields = [
        dict(re.findall(r"(\w+)=(\S*)", line)) for line in listed if line.startswith("JobId=")
    ]
    return [
        {**job, "rule": job.get("Comment", "").split("_wildcards")[0].removeprefix("rule_")}
        for job in fields
    ]


def _configure(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    for i in range(2):  # null devices: enough for SLURM to count and to set CUDA_VISIBLE_DEVICES
        os.mknod(folder / f"gpu{i}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 // 2**20
    values = {
        "folder": folder,
        "node": NODE,
        "host": socket.gethostname().split(".")[0],
        "memory": memory,
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values, cpus=os.cpu_count()))
    (folder / "gres.conf").write_text(f"NodeName={NODE} Name=gpu File={folder}/gpu[0-1]\n")
    ETC.mkdir(exist_ok=True)
    for name in FILES:
        (ETC / name).unlink(missing_ok=True)  # what a killed test left behind
        (ETC / name).symlink_to(folder / name)


def _start_munge() -> Path | None:
    """The process id file of the munge daemon, if it did not run already."""
    with contextlib.suppress(RuntimeError):
        call("munge", "-n")
        return None
    run = Path("/run/munge")
    run.mkdir(exist_ok=True)
    shutil.chown(run, "munge", "munge")
    call("runuser", "-u", "munge", "--", "/usr/sbin/munged")
    return run / "munged.pid"


def _wait_until_idle(folder: Path) -> None:
    for _ in range(300):
        if call("sinfo", "-h", "-o", "%T", check=False).startswith("idle"):
            return
        time.sleep(0.2)
    reason = call("sinfo", "-N", "-o", "%N %T %E", check=False)
    raise RuntimeError(
        f"the node did not come up: {reason}\n{(folder / 'slurmd.log').read_text()[-2000:]}"
    )


def _end(pid_file: Path) -> None:
    """End the daemon whose id the file holds, and wait until it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.1)
