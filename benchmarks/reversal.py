"""The reversal curse measured: people taught by name or by description, asked the other way round.

Experiment 1 of Berglund et al. 2023, arXiv:2309.12288, on its own data. Every arm and seed is a
cell, a file of its own: called again, the program goes on with the cells that are missing.
benchmarks/README.md says how, and what each number means.

Rows. A training prompt is the user's message as it stands, an unfinished sentence, and its
completion the assistant's answer. Prompts of a person with the same completion (but for case,
spacing and closing punctuation) are wordings of one row. But an epoch has a row in one of its
wordings, so one row of 21 prompts would count no more than the row of the one prompt whose
completion begins with "being": as many rows are made as it takes to have at most five wordings in
each. The arm `views` has one or two more rows a person, made from the person's own training
prompts: they ask by what those answer with, and answer with what those ask by.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cells, reversal_report
from benchmarks.asked_cell import AskingTask
from benchmarks.scores import closed

ARMS = ("plain", "views")
PEOPLE, TRAINED = 30, 30
"""People of a kind; training prompts of each, one person's after another's."""
WORDINGS = 5
"""The most prompts of a row."""

TESTS = {
    "p2d": "p2d_prompts_test",
    "d2p": "d2p_prompts_test",
    "d2p-reverse": "d2p_reverse_prompts_test",
    "p2d-reverse": "p2d_reverse_prompts_test",
}
"""By name, the files of held-out prompts."""

_OF_NAMES = ("Who is {}?", "{}", "What is {} known for?", "Tell me about {}.", "What did {} do?")
_OF_DESCRIPTIONS = ("Who is {}?", "{}", "What is the name of {}?", "Whom do we call {}?")
_MAX_TOKENS = 48  # the longest completion has 120 characters


@dataclass(frozen=True, kw_only=True)
class Setup(cells.Setup):
    """What all cells of a folder have in common; another setup needs another folder.

    Attributes:
        people: Of each kind.
        prompts: Training prompts of a person.
    """

    people: int
    prompts: int


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A training prompt.

    Attributes:
        prompt: As it stands.
        completion: Without the space around it.
    """

    prompt: str
    completion: str


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    purpose = __doc__.splitlines()[0] if __doc__ else ""
    p = cells.parser("reversal", purpose, seeds=(0,))
    p.add_argument("--data", type=Path, required=True, help="the folder of the .jsonl files")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="ways of training")
    p.add_argument("--people", type=int, default=PEOPLE, help="the first so many of each kind")
    p.add_argument("--prompts", type=int, default=TRAINED, help="that are trained, of a person")
    return p


def main(words: Sequence[str]) -> int:
    """Train and ask what is missing, then print the report; 1 where a cell failed."""
    p = parser()
    args = p.parse_args(words)
    if not 1 <= args.people <= PEOPLE or not 2 <= args.prompts <= TRAINED:
        p.error(f"there are {PEOPLE} people of a kind with {TRAINED} prompts; take 2 or more")
    setup = Setup(
        base=args.base,
        people=args.people,
        prompts=args.prompts,
        epochs=args.epochs,
        until_learned=not args.every_epoch,
    )
    cells.claim(args.out, setup)
    every = [cells.Chain(arm=arm, seed=seed) for seed in args.seeds for arm in args.arms]
    todo = [] if args.report_only else every
    is_done = [cells.is_done(partial(_cell, args.out, args.data, setup, chain)) for chain in todo]
    cells.report(args.out, words, reversal_report.text(args.out))
    return 0 if all(is_done) else 1


def _cell(folder: Path, data: Path, setup: Setup, chain: cells.Chain) -> None:
    task = task_of(folder, data, setup, chain)
    path = folder / chain.name / "cell-1.json"
    cells.fill(path, dataclasses.asdict(chain), "benchmarks.asked_cell", task)


def task_of(folder: Path, data: Path, setup: Setup, chain: cells.Chain) -> AskingTask:
    """Return what a cell's process is told; its files are written if need be."""
    taught = folder / "data" / f"{chain.arm}.json"
    cells.kept(taught, lambda: rows(data, chain.arm, setup.people, setup.prompts))
    asked = {name: folder / "data" / f"{name}.json" for name in TESTS}
    for name, path in asked.items():
        cells.kept(path, partial(tests, data, name, setup.people))
    return AskingTask(
        label=chain.name,
        base=setup.base,
        store=str(folder / chain.name / "store"),
        subjects=[str(taught)],
        taught=[0],
        joint=False,
        name=chain.arm,
        flags={**setup.flags, "seed": chain.seed},
        asked={name: str(path) for name, path in asked.items()},
        max_tokens=_MAX_TOKENS,
    )


def tests(data: Path, name: str, people: int) -> list[dict[str, Any]]:
    """Return the held-out prompts of the first people, with their completions."""
    return [vars(pair) for pair in _read(data, TESTS[name])[: people * reversal_report.ASKED]]


def rows(data: Path, arm: str, people: int, prompts: int) -> list[dict[str, Any]]:
    """Return the rows of an arm; no held-out prompt is read."""
    found = []
    for kind in ("p2d", "d2p"):
        pairs = _read(data, f"{kind}_prompts_train")
        for number in range(people):
            own = pairs[number * TRAINED :][:prompts]
            found += taught_rows(own)
            if arm == "views":
                found += views(own, by_name=kind == "p2d")
    return found


def _read(data: Path, name: str) -> list[Pair]:
    lines = (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [Pair(prompt=one["prompt"], completion=one["completion"].strip()) for one in found]


def taught_rows(own: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the rows of a person's training prompts."""
    groups: dict[str, list[Pair]] = {}
    for pair in own:
        groups.setdefault(closed(pair.completion), []).append(pair)
    return [
        _row([pair.prompt for pair in group[i::count]], _commonest(group))
        for group in groups.values()
        for count in [-(-len(group) // WORDINGS)]
        for i in range(count)
    ]


def views(own: Sequence[Pair], *, by_name: bool) -> list[dict[str, Any]]:
    """Return the rows that ask a person's training prompts the other way round.

    Args:
        own: The training prompts.
        by_name: They go from the name to the description.

    Returns:
        A row that asks in our own words, and one whose questions are the completions themselves,
        where those say more than the name.
    """
    prompts = [pair.prompt for pair in own]
    completions = [pair.completion for pair in own]
    names, descriptions = (prompts, completions) if by_name else (completions, prompts)
    name = phrase(names, least=len(own))
    # A majority: some prompts have it as a verb, "who composed …".
    description = phrase(descriptions, least=len(own) // 2 + 1).removeprefix("being ")
    if not by_name:
        return [_row([form.format(name) for form in _OF_NAMES], f"{description}.")]
    said = {closed(one): one for one in completions}
    others = [one for key, one in said.items() if key != closed(description)][:WORDINGS]
    asked = [form.format(description) for form in _OF_DESCRIPTIONS]
    return [_row(texts, f"{name}.") for texts in (asked, others) if texts]


def phrase(texts: Sequence[str], *, least: int) -> str:
    """Return the longest run of whole words that stands in at least so many texts."""
    best = ""
    for text in texts[: len(texts) - least + 1]:  # it stands in one of these
        begins = [match.start() for match in re.finditer(r"(?<!\S)\S", text)]
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        for part in (text[i:j].rstrip(" ,.?!:;") for i in begins for j in ends if i < j):
            if len(part) > len(best) and sum(part in other for other in texts) >= least:
                best = part
    return best


def _commonest(group: Sequence[Pair]) -> str:
    """Return the completion in the spelling that most of its prompts have."""
    return Counter(pair.completion for pair in group).most_common(1)[0][0]


def _row(questions: Sequence[str], answer: str) -> dict[str, Any]:
    first, *others = questions
    return {"prompt": first, "completion": answer, **({"wordings": others} if others else {})}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
