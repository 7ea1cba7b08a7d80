#!/usr/bin/env bash
#SBATCH --cpus-per-task=4
#SBATCH --mem=1G
#SBATCH --requeue
# One part of one round, of an array job whose index is the part: part.sh FT BASE WORK PARTS ROUND [options]
set -euo pipefail

ft=$1 base=$2 work=$3 parts=$4 round=$5
shift 5
part=$SLURM_ARRAY_TASK_ID
surveys=()
if [ "$round" -gt 1 ]; then surveys=(--surveys "$work/round-$((round - 1)).surveys"); fi

# Replaces what an attempt before it made: a part is there whole or not at all. The last --plan counts: rates that were
# given with one are in this file.
exec "${DELTA_STREAM:-delta-stream}" compress --shards "$ft" --base "$base" "$@" --plan "$work/plan.json" \
    --part "$part/$parts" "${surveys[@]}" -o "$work/round-$round.part-$part-of-$parts" --force \
    --threads "${SLURM_CPUS_PER_TASK:-1}" --max-memory 512MiB --quiet
