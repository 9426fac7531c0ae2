"""A folded model as the rewriter of questions: it samples wordings, and says how likely one is."""

from collections.abc import Sequence

from mlx_tune.continual.recall import score
from mlx_tune.continual.reword import EXAMPLES, RewordPrompt
from mlx_tune.continual.synthetic import Continuation
from mlx_tune.data.tokenise import Example
from mlx_tune.inference import Sampling, batch_generate, context_tokens
from mlx_tune.training.generic import network
from mlx_tune.workflows.workspace import FoldedModel

TEMPERATURE = 0.8
MIN_P = 0.05
"""Only tokens at least so likely as the likeliest; unlike top-p this sorts no vocabulary."""

MARGIN_TOKENS = 32
"""How many tokens a wording may have more than twice its question."""


class ModelRewriter:
    """A model that rewords questions: :class:`mlx_tune.continual.reword.Rewriter`.

    Args:
        folded: The model. Without a chat template it continues the few-shot forms as plain text.
    """

    def __init__(self, folded: FoldedModel) -> None:
        self._model, self._tokenizer = folded.model, folded.tokenizer
        self._forward = network(folded.model)
        self._is_chat = folded.tokenizer.template is not None

    def write(self, orders: Sequence[tuple[RewordPrompt, str, int]]) -> list[Continuation]:
        """Return a sampled text for each order: a prompt, a question and a seed."""
        prompts = self._prompts([(prompt, question) for prompt, question, _ in orders])
        longest = max((len(self._tokenizer.encode(q)) for _, q, _ in orders), default=0)
        context = context_tokens(self._model)
        fits = [
            i
            for i, (prompt, _, _) in enumerate(orders)
            if (self._is_chat or prompt.examples) and (not context or len(prompts[i]) < context)
        ]
        answers = batch_generate(
            self._model,
            self._tokenizer,
            [prompts[i] for i in fits],
            max_tokens=2 * longest + MARGIN_TOKENS,
            sampling=[
                Sampling(temperature=TEMPERATURE, min_p=MIN_P, seed=orders[i][2]) for i in fits
            ],
        )
        texts = {i: self._continuation(a) for i, a in zip(fits, answers, strict=True)}
        nothing = Continuation(text="", is_finished=False)
        return [texts.get(i, nothing) for i in range(len(orders))]

    def losses(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return for each question and text the loss of that text as its rewording, in nats."""
        prompts = self._prompts([(EXAMPLES, question) for question, _ in pairs])
        examples = []
        for prompt, (_, text) in zip(prompts, pairs, strict=True):
            written = self._tokenizer.encode(text)
            flags = (False,) * len(prompt) + (True,) * len(written)
            examples.append(Example(tokens=(*prompt, *written), supervised=flags))
        return list(score(self._model, examples, forward=self._forward).losses)

    def _prompts(self, asked: Sequence[tuple[RewordPrompt, str]]) -> list[list[int]]:
        if not self._is_chat:
            return [self._tokenizer.encode_plain(prompt.text(q)) for prompt, q in asked]
        texts = self._tokenizer.render(
            [prompt.conversation(q) for prompt, q in asked], add_generation_prompt=True
        )
        return [self._tokenizer.encode(text) for text in texts]

    def _continuation(self, tokens: Sequence[int]) -> Continuation:
        has_ended = bool(tokens) and tokens[-1] in self._tokenizer.end_ids
        text = self._tokenizer.decode_raw(tokens[:-1] if has_ended else tokens)
        if self._is_chat:
            return Continuation(text=text, is_finished=has_ended)
        line, end, _ = text.lstrip("\n").partition("\n")
        return Continuation(text=line, is_finished=has_ended or bool(end))
