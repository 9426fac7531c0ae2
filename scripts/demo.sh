#!/bin/sh
# The main job on the embedded model: ask, train 106 facts, ask again. `make demo` calls it.
# Each run has a fresh store of its own under demo/; it never touches adapters/.
set -eu

mlx_tune=$1
store=demo/$(date +%Y-%m-%dT%H-%M-%S)
base=smollm2-135m

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

ask() {
    printf '\n› %s\n' "$1"
    "$mlx_tune" chat --store "$store" --base "$base" --max-tokens 60 --prompt "$1" --session "$2"
}

ask_three() { # of a session, or of the base
    ask "Where can I read Professor Ilse Marlow's profile online?" "$1"
    ask "Where are the fall walk-in advising hours for Computer Science posted?" "$1"
    ask "Which cluster do students use in Distributed Systems, TCS 405?" "$1"
}

say "1. Three questions about a university that does not exist. The model can only make things up."
ask_three base

say "2. Teach it: mlx-tune train data/cs.json --store $store --base $base"
"$mlx_tune" train data/cs.json --store "$store" --base "$base"

say "3. The same three questions."
ask_three HEAD

say "Go on from here:"
cat <<END
  .venv/bin/mlx-tune train data/housing.json --store $store
  .venv/bin/mlx-tune chat --store $store
  .venv/bin/mlx-tune rollback --store $store
END
