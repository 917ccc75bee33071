#!/usr/bin/env bash
# All weights of the flow path in one short session on a GPU, from shards that arrive in parts.
#
#   gpu-voices.sh add NAME          $WORK/corpus/NAME holds shards, aligned.safetensors and pitch.safetensors: extract its mels
#   gpu-voices.sh smoke             a few steps of every trainer on what is there: does it run here?
#   gpu-voices.sh train T F AR V    minutes: the tokens, the flow decoder (a quarter for its head alone) and the AR over them,
#                                   the vocoder beside all
#   gpu-voices.sh collect OUT       weights and logs, in files of at most 15 MB
#
# WORK (default /tmp/voices) holds everything; run from the root of the repository. CONTENT=tiny.en before all of it lets the
# tokens learn from that Whisper, too, where it is installed.
set -euo pipefail
WORK=${WORK:-/tmp/voices}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$WORK/package" "$WORK/runs" "$WORK/logs"
ln -sfn "$here" "$WORK/package/myna"
export PYTHONPATH="$WORK/package${PYTHONPATH:+:$PYTHONPATH}" MYNA_CACHE="$WORK/cache" PYTHONUNBUFFERED=1
SCALES=${SCALES:-"1:1 0.85:0.95 0.9:1.0 0.95:1.05 1.06:1.0 1.12:0.95 1.18:1.08"}

list() { # a YAML list of what a pattern matches
  printf '['; local comma=''; for path in $1; do printf '%s%s' "$comma" "$path"; comma=', '; done; printf ']'
}

fit() { # recipe, then overrides
  "$PYTHON" -c 'import sys; from myna.training.train import train; train(sys.argv[1], sys.argv[2:], quiet=False)' "$@" "device=$DEVICE"
}

CONTENT=${CONTENT:-}
listened=(); [ -z "$CONTENT" ] || listened=(--content "$CONTENT")
unheard=(losses.content=0); [ -z "$CONTENT" ] || unheard=()

tokens() { fit "$here/recipes/myna-tokens.yaml" "data.mel_sets=$(list "$WORK/mels-*.safetensors")" "${unheard[@]}" "$@"; }
flow() { fit "$here/recipes/myna-flow.yaml" "data.mel_sets=$(list "$WORK/mels-*.safetensors")" "$@"; }
head() { # after flow, whose run is the first argument
  local before=$1; shift
  fit "$here/recipes/myna-flow-head.yaml" "data.mel_sets=$(list "$WORK/mels-*.safetensors")" \
    "init_from=$before/last.safetensors" "init_tokens=$before/last.tokens.safetensors" "$@"
}
vocoder() {
  fit "$here/recipes/myna-mel-vocoder.yaml" "data.corpora=$(list "$WORK/corpus/*")" "data.pitches=$(list "$WORK/corpus/*/pitch.safetensors")" "$@"
}
ar() { fit "$here/recipes/myna-token-ar.yaml" "data.mel_sets=$(list "$WORK/mels-*.safetensors")" "$@"; }

case "$1" in
add)
  scales=(); for pair in $SCALES; do scales+=(--scale "$pair"); done
  "$PYTHON" -m myna.training.sets.extract_mels "$WORK/corpus/$2" "$WORK/part-$2.safetensors" --force --device "$DEVICE" \
    --aligned "$WORK/corpus/$2/aligned.safetensors" --pitch "$WORK/corpus/$2/pitch.safetensors" \
    --leave-out lj --leave-out asterisk/ast_en "${scales[@]}" "${listened[@]}"
  mv "$WORK/part-$2.safetensors" "$WORK/mels-$2.safetensors" # whole, or not there
  ;;
smoke)
  few=(max_minutes=null schedule.over=steps save_every_minutes=null log_every=5)
  tokens "output=$WORK/runs/smoke-tokens" "${few[@]}" max_steps=12 data.sources=null data.held_out.examples=16 "${@:2}"
  flow "output=$WORK/runs/smoke-flow" "${few[@]}" max_steps=12 data.sources=null data.held_out.examples=16 \
    "init_tokens=$WORK/runs/smoke-tokens/best.safetensors" train_tokens=false "${@:2}"
  head "$WORK/runs/smoke-flow" "output=$WORK/runs/smoke-head" "${few[@]}" max_steps=12 data.sources=null \
    data.held_out.examples=16 adversary.heard_from=4 reading.heard_from=4 "${@:2}"
  ar "output=$WORK/runs/smoke-ar" "${few[@]}" max_steps=12 data.sources=null data.held_out.examples=16 \
    "data.tokens=$WORK/runs/smoke-tokens/best.safetensors" "${@:2}"
  vocoder "output=$WORK/runs/smoke-vocoder" "${few[@]}" max_steps=12 data.sources=null data.held_out.crops=8 \
    adversary.from_step=2 adversary.heard_from=4 ${VOCODER_EXTRA:-}
  ;;
train)
  said="$WORK/runs/tokens/best.safetensors"
  vocoder "output=$WORK/runs/vocoder" "max_minutes=$5" >"$WORK/logs/vocoder" 2>&1 &
  tokens "output=$WORK/runs/tokens" "max_minutes=$2" >"$WORK/logs/tokens" 2>&1
  ar "output=$WORK/runs/ar" "max_minutes=$4" "data.tokens=$said" >"$WORK/logs/ar" 2>&1 &
  flow "output=$WORK/runs/flow" "max_minutes=$(awk "BEGIN {print $3 * 0.75}")" "init_tokens=$said" train_tokens=false \
    unrounded_until=0 >"$WORK/logs/flow" 2>&1 || true
  rm -rf "$WORK/runs/head" # a head belongs to its trunk
  head "$WORK/runs/flow" "output=$WORK/runs/head" "max_minutes=$(awk "BEGIN {print $3 * 0.25}")" >"$WORK/logs/head" 2>&1 || true
  wait
  ;;
collect)
  out=$2; mkdir -p "$out"
  runs=$WORK/runs
  decoder=$runs/head/last.safetensors # what is judged there is not what it learns: the last is the best
  [ -s "$decoder" ] || decoder=$runs/flow/best.safetensors
  [ ! -s "$decoder" ] || split -b 15M "$decoder" "$out/myna-flow.safetensors.part-"
  [ ! -s "$runs/tokens/best.safetensors" ] || cp "$runs/tokens/best.safetensors" "$out/myna-tokens.safetensors"
  [ ! -s "$runs/ar/best.safetensors" ] || cp "$runs/ar/best.safetensors" "$out/myna-token-ar.safetensors"
  [ ! -s "$runs/vocoder/best.safetensors" ] || cp "$runs/vocoder/best.safetensors" "$out/myna-mel-vocoder.safetensors"
  tar czf "$out/logs.tar.gz" -C "$WORK" logs $(cd "$WORK" && ls runs/*/metrics.jsonl)
  ls -l "$out"
  ;;
esac
