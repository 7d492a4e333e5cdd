#!/usr/bin/env bash
# Agent57 on SLURM: one Ray over all nodes of the job, training from the first of them.
#
#   sbatch deploy/slurm.sh runs/pong --preset paper --env ALE/Pong-v5 --cluster.num-workers 2               # 32 lanes
#   sbatch --nodes=3 deploy/slurm.sh runs/pong --preset paper --env ALE/Pong-v5 --cluster.num-workers 32    # 512 lanes
#
# Submit it from the repository's root, on a file system that every node sees, after the README's installation. The
# first argument is the run's folder, the others are flags of `launch.py train`. Before the time limit, and when it is
# preempted, the job writes a checkpoint and queues itself again; it then goes on where it was.
#
# Whole nodes (--exclusive), because `ray symmetric-run` ends with `ray stop`, which would stop every other Ray of
# yours on a shared node.
#SBATCH --job-name=agent57
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=agent57-%j.log
set -euo pipefail

run_dir=${1:?usage: sbatch deploy/slurm.sh RUN_DIR [flags of launch.py train]}
shift
# shellcheck source=/dev/null
source .venv/bin/activate

# Ray opens many files; raise the limit as far as this node allows.
ulimit -n 65535 2> /dev/null || ulimit -n "$(ulimit -Hn)"

# Whoever reaches Ray's ports must know this job's token. It lies where the nodes, but no other user, can read it.
mkdir -p "$(dirname "$run_dir")"
RAY_AUTH_TOKEN_PATH=$(realpath -m "$run_dir").ray-token-$SLURM_JOB_ID
export RAY_AUTH_TOKEN_PATH RAY_AUTH_MODE=token
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

# A folder of this job's own for Ray's sockets and logs: other users' would not be writable. Short, as sockets need.
export RAY_TMPDIR="/tmp/a57-$SLURM_JOB_ID"
export RAY_USAGE_STATS_ENABLED=0
# Nodes of a large job start minutes apart.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_ip=$(getent ahostsv4 "$head_node" | awk 'NR == 1 { print $1 }')
port=$((20000 + SLURM_JOB_ID % 20000))

# Five minutes before the time limit (see --signal). This shell runs on the first node, beside the training process.
stopped=
trap 'stopped=yes; kill -TERM "$(cat "$run_dir.pid")"' USR1

# When SLURM preempts the job it sends SIGTERM to everything in the step. Only the training process may act on it, by
# writing its checkpoint; were its parent to die, SLURM would take the step for finished and kill the rest.
# shellcheck disable=SC2016  # $RAY_TMPDIR and $@ are those of each node's shell
srun --kill-on-bad-exit=1 bash -c 'trap "" TERM && mkdir -p "$RAY_TMPDIR" && exec "$@"' agent57 \
    ray symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --dashboard-host 127.0.0.1 -- \
    bash deploy/train_or_resume.sh "$run_dir" --cluster.address "$head_ip:$port" --checkpoint.grace-seconds 240 "$@" &
step=$!
code=0
wait "$step" || code=$?
if [ -n "$stopped" ]; then
    # The first wait ended with the signal; this one ends when the checkpoint is written.
    code=0
    wait "$step" || code=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
