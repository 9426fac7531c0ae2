import time
from contextlib import closing

import pytest

from helpers import chat_templates, tiny
from mlx_tune.errors import InputError
from mlx_tune.models import template as template_module
from mlx_tune.models.template import Renderer

ONE = [{"messages": [{"role": "user", "content": "Hi <b>&"}], "add_generation_prompt": True}]
LONG = [
    {
        "messages": [
            {"role": "user", "content": "Hi\n\nthere"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "More?"},
        ],
        "add_generation_prompt": flag,
    }
    for flag in (True, False)
]
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(template, conversations=ONE, **options):
    return template_module.render(template, conversations, variables=SPECIALS, **options)


@pytest.mark.parametrize("name", sorted(chat_templates.ALL))
def test_the_sandbox_renders_what_transformers_renders(name):
    template, specials = chat_templates.ALL[name]
    template = template_module.pin_date(template)
    theirs = tiny.hf_tokenizer(template, specials)
    variables = {n: getattr(theirs, n) for n in ("bos_token", "eos_token")}
    for conversation in [*ONE, *LONG]:
        wanted = theirs.apply_chat_template(
            conversation["messages"],
            tokenize=False,
            add_generation_prompt=conversation["add_generation_prompt"],
        )
        assert template_module.render(template, [conversation], variables=variables) == [wanted]


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{{ messages[0].content }}",
        "{% if tools is not none %}TOOLS{% endif %}{% if documents %}D{% endif %}x",
        "{{ unk_token is defined }}",
    ],
)
def test_what_there_is_not_is_what_transformers_makes_of_it(template):
    theirs = tiny.hf_tokenizer(template)
    theirs.bos_token = None
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    variables = {name: getattr(theirs, name) for name in names}
    wanted = theirs.apply_chat_template(
        ONE[0]["messages"], tokenize=False, add_generation_prompt=True
    )
    assert template_module.render(template, ONE, variables=variables) == [wanted]


@pytest.mark.parametrize(("limit", "value"), [("_BATCH", 3), ("_BATCH_CHARS", 200)])
def test_many_conversations_are_rendered_some_at_once_and_keep_their_order(
    monkeypatch, limit, value
):
    monkeypatch.setattr(template_module, limit, value)
    asked = []
    ask = template_module.Renderer.ask
    monkeypatch.setattr(
        template_module.Renderer,
        "ask",
        lambda self, job: asked.append(len(job["conversations"])) or ask(self, job),
    )
    many = [
        {"messages": [{"role": "user", "content": str(i)}], "add_generation_prompt": False}
        for i in range(8)
    ]
    assert render("{{ messages[0].content }}", many) == list("01234567")
    assert asked == ([3, 3, 2] if limit == "_BATCH" else [2, 2, 2, 2])


def test_the_date_is_pinned():
    pinned = template_module.pin_date(chat_templates.LLAMA32)
    (text,) = render(pinned)
    assert "Today Date: 26 Jul 2024\n" in text
    assert text.startswith("<s><|start_header_id|>")


def test_a_clock_called_directly_is_pinned_too():
    assert render(template_module.pin_date("{{ strftime_now('%Y') }}")) == ["26 Jul 2024"]


def test_pinning_twice_is_pinning_once():
    once = template_module.pin_date(chat_templates.LLAMA32)
    assert template_module.pin_date(once) == once


def test_a_template_without_a_date_is_left_alone():
    assert template_module.pin_date(chat_templates.SMOLLM2) == chat_templates.SMOLLM2


def test_assistant_marks_of_transformers_are_understood():
    template = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert render(template) == ["Hi <b>&"]


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_loops_for_ever_is_stopped():
    began = time.monotonic()
    with pytest.raises(InputError) as error:
        render(LOOP, limit_seconds=1.0)
    assert str(error.value) == (
        "chat template: still running after 1 seconds; use a base model with another"
    )
    assert time.monotonic() - began < 10


def test_a_kept_renderer_answers_again_also_after_one_that_was_stopped():
    with closing(Renderer()) as kept:
        assert render("{{ messages[0].content }}", renderer=kept) == ["Hi <b>&"]
        child = kept._child.pid
        assert render("{{ bos_token }}", renderer=kept) == ["<s>"]
        with pytest.raises(InputError, match="TemplateError: no"):
            render("{{ raise_exception('no') }}", renderer=kept)
        assert kept._child.pid == child
        with pytest.raises(InputError, match="still running after 1 seconds"):
            render(LOOP, limit_seconds=1.0, renderer=kept)
        assert render("{{ bos_token }}", renderer=kept) == ["<s>"]
        assert kept._child.pid != child


def test_a_template_that_prints_a_hundred_megabytes_is_stopped():
    with pytest.raises(InputError) as error:
        render("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}")
    assert str(error.value) == (
        "chat template: ValueError: it printed more than 1,000,000 characters; "
        "use a base model with another"
    )


@pytest.mark.parametrize(
    "bomb",
    [
        "{% set x = 'x' * 9999999999 %}{{ x | length }}",
        "{% set x = 9999999999 * ['x'] %}{{ x | length }}",
        "{% set x = 10 ** 999999999 %}{{ x > 1 }}",
        "{{ '%9999999999d' % 1 }}",
    ],
)
def test_a_template_cannot_take_all_memory(bomb):
    """Refused before it is tried, since not every system limits a process's memory."""
    with pytest.raises(InputError, match="chat template: SecurityError: "):
        render(bomb)


def test_arithmetic_that_templates_do_is_allowed():
    assert render("{{ '-' * 3 }}{{ 2 ** 8 }}{{ 7 % 2 }}{{ 6 * 7 }}") == ["---256142"]


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_escape(escape):
    with pytest.raises(InputError, match="chat template: "):
        render(escape)


def test_a_template_that_objects_is_quoted():
    with pytest.raises(InputError, match="TemplateError: only users, please"):
        render("{{ raise_exception('only users, please') }}")


def test_a_template_that_does_not_parse_is_refused():
    with pytest.raises(InputError, match="TemplateSyntaxError"):
        render("{% if %}")
