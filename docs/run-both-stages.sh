#!/usr/bin/env bash
# Factor stage, then the model stage on exactly its log: what `rdagent-sota run` does, for people who want to edit it.
# It does not resume, and shows no progress but RD-Agent's own.
#
#   FACTOR_LOOPS=10 MODEL_LOOPS=10 ./run-both-stages.sh
#
# Start it in the folder that holds your .env. Everything can be set in the environment:
#   FACTOR_LOOPS, MODEL_LOOPS   loops of each stage
#   DURATION                    time for the factor stage, such as 8h; empty for no limit
#   USE_ALPHA_FACTORS           true: Alpha features beside the mined factors; false: the mined factors alone
#   FACTOR_LOG                  a finished factor run's log, in place of the factor stage
#   LOG_ROOT                    where the logs go
set -euo pipefail

factor_loops=${FACTOR_LOOPS:-10}
model_loops=${MODEL_LOOPS:-10}
duration=${DURATION:-}
log_root=${LOG_ROOT:-$PWD/log}
id=$(date -u +%Y-%m-%d_%H-%M-%S)
factor_log=${FACTOR_LOG:-}
model_log=$log_root/$id-model

mkdir -p "$log_root"

if [[ -z $factor_log ]]; then
  # Fixed beforehand: `ls -t log | head -1` finds whatever run wrote last, which may be somebody else's.
  factor_log=$log_root/$id-factor
  arguments=(--loop-n "$factor_loops")
  if [[ -n $duration ]]; then
    arguments+=(--all-duration "$duration")
  fi
  LOG_TRACE_PATH=$factor_log rdagent fin_factor "${arguments[@]}" 2>&1 | tee "$factor_log.txt"
fi

export LOAD_SOTA_FROM_LOG=true
export SOTA_LOG_PATH=$factor_log
export USE_ALPHA_FACTORS=${USE_ALPHA_FACTORS:-true}
export SOTA_STRICT=true

# Exit code 1 if nothing was accepted, or the model stage would stop for another reason; it says which.
rdagent-sota doctor

LOG_TRACE_PATH=$model_log rdagent fin_model --loop-n "$model_loops" 2>&1 | tee "$model_log.txt"

# Each loop's model with its metrics; the factor stage's own result is the line marked SOTA.
rdagent-sota inspect "$factor_log"
rdagent-sota inspect "$model_log"
