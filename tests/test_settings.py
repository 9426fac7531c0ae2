import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_tune.errors import InputError, UsageError
from mlx_tune.settings import FIELDS, TrainingSettings, kind, merge_settings, read_config
from mlx_tune.sizing import size_training


def test_a_flag_wins_over_the_config_and_each_says_where_it_came_from():
    found = merge_settings({"rank": 4, "epochs": None}, ("my.yaml", {"rank": 8, "epochs": 3}))
    assert (found["rank"].value, found["rank"].source) == (4, "--rank")
    assert (found["epochs"].value, found["epochs"].source) == (3, "my.yaml")


def test_an_unknown_key_fails_with_the_nearest_name():
    with pytest.raises(InputError) as error:
        merge_settings({}, ("my.yaml", {"epoch": 3}))
    assert str(error.value) == 'my.yaml: epoch is not a setting; did you mean "epochs"?'


def test_all_problems_are_reported_at_once():
    with pytest.raises(InputError) as error:
        merge_settings(
            {}, ("my.yaml", {"rank": "big", "epochs": 0, "seed": True, "learning_rate": 2})
        )
    assert str(error.value).splitlines() == [
        "my.yaml: rank: 'big'; expected a whole number",
        "my.yaml: epochs: 0; expected 1 to 10000",
        "my.yaml: seed: True; expected a whole number",
        "my.yaml: learning_rate: 2; expected 1e-09 to 1",
    ]


def test_a_flag_out_of_its_limits_is_a_usage_error():
    with pytest.raises(UsageError) as error:
        merge_settings({"batch_size": 0})
    assert str(error.value) == "--batch-size: 0; expected 1 to 4096"


def test_not_a_number_is_no_learning_rate():
    with pytest.raises(UsageError, match="--learning-rate: nan; expected 1e-09 to 1"):
        merge_settings({"learning_rate": float("nan")})


def test_a_whole_number_serves_where_a_number_is_wanted():
    assert merge_settings({}, ("c", {"alpha": 32}))["alpha"].value == 32


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.from_type(object) | st.integers()))
def test_any_config_is_taken_or_refused_in_words(values):
    try:
        found = merge_settings({}, ("c", values))
    except InputError as error:
        assert all(line.startswith("c: ") for line in str(error).splitlines())
    else:
        assert all(isinstance(g.value, (kind(n), int)) for n, g in found.items())


def test_every_setting_has_help_and_a_plain_type():
    for name, field in FIELDS.items():
        assert field.metadata["help"].endswith("."), name
        assert kind(name) in (int, float, bool, str)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "c.yaml:1:6: expected ',' or ']', but got '<stream end>'; expected YAML"),
        ("- 1\n- 2", "c.yaml: expected `setting: value` lines"),
        ("rank: 8\n\nepochs: 3\nrank: 16", "c.yaml:4: rank is set in line 1 too; keep one"),
        ("{rank: 8, 'rank': 8}", "c.yaml:1: rank is set in line 1 too; keep one"),
    ],
)
def test_a_config_that_does_not_parse_names_the_place(tmp_path, monkeypatch, text, message):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        read_config(Path("c.yaml"))
    assert str(error.value) == message


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: No such file or directory; name a YAML"):
        read_config(tmp_path / "nowhere.yaml")


def test_an_empty_config_sets_nothing(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "c.yaml") == {}


def test_a_number_as_people_write_it_is_a_number(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-4\nalpha: many\n")
    found = read_config(tmp_path / "c.yaml")
    assert found == {"learning_rate": 1e-4, "alpha": "many"}


def test_a_long_value_is_shown_in_short():
    with pytest.raises(InputError) as error:
        merge_settings({}, ("c", {"rank": ["x"] * 1000}))
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("guard", 0.3, "guard is now general_replay"),
        ("dora", True, "dora: DoRA scales whole weight columns, so its change is not a sum"),
    ],
)
def test_a_setting_of_an_earlier_version_is_answered_with_what_to_write(key, value, message):
    with pytest.raises(InputError) as error:
        merge_settings({}, ("c", {key: value}))
    assert str(error.value).startswith(f"c: {message}")


def test_a_record_of_an_earlier_version_is_read_by_todays_names():
    settings = size_training(8, hidden_size=576, loss_chunk=64, explicit={})
    record = settings.to_json()
    record["guard"] = record.pop("general_replay")
    assert TrainingSettings.from_json(record) == settings


def test_every_fixed_default_is_within_its_limits():
    for name, field in FIELDS.items():
        if field.metadata["default"] is not None:
            assert merge_settings({name: field.metadata["default"]})[name].source.startswith("--")
