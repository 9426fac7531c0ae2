#!/bin/sh
# The main job on the embedded model: teach two subjects one after the other, ask in words that
# neither file has, take a step back. `make demo` calls it: six rows of each in 20 epochs and steps of
# four rows, for a few minutes on two cores. With FULL=1 it is all rows, with the settings that a
# training has by itself. Each run has a fresh store of its own under demo/; it never touches
# adapters/.
set -eu

mlx_tune=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
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
chosen = rows if everything else [rows[i * len(rows) // 6] for i in range(6)]
print(json.dumps(chosen, indent=2, ensure_ascii=False))
END
}

ask() { # the model that "$of" names
    printf '\n› %s\n' "$1"
    # shellcheck disable=SC2086 # two words
    "$mlx_tune" chat $of --base "$base" --max-tokens 60 --prompt "$1"
}

ask_cs() {
    ask "What are Yusra Halvane's office hours for students?"
    ask "How do I graduate with honors in CS?"
}

ask_housing() {
    ask "When do the nightly quiet hours of Corvane Hall begin and end?"
    ask "What is the door code of the Fennimoor Hall bike shed?"
}

settings=$([ -n "${FULL:-}" ] || echo "--epochs 20 --batch-size 4 --grad-accumulation 1")

train() {
    # shellcheck disable=SC2086 # several words, or none
    "$mlx_tune" train "$folder/$1.json" --store "$store" --base "$base" $settings
}

mkdir -p "$folder"
rows cs
rows housing

say "1. Questions about a university that does not exist. The model can only make things up."
(cd "$folder" && of="--session base" && ask_cs && ask_housing) # no store is there yet

say "2. Teach it a subject: mlx-tune train $folder/cs.json --store $store --base $base $settings"
train cs

say "3. Ask in words that are not in the file."
of="--store $store"
ask_cs

say "4. Teach it another: mlx-tune train $folder/housing.json --store $store --base $base $settings"
train housing

say "5. Ask of both."
ask_housing
ask_cs

say "6. One step back: mlx-tune rollback --store $store"
"$mlx_tune" rollback --store "$store"
ask "What is the door code of the Fennimoor Hall bike shed?"

say "Go on from here:"
cat <<END
  .venv/bin/mlx-tune rollback --to 2 --store $store
  .venv/bin/mlx-tune chat --store $store
  .venv/bin/mlx-tune eval --store $store
END
