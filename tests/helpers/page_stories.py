"""A lineage of five sessions with its retention and a training, as the server's API tells them."""

import random
from dataclasses import dataclass, field
from typing import Any

BASE = "smollm2-135m"
CS, HOUSING, LIBRARY, DINING, SPORTS = (
    "0001-cs-1b2c3d4e",
    "0002-housing-5a6b7c8d",
    "0003-library-9e8f7a6b",
    "0003-dining-7f3a9c12",
    "0004-sports-0d1e2f3a",
)
_PARENTS = {CS: None, HOUSING: CS, LIBRARY: HOUSING, DINING: HOUSING, SPORTS: LIBRARY}


@dataclass(kw_only=True)
class Story:
    """What the server knows.

    Attributes:
        head: A session's id; None on the bare base.
        training: What GET /api/training answers.
        sessions: False where nothing was ever taught.
    """

    head: str | None = DINING
    training: dict[str, Any] = field(default_factory=lambda: {"run": None})
    sessions: bool = True

    def chain(self) -> list[str]:
        """Return what HEAD stands on, itself included, newest first."""
        found, at = [], self.head
        while at:
            found.append(at)
            at = _PARENTS[at]
        return found

    def models(self) -> dict[str, Any]:
        """Return GET /v1/models."""
        usable = [identity for identity in reversed(_PARENTS) if identity != SPORTS]
        rows = [("head", self.head or BASE, "base" if self.head else None)]
        rows += [(identity, identity, "base") for identity in usable if self.sessions]
        rows.append(("base", BASE, None))
        return {"object": "list", "data": [_model(*row) for row in rows]}

    def lineage(self) -> dict[str, Any]:
        """Return GET /api/lineage."""
        chain = self.chain()
        sessions = _sessions(chain) if self.sessions else []
        previous = chain[1] if len(chain) > 1 else None
        return {"base": BASE, "head": self.head, "previous": previous, "sessions": sessions}

    def retention(self, session: str | None) -> dict[str, Any]:
        """Return GET /api/retention: the same for every session."""
        return {
            "session": session or self.head,
            "labels": ["1 cs", "2 housing", "3 dining"],
            "scores": [
                {
                    "kind": "other_words",
                    "matrix": [
                        [_cell(1, 64), _cell(0, 64), None],
                        [_cell(37, 64), _cell(0, 64), _cell(0, 64)],
                        [_cell(33, 64), _cell(42, 64), _cell(1, 64)],
                        [_cell(31, 64), _cell(36, 64), _cell(44, 64)],
                    ],
                    "measures": _measures(acc=57.8, bwt=-9.4, fwt=0.0, forgetting=9.4),
                },
                {
                    "kind": "verbatim",
                    "matrix": [
                        [_cell(2, 106), _cell(0, 60), None],
                        [_cell(106, 106), _cell(1, 60), _cell(0, 60)],
                        [_cell(98, 106), _cell(60, 60), _cell(2, 60)],
                        [_cell(95, 106), _cell(57, 60), _cell(60, 60)],
                    ],
                    "measures": _measures(acc=94.9, bwt=-7.7, fwt=1.6, forgetting=7.7),
                },
            ],
            "general": 0.047,
        }

    def move(self, to: str | None) -> None:
        """Move HEAD."""
        assert to is None or to in _PARENTS
        self.head = to


def running(step: int = 212, steps: int = 340) -> dict[str, Any]:
    """Return a training that is on its way, its loss falling from 3.2."""
    noise = random.Random(7)
    losses = [
        [at, round(0.12 + 3.1 * 0.98**at * noise.uniform(0.8, 1.2) + noise.uniform(0, 0.15), 3)]
        for at in range(1, step + 1)
    ]
    return {
        "run": {
            "name": "2026-11-23T10-15-parking",
            "state": "running",
            "epoch": 1 + 20 * step // steps,
            "epochs": 20,
            "step": step,
            "steps": steps,
            "seconds_left": 214.0,
            "losses": losses,
        }
    }


def _model(identity: str, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": identity,
        "object": "model",
        "created": 1795428900,
        "owned_by": "mlx-tune",
        "root": root,
        "parent": parent,
        "max_model_len": 8192,
    }


def _sessions(chain: list[str]) -> list[dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = {
        CS: {
            "rows": 106,
            "as_taught": _graded(64, 64, 0),
            "other_words": _graded(37, 64, 9),
            "recall": _cell(106, 106),
        },
        HOUSING: {
            "rows": 60,
            "as_taught": _graded(60, 60, 0),
            "other_words": _graded(42, 64, 6),
            "recall": _cell(60, 60),
        },
        LIBRARY: {
            "rows": 48,
            "as_taught": _graded(48, 48, 0),
            "other_words": None,
            "recall": _cell(48, 48),
            "verdict": "refuse",
            "reasons": [
                "1 cs fell from 92 % to 61 % (limit: 10 points)",
                "general answers cost 0.31 nats a token more than the base's (limit: 0.1)",
            ],
        },
        DINING: {
            "rows": 60,
            "as_taught": _graded(60, 60, 0),
            "other_words": _graded(44, 64, 7),
            "recall": _cell(60, 60),
            "tags": ["good"],
        },
        SPORTS: {
            "rows": None,
            "as_taught": None,
            "other_words": None,
            "recall": None,
            "verdict": None,
            "damaged": "adapters.safetensors: its hash is not the one in MANIFEST.sha256",
        },
    }
    return [_session(identity, facts[identity], chain) for identity in _PARENTS]


def _session(identity: str, facts: dict[str, Any], chain: list[str]) -> dict[str, Any]:
    number, name, _ = identity.split("-")
    return {
        "id": identity,
        "name": name,
        "number": int(number),
        "parent": _PARENTS[identity],
        "created": f"2026-11-{19 + int(number)}T10:15:00Z",
        "sources": [f"{name}.json"],
        "verdict": "promote",
        "reasons": [],
        "tags": [],
        "in_chain": identity in chain,
        "damaged": None,
        **facts,
    }


def _cell(right: int, asked: int) -> dict[str, int]:
    return {"right": right, "asked": asked}


def _graded(right: int, asked: int, confused: int) -> dict[str, int]:
    return {"right": right, "asked": asked, "confused": confused}


def _measures(**shares: float) -> dict[str, Any]:
    return {**shares, "worst": "1 cs"}
