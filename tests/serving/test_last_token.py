import mlx.core as mx
import pytest

from helpers import tiny
from mlx_tune.inference import GeneratedToken, TokenBytes
from mlx_tune.serving.jobs import AnswerBuilder, GenerationJob, GenerationRequest
from mlx_tune.serving.registry import RegisteredModel

END = tiny.SPECIALS.index("<|im_end|>")
LETTER = 3 + ord("A") - ord("!")
LOGPROBS = mx.log(mx.softmax(mx.arange(tiny.VOCABULARY) / 100.0))


def ended(*, continues: bool):
    """The last piece of an answer of one letter, which ended of itself."""
    model = RegisteredModel(name="base", chain=(), is_folded=False)
    request = GenerationRequest(
        model=model, prompt=(5,), max_tokens=9, top_logprobs=1, continues=continues
    )
    job = GenerationJob(request=request, deliver=lambda event: None)
    answer = AnswerBuilder(job, TokenBytes.of(tiny.tokenizer()), None)
    first = answer.add(GeneratedToken(uid=0, token=LETTER, logprobs=LOGPROBS, finish_reason=None))
    assert (first.text, len(first.steps)) == ("A", 1)
    return answer.add(GeneratedToken(uid=0, token=END, logprobs=LOGPROBS, finish_reason="stop"))


def test_where_a_text_goes_on_the_token_that_ends_it_is_told_and_not_shown():
    last = ended(continues=True)
    assert (last.text, last.tokens, last.finish) == ("", 2, "stop")
    (step,) = last.steps
    assert step.chosen.text == "<|im_end|>"
    assert step.chosen.logprob == pytest.approx(LOGPROBS[END].item())


def test_in_a_conversation_the_token_that_ends_an_answer_is_not_told():
    assert ended(continues=False).steps == ()
