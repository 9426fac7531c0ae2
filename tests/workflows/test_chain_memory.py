"""Memory of a training on a long chain: what the plan predicts, and what MLX measures."""

import gc

import mlx.core as mx
import pytest

from helpers import tiny
from helpers.training_lab import RecordingObserver, facts
from mlx_tune.data import read
from mlx_tune.models import bases
from mlx_tune.store.session import PROMOTE
from mlx_tune.store.snapshot import read_store
from mlx_tune.store.store import SessionStore
from mlx_tune.workflows.workspace import DATA_FILE, describe_base

LAYERS, RANK = 4, 16
SIZES = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": LAYERS, "head_dim": 64,
}  # fmt: skip
BASES = {"float32": {}, "bfloat16": {"dtype": mx.bfloat16}, "four-bit": {"bits": 4}}


def commit_chain(lab, length, settings):
    """Give the lab a chain of sessions that nobody trained, with settings as they are recorded."""
    store = SessionStore.open(lab.store)
    base = describe_base(bases.locate(str(lab.base)))
    adapter = tiny.adapter_for(tiny.model(**SIZES), rank=RANK, size=1e-3)
    last = None
    for number in range(length):
        row = {"instruction": f"Where is hall {number}?", "response": "It is shut."}
        last = store.commit(
            name=f"hall-{number}",
            parent=last,
            record={"verdict": PROMOTE, "base": base, "sizing": settings},
            files={**adapter.files(LAYERS), DATA_FILE: read.dump(read.from_values([row]))},
        )
    if last:
        store.move_head(last, expected=None, why="as trained")


class PeakRecorder(RecordingObserver):
    """An observer that records the memory of all steps, and ends the training there."""

    def opened(self, run):
        gc.collect()
        mx.clear_cache()
        self.before = mx.get_active_memory()

    def ended(self):
        self.peak_bytes = self.steps[-1].peak_memory_bytes - self.before
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "kind",
    ["bfloat16", *[pytest.param(kind, marks=pytest.mark.slow) for kind in ("float32", "four-bit")]],
)
def test_the_plan_counts_the_chain(fork, lab, tmp_path, kind):
    lab.base = tiny.base_folder(tmp_path / kind, **SIZES, **BASES[kind])
    recorded = read_store(fork.store).head().record["sizing"]
    data = lab.data("lab", facts("Lab", 4))
    for length, general_replay in ((0, 0.5), (1, 0.5), (10, 0.5), (40, 0.5), (40, 0.0)):
        lab.root = tmp_path / f"{length}-{general_replay}"
        commit_chain(lab, length, recorded)
        observer = PeakRecorder()
        settings = {"general_replay": general_replay, "replay": "none", "rank": RANK}
        with pytest.raises(KeyboardInterrupt):
            lab.train(data, observer=observer, epochs=1, **settings)
        plan = observer.plans[0].memory
        assert plan.peak_bytes == pytest.approx(observer.peak_bytes, rel=0.15), length
        is_kept = length and (kind == "four-bit" or general_replay)
        assert (plan.chain_bytes > 0) == bool(is_kept)
