"""An Ollama Modelfile says what the chat template says, or has none."""

import re

import pytest

from helpers import chat_templates, tiny
from mlx_tune.models.ollama import chat_format, modelfile

CONVERSATIONS = [
    [("user", "Hi")],
    [("user", "Hi"), ("assistant", "Hello."), ("user", "Where is A?")],
    [("system", "Be brief."), ("user", "Hi")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Where?")],
]


def go_rendered(template: str, messages) -> str:
    """Carry out the few constructs of Go's templates that are written, by themselves."""
    found = re.fullmatch(
        r'(?s)(.*?)(?:\{\{ if ne \(index \.Messages 0\)\.Role "system" \}\}(.*?)\{\{ end \}\})?'
        r"\{\{ range \.Messages \}\}\{\{ (.*?) end \}\}\{\{ end \}\}(.*)",
        template,
    )
    start, default, roles, answer = found.groups()
    around = {
        role: (before, behind)
        for role, before, behind in re.findall(
            r'(?s)if eq \.Role "(\w+)" \}\}(.*?)\{\{ \.Content \}\}(.*?)\{\{', roles
        )
    }
    text = start + ("" if messages[0][0] == "system" else default or "")
    for role, content in messages:
        text += around[role][0] + content + around[role][1]
    return text + answer


@pytest.mark.parametrize("name", ["CHATML", "SMOLLM2", "QWEN25", "LLAMA32", "MISTRAL"])
def test_the_template_renders_as_the_models_own(name):
    source = getattr(chat_templates, name, tiny.CHATML)
    tokenizer = tiny.tokenizer(source)
    text, has_template = modelfile(tokenizer, "model.gguf")
    assert has_template
    (template,) = re.findall(r'(?s)TEMPLATE """(.*?)"""', text)
    for messages in CONVERSATIONS:
        if name == "MISTRAL" and messages[0][0] == "system":  # it knows none
            continue
        given = [{"role": role, "content": content} for role, content in messages]
        (wanted,) = tokenizer.render([given], add_generation_prompt=True)
        assert go_rendered(template, messages) == wanted


def test_the_file_names_weights_stops_and_greedy_answers():
    text, _ = modelfile(tiny.tokenizer(), "model.gguf")
    lines = text.splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert lines[-2:] == ['PARAMETER stop "<|im_end|>"', "PARAMETER temperature 0"]


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",  # changes what it is given
        "{% for m in messages %}{{ loop.index ~ m.role ~ m.content }}{% endfor %}",  # counts
        "{% for m in messages %}{{ '{{' + m.role + m.content }}{% endfor %}",
        "{{ raise_exception('never') }}",
    ],
)
def test_one_that_does_more_is_not_translated(template):
    tokenizer = tiny.tokenizer(template)
    assert chat_format(tokenizer) is None
    text, has_template = modelfile(tokenizer, "model.gguf")
    assert not has_template
    assert "TEMPLATE" not in text
