#!/usr/bin/env bash
# Compresses one fine-tune as Slurm array jobs: ./submit.sh FT BASE ARCHIVE PARTS [options of delta-stream compress]
#
# Plans at once, then submits an array job for each round, one task a part, and a join behind each. SBATCH_* variables
# choose account and partition, DELTA_STREAM the program. Prints the id of the last job.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2s/^# //p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ft=$(realpath "$1") base=$(realpath "$2") archive=$(realpath -m "$3") parts=$4
shift 4
export DELTA_STREAM=${DELTA_STREAM:-delta-stream}
work=$archive.parts
mkdir -p "$work"

"$DELTA_STREAM" plan --shards "$ft" --base "$base" --split "$parts" -o "$work/plan.json" --force --quiet "$@" >&2
rounds=$(sed -E 's/.*"rounds":([0-9]+).*/\1/' "$work/plan.json")

job=
for round in $(seq "$rounds"); do
    after=()
    if [ -n "$job" ]; then after=("--dependency=afterok:$job"); fi
    array=$(sbatch --parsable "${after[@]}" --array="1-$parts" --job-name="delta-part-$round" --output="$work/%A-%a.log" \
        "$here/part.sh" "$ft" "$base" "$work" "$parts" "$round" "$@")
    if [ "$round" = "$rounds" ]; then output=$archive; else output=$work/round-$round.surveys; fi
    job=$(sbatch --parsable --dependency="afterok:${array%%;*}" --job-name="delta-join-$round" --output="$work/%j.log" \
        "$here/join.sh" "$base" "$work" "$parts" "$round" "$output")
    job=${job%%;*}
done
echo "$job"
