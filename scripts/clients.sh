#!/bin/sh
# Makes .venv-clients: programs nobody here wrote that speak to servers like ours, for the tests in
# tests/serving/clients, that load our adapters, and that record trainings, for tests/slow. What cannot be installed is
# named, and its tests are skipped.
set -u

home=.venv-clients
python=${PYTHON:-.venv/bin/python}

# Not compiled: most of it is never imported, and that would take as long as the rest.
install_into() {
    folder=$1
    shift
    "$python" -m venv "$folder" &&
        "$folder/bin/python" -m pip install -qq --no-compile --disable-pip-version-check "$@"
}

echo "installing clients of other people into $home (2 GB, three minutes)…"
missing=""
install_into $home 'openai>=3.54,<4' 'langchain-openai>=1.7,<2' 'llm>=0.36,<1' \
    'schemathesis>=4.32,<5' 'lm-eval[api]>=0.4.13,<0.5' 'transformers>=5,<6' ||
    missing="$missing openai langchain-openai llm schemathesis lm-eval"
# In a place of its own: it wants the major version of openai before.
install_into $home/litellm 'litellm>=1.106,<2' || missing="$missing litellm"
# Not a client of the server, but what adapters come from and go to.
install_into $home/peft 'torch==2.13.0' 'transformers>=5,<6' 'peft>=0.21,<0.22' ||
    missing="$missing peft"
install_into $home/llama-cpp 'xllamacpp==2026.10.11549' || missing="$missing llama.cpp"
install_into $home/trackers 'tensorboardX>=2.6,<3' 'tensorboard>=2.15' 'wandb>=0.20,<1' \
    'mlflow-skinny>=3,<4' 'trackio>=0.40' || missing="$missing trackers"
mkdir -p $home/node
if ! { command -v node && npm install --prefix $home/node --silent --no-audit --no-fund \
    'openai@^6.49'; } >/dev/null 2>&1; then
    missing="$missing openai-for-node"
fi
[ -z "$missing" ] || echo "note: could not be installed, and their tests are skipped:$missing"
touch $home/.ready
