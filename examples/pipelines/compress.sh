#!/bin/sh
# Compresses a model with curl alone: upload, wait, report, weights; for a nightly job.
#
#   RANKPRESS_URL=http://127.0.0.1:8000 ./compress.sh model.safetensors 0.9 small.safetensors [validation.safetensors]
#
# RANKPRESS_API_KEY is sent when it is set. Exit code 1 with the service's own words when it fails.
# Needs curl 7.76 or newer, python3 to read JSON.
set -eu

model=$1 threshold=$2 output=$3 validation=${4:-}
url=${RANKPRESS_URL:-http://127.0.0.1:8000}

call() { # curl that fails on an error status, and shows the problem
  if [ -n "${RANKPRESS_API_KEY:-}" ]; then
    # By a file descriptor: the command line is seen by other users.
    printf 'header = "Authorization: Bearer %s"\n' "$RANKPRESS_API_KEY" | curl --config - --fail-with-body -sS "$@"
  else
    curl --fail-with-body -sS "$@"
  fi
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1"; }

set -- -F threshold="$threshold" -F model=@"$model"
[ -z "$validation" ] || set -- "$@" -F validation=@"$validation"
# The key makes a second try of a lost answer the same job, not another one.
key=$(python3 -c 'import uuid; print(uuid.uuid4())')
answer=$(call --retry 3 -H "Idempotency-Key: $key" "$@" "$url/v1/jobs") || {
  printf '%s\n' "$answer" >&2 # the problem, with what to send instead
  exit 1
}
job=$(printf '%s' "$answer" | field id)
echo "job $job" >&2

while :; do
  state=$(call -H 'Prefer: wait=20' "$url/v1/jobs/$job" | field state)
  case $state in queued | running) ;; *) break ;; esac
done
if [ "$state" != succeeded ]; then
  call "$url/v1/jobs/$job" | field error >&2
  exit 1
fi

call -H 'Accept: text/markdown' "$url/v1/jobs/$job/report"
call "$url/v1/jobs/$job/weights" -o "$output"
