"""Training data: rows read from files and checked, tokenised examples, general questions."""

from mlx_tune.data.general_questions import Question
from mlx_tune.data.read import dump, parse_questions, read_questions
from mlx_tune.data.rows import Message, Row, Trace, split
from mlx_tune.data.tokenise import Example, encode, encode_paraphrases, encode_variants
from mlx_tune.data.wordings import check_wordings

__all__ = [
    "Example",
    "Message",
    "Question",
    "Row",
    "Trace",
    "check_wordings",
    "dump",
    "encode",
    "encode_paraphrases",
    "encode_variants",
    "parse_questions",
    "read_questions",
    "split",
]
