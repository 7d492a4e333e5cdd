#!/usr/bin/env bash
# Train, or go on training if the run already has a checkpoint: what a job that may be started again should run.
#
#   bash deploy/train_or_resume.sh RUN_DIR [flags of launch.py train]
#
# A schedule that restarts a preempted or failed job (SLURM's requeue, RayJob's backoffLimit) then loses at most what
# was learned since the last checkpoint. A run that broke off before its first one is begun anew in its folder.
# --env and --preset matter only for a new run: a resumed one keeps its own configuration, other flags override it.
# Of --env module:Id a resumed run still hears that you trust the module.
# The process id of the training process is in RUN_DIR.pid, for whoever wants to send it a signal.
set -euo pipefail

if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: bash deploy/train_or_resume.sh RUN_DIR [flags of launch.py train]" >&2
    exit 2
fi
run_dir=${1%/}
shift
case $run_dir in */*) mkdir -p -- "${run_dir%/*}" ;; esac

# exec, below, keeps the process id.
echo $$ > "$run_dir.pid"

# Whether the folder, whose name may hold characters of patterns, has a checkpoint.
resumable() {
    local manifest
    for manifest in "$run_dir"/checkpoints/{,.replaced-}[0-9]*/manifest.json; do
        if [ -e "$manifest" ]; then return 0; fi
    done
    return 1
}

# A resumed run imports the environment's module only if it is named.
trust() {
    case $1 in
        *:*) flags+=(--trust-modules "${1%:*}") ;;
    esac
}

if resumable; then
    flags=()
    while [ $# -gt 0 ]; do
        case $1 in
            --env) [ $# -eq 1 ] || { shift; trust "$1"; } ;;
            --env=*) trust "${1#--env=}" ;;
            --preset | --resume | --run-dir) [ $# -eq 1 ] || shift ;;
            --preset=* | --resume=* | --run-dir=*) ;;
            *) flags+=("$1") ;;
        esac
        shift
    done
    exec python launch.py train --resume "$run_dir" "${flags[@]}"
fi
exec python launch.py train --run-dir "$run_dir" "$@"
