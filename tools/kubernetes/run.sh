#!/usr/bin/env bash
# Compresses what config.yaml says, round by round: IMAGE=REGISTRY/delta-stream:TAG ./run.sh
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${IMAGE:?name an image that has the program delta-stream}"
PARALLELISM=${PARALLELISM:-16} ROUND=0 SURVEYS='' STEP=''

# Applies a manifest with the round's values and waits until its Job is done, or failed.
job() {
    local name=$1 manifest=$2
    kubectl delete job "$name" --ignore-not-found >&2
    sed -e "s|\${IMAGE}|$IMAGE|" -e "s|\${PARTS}|$PARTS|" -e "s|\${PARALLELISM}|$PARALLELISM|" -e "s|\${ROUND}|$ROUND|" \
        -e "s|\${SURVEYS}|$SURVEYS|" -e "s|\${STEP}|$STEP|" "$here/$manifest" | kubectl apply -f - >&2
    until kubectl wait "job/$name" --for=condition=Complete --timeout=10s > /dev/null 2>&1; do
        if kubectl wait "job/$name" --for=condition=Failed --timeout=0s > /dev/null 2>&1; then
            kubectl logs "job/$name" --tail=20 >&2
            exit 1
        fi
    done
}

kubectl apply -f "$here/config.yaml" >&2
PARTS=$(kubectl get configmap delta-stream -o 'jsonpath={.data.PARTS}')
WORK=$(kubectl get configmap delta-stream -o 'jsonpath={.data.WORK}')

STEP='plan' job delta-plan-0 step.yaml
rounds=$(kubectl logs job/delta-plan-0 | sed -nE 's/.*"rounds":([0-9]+).*/\1/p')
for ROUND in $(seq "$rounds"); do
    job "delta-part-$ROUND" compress.yaml
    if [ "$ROUND" = "$rounds" ]; then step='finish'; else step='join'; fi
    STEP=$step job "delta-$step-$ROUND" step.yaml
    SURVEYS="--surveys $WORK/round-$ROUND.surveys"
done
