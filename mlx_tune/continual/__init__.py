"""What makes training continual: folding, rehearsal, scoring, the gate; no paths, no printing.

Importing it loads MLX, so the commands that have to work without MLX import it when they run.
"""

from mlx_tune.continual.answers import GRADES, AnswerKey, Grade, GradedAnswer
from mlx_tune.continual.change import Change, LayerChange, change_norms, weight_norms
from mlx_tune.continual.early_stopping import EarlyStopping, ValidationScore, best_score
from mlx_tune.continual.fidelity import UNMERGED, Fidelity, FidelityMeter, Survival
from mlx_tune.continual.fold import UnmergedLinear, delta, fold, negated_factors
from mlx_tune.continual.gate import Decision, Thresholds, decide
from mlx_tune.continual.in_force import History, current_rows
from mlx_tune.continual.key_facts import KeyFact, key_facts, own_facts, present_facts
from mlx_tune.continual.methods import METHODS, Method, find_method
from mlx_tune.continual.recall import (
    GeneralChange,
    PairedChanges,
    Recall,
    general_change,
    mcnemar,
    score,
    sign_test,
)
from mlx_tune.continual.rehearse import Rehearsal, learnable, mixture, rehearse
from mlx_tune.continual.retained import (
    BackwardTransfer,
    Retained,
    SessionOutcomes,
    SessionRetention,
)
from mlx_tune.continual.retention import (
    Measure,
    QuestionHistory,
    RetentionMatrix,
    diagonal_outcomes,
    recorded_outcomes,
    superseded,
    wilson,
)
from mlx_tune.continual.synthetic import Continuation, Generate, synthesise

__all__ = [
    "GRADES",
    "METHODS",
    "UNMERGED",
    "AnswerKey",
    "BackwardTransfer",
    "Change",
    "Continuation",
    "Decision",
    "EarlyStopping",
    "Fidelity",
    "FidelityMeter",
    "GeneralChange",
    "Generate",
    "Grade",
    "GradedAnswer",
    "History",
    "KeyFact",
    "LayerChange",
    "Measure",
    "Method",
    "PairedChanges",
    "QuestionHistory",
    "Recall",
    "Rehearsal",
    "Retained",
    "RetentionMatrix",
    "SessionOutcomes",
    "SessionRetention",
    "Survival",
    "Thresholds",
    "UnmergedLinear",
    "ValidationScore",
    "best_score",
    "change_norms",
    "current_rows",
    "decide",
    "delta",
    "diagonal_outcomes",
    "find_method",
    "fold",
    "general_change",
    "key_facts",
    "learnable",
    "mcnemar",
    "mixture",
    "negated_factors",
    "own_facts",
    "present_facts",
    "recorded_outcomes",
    "rehearse",
    "score",
    "sign_test",
    "superseded",
    "synthesise",
    "weight_norms",
    "wilson",
]
