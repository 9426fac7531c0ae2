"""Answers held to a grammar: at each step, only tokens with which a whole answer can be reached.

llguidance keeps the grammar and says which tokens those are; the mask is laid on the logits here,
in MLX's own operations, so it works on every device.

Source:
    Moskal et al., llguidance, https://github.com/guidance-ai/llguidance (MIT).
"""

import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from mlx_tune.errors import InputError, UsageError
from mlx_tune.inference.json_schema import checked
from mlx_tune.inference.spelling import Spelling, spelling
from mlx_tune.models.tokenizer import Tokenizer

TRIAL_SECONDS = 10.0
"""How long a trial may take by the clock; it counts its own work and gives up after a second."""

_LIMITS: dict[str, Any] = {
    # About 8 ms of work a step, and 100 MB of automaton; the defaults allow 16 ms and 500 MB.
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    # Four for each optional property that may come next; the default of 2,000 ends an answer midway
    # where there are 500.
    "max_items_in_row": 10_000,
    "max_lexer_states": 50_000,
    "verbose_errors": False,
}
# A model in a loop would otherwise put blanks between two tokens of JSON until it is cut off.
_OPTIONS: Any = {"lenient": False, "whitespace_pattern": r"[ \n\r\t]{1,40}"}
_TRIAL = Path(__file__).with_name("trial.py")
_TOO_MUCH = "it takes too much time or memory"
_REMEMBERED = 1000  # grammars that passed their trial


class Constraints:
    """Makes grammars for one tokenizer; keep it, for its vocabulary takes a while to build.

    Any thread may ask it for constraints.

    Args:
        tokenizer: The base's.

    Raises:
        InputError: It has no end token, or its tokens have no bytes of their own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.end_ids:
            raise InputError("this tokenizer has no end token, so no answer could be complete")
        self._ends = sorted(tokenizer.end_ids)
        vocabulary = _Vocabulary(tokenizer, spelling(tokenizer))
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=self._ends)
        vocabulary.built = self._tokenizer
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def json_object(self) -> "Constraint":
        """Return the constraint that an answer is one JSON object."""
        return self._constraint({"type": "object"}, tried=True)

    def json_schema(self, schema: object) -> "Constraint":
        """Return the constraint that an answer is a JSON value which a schema accepts.

        Properties come in the schema's order; those it does not name may come twice.

        Args:
            schema: As it was parsed. A schema that was not seen before is tried in a child process
                first, which takes about a third of a second.

        Raises:
            UsageError: Something in it cannot be kept to, or it takes too much to compile.
        """
        return self._constraint(checked(schema), tried=False)

    def _constraint(self, schema: dict[str, Any], *, tried: bool) -> "Constraint":
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
        except ValueError as error:  # half a character, say
            raise _refusal(str(error)) from error
        if not tried:
            with self._lock:  # one trial at a time: many would starve the engine
                self._try(grammar)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return Constraint(matcher, self._ends)

    def _try(self, grammar: str) -> None:
        known = hashlib.sha256(grammar.encode()).digest()
        if known not in self._passed and (problem := _trial(grammar)):
            raise _refusal(problem)
        self._passed[known] = None
        self._passed.move_to_end(known)
        if len(self._passed) > _REMEMBERED:
            self._passed.popitem(last=False)


class Constraint:
    """A grammar that any number of answers may be held to."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher, tuple(ends)

    def begin(self) -> "Grammar":
        """Return the logits processor of one answer."""
        return Grammar(self._matcher.deep_copy(), self._ends)


class Grammar:
    """One answer's progress through a grammar: a logits processor of mlx-lm's kind.

    It comes last among the processors, so that none of them allows again what is forbidden. It
    never raises an error: in a batch that would end every other answer too. After a problem only
    end tokens are allowed.

    Attributes:
        problem: What went wrong, one line; None if all is well.
        complete: Whether the answer so far is a whole one.
    """

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher, frozenset(ends)
        self._taken: int | None = None
        self._ended = False
        self.problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer so far is a whole one."""
        return bool(self._matcher.is_accepting())

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the logits with minus infinity for every token that is not allowed next.

        Args:
            tokens: The prompt and what was said since, (length,); at the first call, all prompt.
            logits: Of the next token, (1, columns); columns beyond the vocabulary are padding.
        """
        count = tokens.shape[0]
        if self._taken is not None and count > self._taken:
            for token in np.array(tokens[self._taken :]):  # all but the newest was taken before
                self._take(int(token))
        self._taken = count
        allowed = mx.array(self._allowed(logits.shape[-1]))
        return mx.where(allowed, logits, mx.array(-mx.inf, dtype=logits.dtype))

    def _take(self, token: int) -> None:
        if self._ended or self.problem:
            return  # a generator runs one step ahead of what it hands out
        if token in self._ends:
            self._ended = True
        elif not self._matcher.consume_token(token):
            self.problem = f"the answer left its grammar: {_first_line(self._matcher.get_error())}"

    def _allowed(self, columns: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mask = np.zeros(columns, dtype=np.bool_)
        if not (self._ended or self.problem):
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            if not self._matcher.is_error():
                known = np.unpackbits(bits, bitorder="little")[:columns]
                mask[: len(known)] = known
                return mask
            self.problem = f"the grammar is too complex: {_first_line(self._matcher.get_error())}"
        mask[[end for end in self._ends if end < columns]] = True
        return mask


class _Vocabulary:
    """A tokenizer as llguidance wants one: the bytes of each token, and how a text is cut."""

    bos_token_id = None
    built: LLTokenizer

    def __init__(self, tokenizer: Tokenizer, spelt: Spelling) -> None:
        self._spelt, self._raw = spelt, tokenizer.wrapper.backend_tokenizer
        self._structure = spelt.special | tokenizer.end_ids
        self.eos_token_id = min(tokenizer.end_ids)
        self.special_token_ids = sorted(self._structure)
        self.tokens = spelt.pieces

    def __call__(self, text: str) -> list[int]:
        """Return the tokens a text is written with; asked where only one text is allowed."""
        if not isinstance(text, str):
            raise TypeError("text is wanted")  # TokenizerWrapper asks whether bytes would do
        # Not the wrapper's encode: that sets the truncation, which another thread may be reading.
        tokens = list(self._raw.encode(text, add_special_tokens=False).ids)
        same = b"".join(map(self._spelt, tokens)) == text.encode()
        # A text may spell a special token, or get a space put before it.
        if same and self._structure.isdisjoint(tokens):
            return tokens
        return list(self.built.greedy_tokenize(text))


def _trial(grammar: str) -> str | None:
    """Compile a grammar in a child process; return what is wrong with it."""
    try:
        child = subprocess.run(
            # As for chat templates: nothing about lends it modules.
            [sys.executable, "-E", "-P", str(_TRIAL)],
            input=json.dumps({"grammar": grammar, "limits": _LIMITS}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_SECONDS,
            check=False,
        )
        return json.loads(child.stdout)["error"]
    except (subprocess.TimeoutExpired, ValueError):  # killed: it left no answer
        return _TOO_MUCH


def _refusal(problem: str) -> UsageError:
    return UsageError(
        f"JSON schema: an answer cannot be held to it: {_first_line(problem)}; simplify it there"
    )


def _first_line(text: str) -> str:
    """Return a message on one line; of a bad regular expression, what is wrong with it."""
    if text.startswith("panic:"):  # the compiler's tables are full
        return _TOO_MUCH
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("error: ")), None)
    return f"{lines[0]} {reason}"[:200] if reason else (lines or ["no reason given"])[0][:200]
