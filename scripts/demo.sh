#!/bin/sh
# The main job on the embedded model: teach two subjects one after the other, ask in words that
# neither file has, take a step back. `make demo` calls it: 16 rows of each in 20 epochs, for a few
# minutes on two cores. With FULL=1 it is all rows and as many epochs as a training takes by itself.
# Each run has a fresh store of its own under demo/; it never touches adapters/.
set -eu

mlx_tune=$1
folder=demo/$(date +%Y-%m-%dT%H-%M-%S)
store=$folder/store
base=smollm2-135m

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

rows() { # every so-many-th row of a subject, so that all its kinds of facts are there
    "$(dirname "$mlx_tune")/python" - "$1" "${FULL:+all}" <<'END' >"$folder/$1.json"
import json, sys
name, everything = sys.argv[1:]
rows = json.load(open(f"data/{name}.json", encoding="utf-8"))
chosen = rows if everything else [rows[i * len(rows) // 16] for i in range(16)]
print(json.dumps(chosen, indent=2, ensure_ascii=False))
END
}

ask() { # a session, or the base
    printf '\n› %s\n' "$2"
    "$mlx_tune" chat --store "$store" --base "$base" --max-tokens 60 --session "$1" --prompt "$2"
}

ask_cs() {
    ask "$1" "What is Kofi Brenmoor's e-mail address?"
    ask "$1" "How many internship hours equal one CS credit?"
}

ask_housing() {
    ask "$1" "Where can I live at Tarrowmere if I own a cat?"
    ask "$1" "After how many days does Wrenlow Court send back an uncollected parcel?"
}

epochs=$([ -n "${FULL:-}" ] || echo "--epochs 20")

train() {
    # shellcheck disable=SC2086 # two words, or none
    "$mlx_tune" train "$folder/$1.json" --store "$store" --base "$base" $epochs
}

mkdir -p "$folder"
rows cs
rows housing

say "1. Questions about a university that does not exist. The model can only make things up."
ask_cs base
ask_housing base

say "2. Teach it a subject: mlx-tune train $folder/cs.json --store $store --base $base $epochs"
train cs

say "3. Ask in words that are not in the file."
ask_cs HEAD

say "4. Teach it another: mlx-tune train $folder/housing.json --store $store --base $base $epochs"
train housing

say "5. Ask of both."
ask_housing HEAD
ask_cs HEAD

say "6. One step back: mlx-tune rollback --store $store"
"$mlx_tune" rollback --store "$store"
ask HEAD "Where can I live at Tarrowmere if I own a cat?"

say "Go on from here:"
cat <<END
  .venv/bin/mlx-tune rollback --to 2 --store $store
  .venv/bin/mlx-tune chat --store $store
  .venv/bin/mlx-tune eval --store $store
END
