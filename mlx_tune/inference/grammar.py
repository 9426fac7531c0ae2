"""Answers held to a JSON schema: at each step, only tokens that can still lead to a whole answer.

llguidance compiles a schema and says which tokens those are; the mask is applied to the logits
here, in MLX's own operations, so it works on every device.

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
from mlx_tune.inference.text import TokenBytes
from mlx_tune.models.tokenizer import Tokenizer

TRIAL_SECONDS = 10.0
"""How long a trial may take by the clock; it also ends after a second of its own work."""

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
_TRIAL_SCRIPT = Path(__file__).with_name("grammar_trial.py")
_TOO_MUCH = "it takes too much time or memory"
_MAX_TRIED = 1000  # grammars that passed their trial and are remembered


class GrammarCompiler:
    """Compiles grammars for one tokenizer; keep it, for its vocabulary takes a while to build.

    Any thread may call it.

    Args:
        tokenizer: The base's.

    Raises:
        InputError: It has no end token, or its tokens have no bytes of their own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.end_ids:
            raise InputError("this tokenizer has no end token, so no answer could be complete")
        self._ends = sorted(tokenizer.end_ids)
        vocabulary = _Vocabulary(tokenizer, TokenBytes.of(tokenizer))
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=self._ends)
        vocabulary.built = self._tokenizer
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def json_object(self) -> "Grammar":
        """Return the grammar of one JSON object."""
        return self._compile({"type": "object"}, is_trusted=True)

    def json_schema(self, schema: object) -> "Grammar":
        """Return the grammar of a JSON value that a schema accepts.

        Properties come in the schema's order; those it does not name may come twice.

        Args:
            schema: As it was parsed. A schema that was not seen before is tried in a child process
                first, which takes about a third of a second.

        Raises:
            UsageError: An answer cannot be held to all of it, or it takes too much to compile.
        """
        return self._compile(checked(schema), is_trusted=False)

    def _compile(self, schema: dict[str, Any], *, is_trusted: bool) -> "Grammar":
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
        except ValueError as error:  # half of a surrogate pair, say
            raise _refusal(str(error)) from error
        if not is_trusted:
            with self._lock:  # one trial at a time: many would starve the engine
                self._try(grammar)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return Grammar(matcher, self._ends)

    def _try(self, grammar: str) -> None:
        digest = hashlib.sha256(grammar.encode()).digest()
        if digest not in self._passed and (problem := _trial(grammar)):
            raise _refusal(problem)
        self._passed[digest] = None
        self._passed.move_to_end(digest)
        if len(self._passed) > _MAX_TRIED:
            self._passed.popitem(last=False)


class Grammar:
    """A compiled grammar that any number of answers may be held to."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher, tuple(ends)

    def processor(self) -> "GrammarProcessor":
        """Return the logits processor of one answer."""
        return GrammarProcessor(self._matcher.deep_copy(), self._ends)


class GrammarProcessor:
    """A logits processor of mlx-lm's kind that holds one answer to a grammar.

    It comes last among the processors, so that none of them allows again what is forbidden. It
    never raises an error: in a batch that would end every other answer too. After a problem only
    end tokens are allowed.

    Attributes:
        problem: What went wrong, one line; None if all is well.
    """

    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher, self._ends = matcher, frozenset(ends)
        self._consumed: int | None = None
        self._ended = False
        self.problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer so far is a whole one."""
        return bool(self._matcher.is_accepting())

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the logits with minus infinity for every token that is not allowed next.

        Args:
            tokens: The prompt and the answer so far, (length,); at the first call, all prompt.
            logits: Of the next token, (1, columns); columns beyond the vocabulary are padding.
        """
        count = tokens.shape[0]
        if self._consumed is not None and count > self._consumed:
            for token in np.array(tokens[self._consumed :]):  # the others were consumed before
                self._consume(int(token))
        self._consumed = count
        allowed = mx.array(self._allowed(logits.shape[-1]))
        return mx.where(allowed, logits, mx.array(-mx.inf, dtype=logits.dtype))

    def _consume(self, token: int) -> None:
        if self._ended or self.problem:
            return  # mlx-lm's generator is one step ahead of what it returns
        if token in self._ends:
            self._ended = True
        elif not self._matcher.consume_token(token):
            self.problem = f"the answer left its grammar: {_first_line(self._matcher.get_error())}"

    def _allowed(self, columns: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        mask = np.zeros(columns, dtype=np.bool_)
        if not (self._ended or self.problem):
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            if not self._matcher.is_error():
                flags = np.unpackbits(bits, bitorder="little")[:columns]
                mask[: len(flags)] = flags
                return mask
            self.problem = f"the grammar is too complex: {_first_line(self._matcher.get_error())}"
        mask[[end for end in self._ends if end < columns]] = True
        return mask


class _Vocabulary:
    """A tokenizer as llguidance wants one: the bytes of each token, and how a text is tokenised."""

    bos_token_id = None
    built: LLTokenizer

    def __init__(self, tokenizer: Tokenizer, token_bytes: TokenBytes) -> None:
        self._token_bytes, self._backend = token_bytes, tokenizer.wrapper.backend_tokenizer
        self._structure = token_bytes.special | tokenizer.end_ids
        self.eos_token_id = min(tokenizer.end_ids)
        self.special_token_ids = sorted(self._structure)
        self.tokens = token_bytes.vocabulary

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text; called where the grammar allows only one text."""
        if not isinstance(text, str):
            raise TypeError("expected a text")  # TokenizerWrapper tries whether bytes would do
        # Not the wrapper's encode: that sets the truncation, which another thread may be reading.
        tokens = list(self._backend.encode(text, add_special_tokens=False).ids)
        is_exact = b"".join(map(self._token_bytes, tokens)) == text.encode()
        # A text may contain a special token's name, or get a space put before it.
        if is_exact and self._structure.isdisjoint(tokens):
            return tokens
        return list(self.built.greedy_tokenize(text))


def _trial(grammar: str) -> str | None:
    """Compile a grammar in a child process; return what is wrong with it."""
    try:
        child = subprocess.run(
            # As for chat templates: it imports nothing from the environment or the folder.
            [sys.executable, "-E", "-P", str(_TRIAL_SCRIPT)],
            input=json.dumps({"grammar": grammar, "limits": _LIMITS}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_SECONDS,
            check=False,
        )
        return json.loads(child.stdout)["error"]
    except (subprocess.TimeoutExpired, ValueError):  # killed, so there is no answer
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
