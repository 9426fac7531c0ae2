import pytest

from mlx_tune.continual.gate import Thresholds
from mlx_tune.errors import InputError, UsageError
from mlx_tune.settings import ExplicitValue, TrainingSettings
from mlx_tune.sizing import check_together, learning_rate, most_epochs, size_training


def sized(rows: int, *, hidden=3072, wordings=1.0, **given):
    chosen = {name: ExplicitValue(value=value, source="--" + name) for name, value in given.items()}
    return size_training(
        rows, hidden_size=hidden, loss_chunk=64, explicit=chosen, wordings=wordings
    )


# rows, rank, alpha, epochs, batch, accumulation, max length, at the edges of each size
TABLE = [
    (1, 8, 16, 10, 2, 4, 512),
    (99, 8, 16, 10, 2, 4, 512),
    (100, 16, 32, 5, 2, 4, 640),
    (106, 16, 32, 5, 2, 4, 640),
    (499, 16, 32, 5, 2, 4, 640),
    (500, 32, 64, 3, 4, 2, 768),
    (10_000, 32, 64, 3, 4, 2, 768),
]


@pytest.mark.parametrize(
    ("rows", "rank", "alpha", "epochs", "batch", "accumulation", "length"), TABLE
)
def test_the_number_of_rows_decides_rank_epochs_and_batches(
    rows, rank, alpha, epochs, batch, accumulation, length
):
    found = sized(rows)
    assert found.rank == rank
    assert found.alpha == alpha
    assert found.scale == 2
    assert found.epochs == epochs
    assert (found.batch_size, found.grad_accumulation) == (batch, accumulation)
    assert batch * accumulation == 8
    assert found.max_length == length


def test_the_sample_has_seventy_steps_ten_of_them_warm_up():
    from mlx_tune.continual.rehearse import mixture
    from mlx_tune.training.config import TrainingConfig
    from mlx_tune.training.optimizer import warmup_steps

    rows = mixture(new=106, old=0, general=80, epochs=5, replay="auto", general_replay=0.0)
    steps = TrainingConfig.of(sized(106), rows).planned_steps(106)
    assert (steps, warmup_steps(106, steps)) == (70, 10)


@pytest.mark.parametrize(("hidden", "rate"), [(3072, 3.58e-4), (576, 1.32e-3), (2000, 5e-4)])
def test_the_learning_rate_follows_the_width(hidden, rate):
    assert learning_rate(hidden) == pytest.approx(rate, rel=1e-3)


def test_every_value_says_why_and_where_from():
    for name, chosen in sized(106).items():
        assert chosen.reason, name
        assert chosen.source in ("rule", "default"), name
    assert sized(106).origins["rank"].reason == "106 new rows (100 to 499)"
    assert sized(1).origins["rank"].reason == "1 new row (under 100)"
    assert sized(700).origins["rank"].reason == "700 new rows (500 or more)"


def test_what_is_given_wins_and_says_so():
    found = sized(106, rank=4, epochs=12)
    assert (found.rank, found.origins["rank"].source) == (4, "--rank")
    assert (found.epochs, found.origins["epochs"].source) == (12, "--epochs")


def test_alpha_follows_a_given_rank():
    assert (sized(106, rank=4).alpha, sized(106, rank=4).scale) == (8, 2)
    assert sized(106, rank=4, alpha=4.0).scale == 1


def test_rslora_scales_by_the_root_of_the_rank():
    assert sized(106).scale == 2
    assert sized(106, rslora=True).scale == 32 / 4  # alpha 32, rank 16


def test_a_sizing_survives_its_record():
    assert TrainingSettings.from_json(sized(106).to_json()) == sized(106)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_a_given_batch_size_keeps_eight_rows_a_step(batch, accumulation):
    assert sized(106, batch_size=batch).grad_accumulation == accumulation


@pytest.mark.parametrize(("batch", "rows"), [(1, 8), (3, 6), (5, 5), (8, 8), (16, 16)])
def test_the_reason_for_the_accumulation_is_the_rows_of_a_step(batch, rows):
    found = sized(106, batch_size=batch)
    assert found.origins["grad_accumulation"].reason == f"{rows} rows a step"
    assert found.batch_size * found.grad_accumulation == rows


@pytest.mark.parametrize(("accumulation", "batch"), [(8, 1), (4, 2), (1, 8), (32, 1)])
def test_a_given_accumulation_keeps_eight_rows_a_step(accumulation, batch):
    assert sized(106, grad_accumulation=accumulation).batch_size == batch


@pytest.mark.parametrize(
    ("new", "old", "epochs"),
    [
        (30, 0, 42),  # (120 + 45) steps, 4 an epoch
        (60, 0, 36),  # (120 + 90), 8, and half as many again as the rate takes to fall
        (30, 60, 36),
        (106, 0, 36),
        (5000, 0, 18),
        (1, 100_000, 36),
        (1, 0, 122),
    ],
)
def test_the_most_epochs_grow_with_what_there_is_to_hold(new, old, epochs):
    assert most_epochs(new, old, 8) == epochs


@pytest.mark.parametrize(
    ("rows", "given", "epochs", "decay"),
    [
        (24, {"until_learned": True}, 52, 24),
        (106, {"until_learned": True}, 36, 24),
        (500, {"until_learned": True}, 18, 12),
        (24, {"until_learned": True, "epochs": 30}, 30, 24),
        (24, {"until_learned": True, "epochs": 9}, 9, 9),  # then the rate falls to the end
        (24, {"until_learned": True, "decay_epochs": 0}, 52, 0),
        (24, {}, 10, 0),
        (24, {"until_learned": True, "wordings": 5.0}, 52, 32),
        (106, {"until_learned": True, "wordings": 1.3}, 37, 25),
    ],
)
def test_until_learned_the_rate_falls_sooner_than_training_may_end(rows, given, epochs, decay):
    found = sized(rows, **given)
    assert (found.epochs, found.decay_epochs) == (epochs, decay)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"epochs": 1}, "every old row in every epoch"),
        ({"epochs": 2}, "every old row in every epoch"),
        ({"epochs": 9, "decay_epochs": 2}, "every old row in every epoch"),
        ({"epochs": 3}, "every old row at least three times"),
        ({"decay_epochs": 30}, "every old row at least three times"),
        ({"epochs": 1, "replay": "none"}, "as you asked"),
    ],
)
def test_how_often_old_rows_come_is_told_as_it_is(given, reason):
    assert sized(24, **given).origins["replay"].reason == reason


@pytest.mark.parametrize("old", [0, 100, 500, 5000])
def test_until_learned_it_can_end_early_after_any_number_of_sessions(old):
    explicit = {"until_learned": ExplicitValue(value=True, source="--until-learned")}
    found = size_training(100, hidden_size=576, loss_chunk=64, explicit=explicit, old_rows=old)
    assert (found.decay_epochs, found.epochs) == (24, 36)


@pytest.mark.parametrize(
    ("given", "taught", "epochs"),
    [
        ({}, 0, 3),
        ({}, 5, 5),
        ({}, 2, 3),
        ({"epochs": 4}, 5, 4),
        ({"until_learned": True}, 5, 18),
        ({"until_learned": True}, 30, 30),
    ],
)
def test_rows_that_are_taught_anew_get_the_epochs_that_they_took(given, taught, epochs):
    explicit = {name: ExplicitValue(value=value, source="--x") for name, value in given.items()}
    found = size_training(
        600, hidden_size=576, loss_chunk=64, explicit=explicit, taught_epochs=taught
    )
    assert found.epochs == epochs
    follows = found.origins["epochs"].reason == "as many as a session it replaces took"
    assert follows == (not given and taught > 3)


@pytest.mark.parametrize(
    ("rows", "old", "given", "share"),
    [
        (8, 0, {}, 0.55),  # ten beside eight
        (8, 100, {}, 0.38),  # and eight old ones
        (24, 0, {}, 0.3),
        (1, 0, {}, 0.9),
        (8, 0, {"general_replay": 0.1}, 0.1),
        (8, 0, {"general_replay": 0.0}, 0.0),
    ],
)
def test_an_epoch_of_few_rows_has_ten_general_questions(rows, old, given, share):
    explicit = {name: ExplicitValue(value=value, source="--x") for name, value in given.items()}
    found = size_training(
        rows, hidden_size=576, loss_chunk=64, explicit=explicit, old_rows=old
    ).items()
    chosen = dict(found)["general_replay"]
    assert chosen.value == share
    assert ("for few rows" in chosen.reason) == (not given and rows < 20)


@pytest.mark.parametrize(
    ("rows", "given", "weight"),
    [(99, {}, 4), (100, {}, 6), (600, {}, 6), (106, {"general_weight": 2}, 2)],
)
def test_general_answers_weigh_more_beside_many_rows(rows, given, weight):
    assert sized(rows, **given).general_weight == weight


@pytest.mark.parametrize(
    ("given", "value", "other", "follows"),
    [
        ("gate_kept", 0.5, "gate_kept_least", 0.5),
        ("gate_kept", 0.9, "gate_kept_least", 0.85),
        ("gate_kept_least", 0.99, "gate_kept", 0.99),
        ("gate_backward", 10.0, "gate_backward_most", 10.0),
        ("gate_backward_most", 1.0, "gate_backward", 1.0),
        ("gate_general", 0.3, "gate_general_most", 0.3),
        ("gate_general_most", 0.05, "gate_general", 0.05),
        ("gate_general_most", 0.5, "gate_general", 0.1),
    ],
)
def test_a_limit_of_the_gate_given_alone_moves_the_other_along(given, value, other, follows):
    found = sized(30, **{given: value})
    assert (getattr(found, given), getattr(found, other)) == (value, follows)
    assert ("moved along" in found.origins[other].reason) == (follows != getattr(sized(30), other))
    Thresholds.of(found)


def given(**values):
    """Values by name, each from the flag or, in a pair, from the file that is named."""
    return {
        name: ExplicitValue(value=value[0], source=value[1])
        if isinstance(value, tuple)
        else ExplicitValue(value=value, source="--" + name.replace("_", "-"))
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"gate_kept": 0.5, "gate_kept_least": 0.9},
            "--gate-kept-least 0.9 is stricter than --gate-kept 0.5; set it to at most 0.5",
        ),
        (
            {"gate_kept": 0.5, "gate_kept_least": (0.9, "my.yaml")},
            "my.yaml: gate_kept_least 0.9 is stricter than --gate-kept 0.5; set it to at most 0.5",
        ),
        (
            {"gate_backward": 3, "gate_backward_most": 2.5, "gate_general": (1, "my.yaml"),
             "gate_general_most": 0.5},
            "--gate-backward-most 2.5 is stricter than --gate-backward 3; set it to at least 3\n"
            "--gate-general-most 0.5 is stricter than my.yaml: gate_general 1; "
            "set it to at least 1",
        ),
        (
            {"validation": 0.2, "until_learned": (True, "my.yaml")},
            "--validation 0.2 beside my.yaml: until_learned true: the held-out rows would choose "
            "nothing, for the model that knows the rows is kept; add --no-until-learned or "
            "--validation 0",
        ),
        (
            {"decay_epochs": 30, "epochs": (3, "my.yaml")},
            "--decay-epochs 30 is more than my.yaml: epochs 3; set it to at most 3",
        ),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused_with_where_they_come_from(values, said):
    with pytest.raises(UsageError) as error:
        check_together(given(**values), values.keys())
    assert str(error.value) == said


def test_a_file_that_contradicts_itself_is_an_error_of_that_file():
    values = given(gate_kept=(0.5, "my.yaml"), gate_kept_least=(0.9, "my.yaml"))
    with pytest.raises(InputError, match=r"^my.yaml: gate_kept_least 0.9 is stricter than my.yaml"):
        check_together(values, values.keys())


@pytest.mark.parametrize(
    "values",
    [
        {"gate_kept": 0.9, "gate_kept_least": 0.9},
        {"gate_general": 0.3, "gate_general_most": 0.3},
        {"gate_kept_least": 0.99},
        {"validation": 0.2, "until_learned": False},
        {"validation": 0.0, "until_learned": True},
        {"decay_epochs": 3, "epochs": 3},
        {"decay_epochs": 30},
    ],
)
def test_values_that_go_together_are_let_through(values):
    check_together(given(**values), values.keys())


def test_a_decay_of_the_bases_own_file_is_cut_at_a_persons_epochs_and_no_error():
    check_together(given(epochs=3, decay_epochs=(30, "configs/tiny.yaml")), {"epochs"})


@pytest.mark.parametrize(("rows", "epochs"), [(24, 52), (106, 36)])
def test_held_out_rows_switch_off_what_a_bases_own_file_sets_but_not_its_epochs(rows, epochs):
    values = given(validation=0.2, until_learned=(True, "configs/tiny.yaml"))
    check_together(values, {"validation"})
    found = size_training(rows, hidden_size=576, loss_chunk=64, explicit=values)
    assert (found.until_learned, found.epochs, found.decay_epochs) == (False, epochs, 0)
    why = found.origins["until_learned"]
    assert why.reason == "configs/tiny.yaml sets it, but the held-out rows choose"
    assert why.source == "--validation"
