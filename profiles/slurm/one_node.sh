#!/usr/bin/env bash
# Proves profiles/slurm on this machine: a Slurm of one node in a temporary folder, without systemd, runs the smoke profile,
# in which one training is killed and requeued; every run and every number must be that of the workflow without Slurm.
#
#     apt-get install slurmctld slurmd slurm-client munge                    # as root, on Debian or Ubuntu
#     .venv/bin/pip install snakemake-executor-plugin-slurm
#     profiles/slurm/one_node.sh
#
#   PYTHON   the environment's Python; default: .venv/bin/python
#   ONLY     one notebook's figures, such as 01; default: all
#   CORES    of the node; default: all
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON="$(command -v "${PYTHON:-.venv/bin/python}" || true)"
ONLY="${ONLY:-}"
CORES="${CORES:-$(nproc)}"

skip() {
    echo "skipped: $1"
    exit 0
}
for tool in slurmctld slurmd sbatch srun scontrol munged; do
    command -v "$tool" >/dev/null || skip "$tool is not installed; as root: apt-get install slurmctld slurmd slurm-client munge"
done
[ "$(id -u)" = 0 ] || skip "slurmd needs root"
[ -n "$PYTHON" ] || skip "no Python; make setup makes .venv, and PYTHON names another"
"$PYTHON" -c "import snakemake_executor_plugin_slurm" 2>/dev/null \
    || skip "no Slurm for Snakemake; $PYTHON -m pip install snakemake-executor-plugin-slurm"

PATH="$(dirname "$PYTHON"):$PATH"
export PATH OMP_NUM_THREADS=1
work="$(mktemp -d)"
daemons=()
stop() {
    for process in "${daemons[@]}"; do kill "$process" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap stop EXIT

# --- one node
echo "starting Slurm in $work"
mkdir "$work/state" "$work/spool" "$work/munge"
chmod 755 "$work"
chmod 700 "$work/munge"
(umask 077 && head -c 1024 /dev/urandom >"$work/munge/key")
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munge/pid" \
    --log-file="$work/munge/log" --seed-file="$work/munge/seed" 2>/dev/null &
daemons+=($!)
node="$(hostname -s)"
cat >"$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobRequeue=1
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$CORES RealMemory=$(($(free -m | awk '/^Mem/ {print $2}') - 500))
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
# Snakemake's job calls srun without any of Slurm's variables
mkdir "$work/bin"
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$work/bin/srun"
chmod +x "$work/bin/srun"
PATH="$work/bin:$PATH"
until [ -S "$work/munge.socket" ]; do sleep 0.1; done
slurmctld -D 2>/dev/null &
daemons+=($!)
slurmd -D -N "$node" 2>/dev/null &
daemons+=($!)
for _ in $(seq 300); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break
    sleep 0.2
done
[ "$(sinfo -h -o %T)" = idle ] || { tail -n 5 "$work"/slurm*.log >&2; exit 1; }

# --- the same workflow twice, each in a copy of its own
for copy in local slurm; do
    mkdir -p "$work/$copy/data"
    cp -rL pyproject.toml gradcam_gan notebooks params profiles Snakefile "$work/$copy"
    cp data/mnist-5k.npz "$work/$copy/data"
done
figures() { # in the copy $1
    local copy="$work/$1"
    (cd "$copy" && PYTHONPATH="$copy${PYTHONPATH:+:$PYTHONPATH}" \
        "$PYTHON" -m gradcam_gan figures --profile smoke ${ONLY:+--only "$ONLY"} --cores "$CORES" --snakemake="${2:-}")
}
echo "without Slurm"
figures local

# kill the first training that is caught at work, as a node that is taken away would, and let Slurm requeue it
kill_one() {
    local run job
    while sleep 0.05; do
        for run in "$work"/slurm/runs/smoke/*/; do
            [ -e "$run/checkpoints/epoch-0001" ] && grep -q '"partial"' "$run/manifest.json" || continue
            job="$(squeue -h -t running -o "%i %k" | awk -v run="$(basename "$run")" 'index($2, run) {print $1}')"
            [ -n "$job" ] && scontrol requeue "$job" || continue
            grep -q '"partial"' "$run/manifest.json" || continue # it was done before the kill came
            stat -c %i "$run/checkpoints/epoch-0001" >"$work/inode"
            echo "$run" >"$work/killed"
            echo "killed and requeued job $job, which trains $(basename "$run")"
            return
        done
    done
}
echo "with Slurm"
kill_one &
daemons+=($!)
# this node has no GPU, and no accounting
figures slurm "--profile profiles/slurm --slurm-status-command squeue --slurm-requeue --slurm-no-account
    --slurm-init-seconds-before-status-checks 5 --seconds-between-status-checks 5 --latency-wait 5
    --set-resources train:gpu=0 evaluate:gpu=0 prune:gpu=0 assess:gpu=0"

[ -s "$work/killed" ] || { echo "no training was caught at work, so none was killed" >&2; exit 1; }
[ "$(stat -c %i "$(cat "$work/killed")/checkpoints/epoch-0001")" = "$(cat "$work/inode")" ] \
    || { echo "the killed training began anew instead of going on" >&2; exit 1; }
PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m torture.compare "$work/local" "$work/slurm"
