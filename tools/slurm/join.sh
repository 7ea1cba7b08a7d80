#!/usr/bin/env bash
#SBATCH --cpus-per-task=2
#SBATCH --mem=1G
#SBATCH --requeue
# Joins the parts of one round; of the last one verifies the archive and removes the parts:
# join.sh BASE WORK PARTS ROUND OUTPUT
set -euo pipefail

base=$1 work=$2 parts=$3 round=$4 output=$5
program=${DELTA_STREAM:-delta-stream}
files=()
for part in $(seq "$parts"); do files+=("$work/round-$round.part-$part-of-$parts"); done

# Surveys may be made again; an archive that is there stays.
case $output in
    *.surveys) exec "$program" join "${files[@]}" -o "$output" --force --quiet ;;
esac
"$program" join "${files[@]}" -o "$output" --quiet
"$program" verify "$output" --base "$base" --threads "${SLURM_CPUS_PER_TASK:-1}" --quiet
rm -r "$work"
