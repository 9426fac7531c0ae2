"""The model card beside an export says what a person has to know, and nothing they taught."""

import pytest
from huggingface_hub import ModelCard

from mlx_tune import Store
from mlx_tune.models.bases import locate
from mlx_tune.workflows.model_card import model_card


@pytest.fixture
def store(fork):
    return Store(fork.store, base=str(fork.base))


def rows_of(card: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading."""
    lines = card.partition(f"## {heading}")[2].strip().splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def chain_of(store, session="housing"):
    snapshot = store.snapshot()
    return snapshot.chain(snapshot.find(session))


def test_it_lies_beside_a_fused_model_and_the_hub_reads_it(store, fork, tmp_path):
    store.fuse(tmp_path / "notes", session="housing")
    card = ModelCard.load(tmp_path / "notes" / "README.md")
    assert card.data.base_model == fork.base.name
    assert card.data.to_dict() | {
        "base_model_relation": "finetune", "library_name": "mlx", "license": "other",
        "pipeline_tag": "text-generation",
    } == card.data.to_dict()  # fmt: skip
    assert card.text.strip().startswith("# notes")
    assert str(fork.base.parent) not in card.content  # where it lies is nobody's business


def test_it_lies_beside_each_adapter(store, tmp_path):
    store.export_peft(tmp_path / "one", session="housing")
    card = ModelCard.load(tmp_path / "one" / "README.md")
    assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")
    parts = store.export_peft(tmp_path / "parts", session="housing", separate=True)
    for part in parts:
        (session,) = part.sessions
        text = (part.path / "README.md").read_text()
        assert "Taught in 1 session with" in text
        assert f"| {session.number} {session.name} |" in text


def test_both_matrices_are_those_of_the_records(lab):
    for name in ("first", "second"):
        pairs = {f"Where is {name} {i}?": f"In room {i}." for i in range(2)}
        lab.train(lab.data(name, pairs, paraphrases=[f"The place of {name}?"]))
    chain = chain_of(Store(lab.store), "second")
    card = model_card(locate(str(lab.base)), chain, library="mlx", title="notes")
    tables, _, _ = card.partition("## Settings")
    first, second = tables.split("## ")[1:]
    for table, heading, score, asked in (
        (first, "Asked as it was taught", "as_taught", 2),
        (second, "Asked in other words", "other_words", 2),
    ):
        rows = rows_of(f"## {table}", heading)
        assert [row[0] for row in rows] == ["1 first", "2 second"]
        right = [[each[score]["right"] for each in one.record["recall"]] for one in chain]
        assert rows[0][1:] == [f"{right[0][0]} of {asked} right", "-"]
        assert rows[1][1:] == [f"{right[1][i]} of {asked} right" for i in (0, 1)]


def test_data_sizing_and_verdict_of_every_session(store, fork):
    chain = chain_of(store)
    card = model_card(locate(str(fork.base)), chain, library="mlx", title="notes")
    for session, row in zip(chain, rows_of(card, "Settings"), strict=True):
        assert row[1] == str(session.record["sizing"]["rank"]["value"])
        data = session.record["data"]
        assert f"| {data['rows']} | `{data['sha256'][:16]}` | {session.record['verdict']} |" in card


def test_nothing_that_was_taught_is_in_it(store, fork):
    chain = chain_of(store)
    card = model_card(locate(str(fork.base)), chain, library="mlx", title="notes")
    rows = [
        row for session in chain for row in (session.path / "data.jsonl").read_text().splitlines()
    ]
    assert rows
    assert "room" not in card
    assert all(
        source not in card for session in chain for source in session.record["data"]["sources"]
    )


def test_a_known_base_has_its_licence_and_the_bare_base_says_so(fork, monkeypatch):
    info = locate(str(fork.base))
    known = type("Known", (), {"source": info.source, "licence": "apache-2.0", "wheel_of": None})
    monkeypatch.setattr("mlx_tune.workflows.model_card.KNOWN", {"tiny": known})
    card = model_card(info, [], library="mlx", title="bare")
    assert "license: apache-2.0" in card
    assert "its licence is apache-2.0." in card
    assert card.endswith("Nothing was taught on top of it.\n")


def test_a_session_that_was_trained_elsewhere_has_no_settings(store, fork, tmp_path):
    store.export_peft(tmp_path / "peft", session="cs")
    home = Store(tmp_path / "home", base=str(fork.base))
    home.import_adapter(tmp_path / "peft", name="home")
    chain = chain_of(home, "home")
    card = model_card(locate(str(fork.base)), chain, library="mlx", title="home")
    assert rows_of(card, "Settings") == [["1 home", *"-" * 7]]
    assert "## Asked" not in card  # nobody knows what it was taught
