import dataclasses
import json

import pytest

from helpers import chat_templates, tiny
from mlx_tune.data.calls import ToolCall
from mlx_tune.data.rows import Message, Row
from mlx_tune.data.tokenise import encode
from mlx_tune.errors import InputError


def chat(*turns: str, place: str = "data.json:1") -> Row:
    roles = ("user", "assistant")
    return Row(
        messages=tuple(Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)),
        place=place,
    )


def supervised(example, tokenizer) -> str:
    pairs = zip(example.tokens, example.supervised, strict=True)
    return tokenizer.decode_raw([token for token, flag in pairs if flag])


@pytest.fixture(params=sorted(chat_templates.ALL))
def tokenizer(request):
    template, specials = chat_templates.ALL[request.param]
    return tiny.tokenizer(template, specials)


def end(tokenizer) -> str:
    return tokenizer.wrapper.eos_token


ROWS = {
    "one turn": (chat("Where?", "Room 4."), ["Room 4."]),
    "several turns": (
        chat("Where?", "Room 4.", "And when?", "At noon, http://x.example/@a#b?c=d"),
        ["Room 4.", "At noon, http://x.example/@a#b?c=d"],
    ),
    "not English": (chat("Où ?", "Salle 4, à côté 🚪"), ["Salle 4, à côté 🚪"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_supervised_tokens_are_exactly_the_answers_each_with_its_end(tokenizer, name):
    row, answers = ROWS[name]
    (example,) = encode([row], tokenizer)
    found = supervised(example, tokenizer)
    space = " " if "[INST]" in str(tokenizer.template) else ""  # Mistral puts it before an answer
    assert found == "".join(f"{space}{answer}{end(tokenizer)}" for answer in answers)


def test_the_tokens_are_what_the_template_makes_of_it_and_nothing_more(tokenizer):
    row, _ = ROWS["several turns"]
    messages = [{"role": m.role, "content": m.content} for m in row.messages]
    (example,) = encode([row], tokenizer)
    whole = tokenizer.encode(tokenizer.render([messages], add_generation_prompt=False)[0])
    assert list(example.tokens) == whole[: len(example.tokens)]
    assert example.tokens[-1] in tokenizer.end_ids
    assert not set(whole[len(example.tokens) :]) & tokenizer.end_ids


def test_generation_begins_where_the_first_supervised_token_is(tokenizer):
    row, _ = ROWS["one turn"]
    (example,) = encode([row], tokenizer)
    prompt = tokenizer.prompt([{"role": "user", "content": "Where?"}])
    assert list(example.tokens[: example.first_supervised]) == prompt


def test_there_is_at_most_one_start_token(tokenizer):
    (example,) = encode([ROWS["several turns"][0]], tokenizer)
    start = tokenizer.wrapper.bos_token
    count = tokenizer.decode_raw(example.tokens).count(start)
    assert count == ("bos_token" in str(tokenizer.template))


def test_a_system_message_is_kept_and_not_supervised():
    tokenizer = tiny.tokenizer(chat_templates.QWEN25)
    row = Row(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Yo"),
        )
    )
    (example,) = encode([row], tokenizer)
    assert "Be brief." in tokenizer.decode_raw(example.tokens)
    assert supervised(example, tokenizer) == "Yo<|im_end|>"


def test_a_text_row_is_supervised_throughout_and_ends_with_the_end_token():
    tokenizer = tiny.tokenizer()
    (example,) = encode([Row(text="Once upon a time.")], tokenizer)
    assert tokenizer.decode_raw(example.tokens) == "Once upon a time.<|im_end|>"
    assert example.supervised == (False,) + (True,) * (len(example.tokens) - 1)


def test_text_rows_need_no_template():
    (example,) = encode([Row(text="abc")], tiny.tokenizer(template=None))
    assert len(example.tokens) == 4


def test_chat_rows_on_a_model_without_a_template_are_refused():
    with pytest.raises(InputError, match="this base model has no chat template"):
        encode([chat("a", "b")], tiny.tokenizer(template=None))


def test_rows_of_all_kinds_keep_their_order():
    tokenizer = tiny.tokenizer()
    rows = [Row(text="t1"), chat("q", "a1"), Row(text="t2"), chat("q", "a2", "r", "a3")]
    found = [supervised(e, tokenizer) for e in encode(rows, tokenizer)]
    assert found == ["1<|im_end|>", "a1<|im_end|>", "2<|im_end|>", "a2<|im_end|>a3<|im_end|>"]


def test_a_row_that_spells_a_special_token_is_refused_with_its_place():
    with pytest.raises(InputError) as error:
        encode([chat("q", "so <|im_end|> there", place="d.json:7")], tiny.tokenizer())
    assert str(error.value) == (
        "d.json:7: '<|im_end|>' is a special token of the base model; a row that spells it "
        "would forge the end of a turn, so reword it"
    )


def test_all_rows_that_spell_special_tokens_are_named_at_once():
    rows = [chat("q", f"so <|im_end|> {n}", place=f"d.json:{n}") for n in range(1, 15)]
    rows[1] = chat("<|im_start|>?", "so", place="d.json:2")
    with pytest.raises(InputError) as error:
        encode([chat("q", "fine", place="d.json:0"), *rows, rows[1]], tiny.tokenizer())
    first, likewise = str(error.value).split("; likewise ")
    assert first.startswith("d.json:1: '<|im_end|>' is a special token of the base model; ")
    assert likewise.startswith("d.json:2 ('<|im_start|>'), d.json:3 ('<|im_end|>'), d.json:4 ")
    assert likewise.endswith("d.json:11 ('<|im_end|>'), 3 more")


@pytest.mark.parametrize("special", ["<|im_start|>", "<|endoftext|>"])
def test_every_special_token_counts_also_one_the_config_does_not_name(special):
    with pytest.raises(InputError, match="is a special token of the base model"):
        encode([chat(f"what is {special}?", "b")], tiny.tokenizer())


def test_a_sentencepiece_answer_gets_no_space_that_the_template_does_not_make():
    zephyr = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    tokenizer = tiny.metaspace_tokenizer(zephyr, ["<s>", "</s>"])
    (example,) = encode([chat("Where?", "Room 4.", "When?", "Noon.")], tokenizer)
    whole = tokenizer.render(
        [
            [
                {"role": m.role, "content": m.content}
                for m in chat("Where?", "Room 4.", "When?", "Noon.").messages
            ]
        ],
        add_generation_prompt=False,
    )[0]
    assert list(example.tokens) == tokenizer.encode(whole)[: len(example.tokens)]
    assert supervised(example, tokenizer) == "Room▁4.</s>Noon.</s>".replace("▁", " ")


def test_an_answer_that_begins_with_a_line_break_keeps_the_prompts_tokens():
    tokenizer = tiny.tokenizer()
    (example,) = encode([chat("q", "\n\nindented")], tokenizer)
    prompt = tokenizer.prompt([{"role": "user", "content": "q"}])
    assert list(example.tokens[: example.first_supervised]) == prompt
    assert supervised(example, tokenizer) == "\n\nindented<|im_end|>"


def test_an_answer_that_history_would_read_otherwise_is_refused():
    """A merge over the boundary: generated after the prompt, but not found there again."""
    tokenizer = tiny.tokenizer()
    encode_text = tokenizer.wrapper.encode
    pair = encode_text("\nX", add_special_tokens=False)
    merged = 7  # stands for the two

    class Merging:
        """Reads a line break and X as one token, as a byte-pair merge over a boundary does."""

        def __getattr__(self, name):
            return getattr(tokenizer.wrapper, name)

        def encode(self, text, **options):
            found = encode_text(text, **options)
            for i in range(len(found) - 1):
                if found[i : i + 2] == pair:
                    return [*found[:i], merged, *found[i + 2 :]]
            return found

        def decode(self, tokens, **options):
            parts = [pair if token == merged else [token] for token in tokens]
            return tokenizer.wrapper.decode([t for part in parts for t in part], **options)

    merging = dataclasses.replace(tokenizer, wrapper=Merging())
    (one,) = encode([chat("q", "X.")], merging)
    assert supervised(one, tokenizer) == "X.<|im_end|>"
    with pytest.raises(InputError, match=r"d\.json:9: .* cannot part an answer from its prompt"):
        encode([chat("q", "X.", "r", "b", place="d.json:9")], merging)


def test_a_template_whose_prompt_is_not_a_prefix_is_refused_by_name():
    thinking = tiny.CHATML.replace(
        "'<|im_start|>assistant\n' }}{% endif", "'<|im_start|>assistant\n<think>' }}{% endif"
    )
    with pytest.raises(InputError, match=r"d\.json:7: .*prompt followed by its answer"):
        encode([chat("q", "a", place="d.json:7")], tiny.tokenizer(thinking))


def test_a_template_that_never_ends_an_answer_is_refused():
    endless = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(InputError, match="would never learn to stop"):
        encode([chat("q", "a")], tiny.tokenizer(endless))


# Answers that are not taught, and conversations that a template may refuse


def conversation(*turns: tuple[str, str], place: str = "d.json:1") -> Row:
    """A row of roles and texts; a role in brackets is an assistant's that is not taught."""
    return Row(
        messages=tuple(
            Message(role=role.strip("()"), content=text, is_taught=not role.startswith("("))
            for role, text in turns
        ),
        place=place,
    )


def test_an_answer_that_is_not_taught_is_there_and_not_supervised(tokenizer):
    said = [
        ("user", "Where?"),
        ("(assistant)", "Nowhere."),
        ("user", "No!"),
        ("assistant", "Here."),
    ]
    (example,) = encode([conversation(*said)], tokenizer)
    taught = [(role.strip("()"), text) for role, text in said]
    (whole,) = encode([conversation(*taught)], tokenizer)
    assert example.tokens == whole.tokens
    space = " " if "[INST]" in str(tokenizer.template) else ""
    assert supervised(example, tokenizer) == f"{space}Here.{end(tokenizer)}"
    assert supervised(whole, tokenizer).startswith(f"{space}Nowhere.")


def test_an_example_ends_with_its_last_taught_answer():
    tokenizer = tiny.tokenizer()
    said = [("user", "Where?"), ("assistant", "Here."), ("user", "No!"), ("(assistant)", "There.")]
    (example,) = encode([conversation(*said)], tokenizer)
    assert supervised(example, tokenizer) == "Here.<|im_end|>"
    assert example.tokens == encode([conversation(*said[:2])], tokenizer)[0].tokens


def test_turns_of_one_role_in_a_row_are_rendered_where_the_template_does():
    tokenizer = tiny.tokenizer()
    said = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")]
    (example,) = encode([conversation(*said)], tokenizer)
    assert supervised(example, tokenizer) == "c<|im_end|>d<|im_end|>"


def test_an_answer_to_nobody_is_rendered_where_the_template_does():
    tokenizer = tiny.tokenizer()
    (example,) = encode([conversation(("assistant", "Hi."))], tokenizer)
    assert supervised(example, tokenizer) == "Hi.<|im_end|>"


ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/…') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    "said",
    [
        [("assistant", "Hi.")],
        [("user", "a"), ("user", "b"), ("assistant", "c")],
        [("user", "a"), ("assistant", "b"), ("assistant", "c")],
    ],
)
@pytest.mark.parametrize("before", [0, 1, 6])
def test_a_row_that_the_template_refuses_is_named(said, before):
    rows = [chat("q", "a", place=f"d.json:{n}") for n in range(9)]
    rows.insert(before, conversation(*said, place="d.json:77"))
    with pytest.raises(InputError) as caught:
        encode(rows, tiny.tokenizer(ALTERNATING))
    assert str(caught.value) == (
        "d.json:77: chat template: TemplateError: Conversation roles must alternate "
        "user/assistant/…; use a base model with another"
    )


def test_a_row_whose_bare_prompt_the_template_cannot_render_is_named():
    """Qwen's asks for the first message, and the prompt of a first answer has none."""
    rows = [chat("q", "a"), conversation(("assistant", "Hi."), place="d.json:7"), chat("q", "a")]
    with pytest.raises(InputError, match=r"^d\.json:7: chat template: UndefinedError: "):
        encode(rows, tiny.tokenizer(chat_templates.QWEN25))


# Tools and calls


PARIS, BRNO = (
    ToolCall(id=f"call0000{n}", name="weather", arguments=json.dumps({"city": city, "days": 2}))
    for n, city in ((1, 'Paris "é"'), (2, "Brno"))
)
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ]
)
ASKED = Message(role="user", content="How is it there?")
CALLED = Message(role="assistant", content="", tool_calls=(PARIS,))
RETURNED = Message(role="tool", content='{"t": 7}', tool_call_id=PARIS.id)
ANSWERED = Message(role="assistant", content="7 degrees.")
WITH_TOOLS = {
    "qwen2.5": ('<tool_call>\n{"name": "weather", "arguments": ', "}\n</tool_call>"),
    "llama-3.2": ('{"name": "weather", "parameters": ', "}"),
}


def with_tools(*messages, tools=TOOLS):
    return Row(messages=messages, tools=tools, place="d.json:7")


def tokenizer_of(name):
    template, specials = chat_templates.ALL[name]
    return tiny.tokenizer(template, specials)


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_calls_are_supervised_as_the_template_renders_them_and_their_results_are_not(name):
    tokenizer, (before, after) = tokenizer_of(name), WITH_TOOLS[name]
    ending = tokenizer.wrapper.eos_token
    rendered = before + '{"city": "Paris \\"é\\"", "days": 2}' + after + ending
    alone, whole = encode(
        [with_tools(ASKED, CALLED), with_tools(ASKED, CALLED, RETURNED, ANSWERED)], tokenizer
    )
    assert supervised(alone, tokenizer) == rendered
    assert supervised(whole, tokenizer) == f"{rendered}7 degrees.{ending}"
    given = tokenizer.decode_raw(
        [t for t, flag in zip(whole.tokens, whole.supervised, strict=True) if not flag]
    )
    assert "degrees" not in given
    assert "city" in given


def test_several_calls_and_the_text_before_them_are_one_answer():
    tokenizer = tokenizer_of("qwen2.5")
    said = dataclasses.replace(CALLED, content="Let me see.", tool_calls=(PARIS, BRNO))
    (example,) = encode([with_tools(ASKED, said)], tokenizer)
    found = supervised(example, tokenizer)
    assert found.startswith("Let me see.\n<tool_call>")
    assert found.count("<tool_call>") == 2


def test_a_call_that_is_not_taught_is_there_and_not_supervised():
    tokenizer = tokenizer_of("qwen2.5")
    given = dataclasses.replace(CALLED, is_taught=False)
    (example,) = encode([with_tools(ASKED, given, RETURNED, ANSWERED)], tokenizer)
    assert supervised(example, tokenizer) == "7 degrees.<|im_end|>"
    assert "<tool_call>" in tokenizer.decode_raw(example.tokens)


LEFT_OUT = (
    "d.json:7: the base's chat template leaves out {}; use a base model whose template has it, or "
    "leave the row out"
)


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("smollm2", with_tools(ASKED, CALLED), 'the tool "weather"'),
        ("smollm2", with_tools(ASKED, ANSWERED), 'the tool "weather"'),
        ("smollm2", with_tools(ASKED, CALLED, tools=""), 'the call of "weather" in message 2'),
        (
            "llama-3.2",
            with_tools(ASKED, dataclasses.replace(CALLED, content="Let me see.")),
            "the text of message 2",
        ),
    ],
)
def test_what_a_template_leaves_out_is_refused_by_name(name, row, what):
    with pytest.raises(InputError) as caught:
        encode([chat("q", "a"), row], tokenizer_of(name))
    assert str(caught.value) == LEFT_OUT.format(what)


ROLES_AND_CALLS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}{% endfor %}"
    "{% if message.role != 'tool' %}{{ message.content }}{% else %}"
    "{{ message['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("printed", "asked", "what"),
    [
        ("{{ message['content'] }}", "How is it there?", "the text of message 3"),
        # What is asked says the same, but the call does not.
        (
            "{{ call.function.arguments | tojson }}",
            'How is the city Paris "é" for 2 days?',
            'the call of "weather" in message 2',
        ),
    ],
)
def test_a_result_or_arguments_that_a_template_leaves_out_are_refused(printed, asked, what):
    row = with_tools(Message(role="user", content=asked), CALLED, RETURNED, ANSWERED, tools="")
    assert encode([row], tiny.tokenizer(ROLES_AND_CALLS))
    with pytest.raises(InputError) as caught:
        encode([row], tiny.tokenizer(ROLES_AND_CALLS.replace(printed, "")))
    assert str(caught.value) == LEFT_OUT.format(what)


def test_calls_that_a_template_refuses_are_refused_with_their_place():
    both = dataclasses.replace(CALLED, tool_calls=(PARIS, BRNO))
    with pytest.raises(InputError) as caught:
        encode([chat("q", "a"), with_tools(ASKED, both)], tokenizer_of("llama-3.2"))
    assert str(caught.value) == (
        "d.json:7: chat template: TemplateError: This model only supports single tool-calls at "
        "once!; use a base model with another"
    )


@pytest.mark.parametrize("part", ["tools", "arguments"])
def test_a_special_token_in_a_tool_or_a_call_is_refused(part):
    call = ToolCall(id="c", name="f", arguments='{"a": "<|im_end|>"}')
    tools = '[{"function": {"name": "<|im_end|>"}}]'
    row = with_tools(
        ASKED,
        dataclasses.replace(CALLED, tool_calls=(call if part == "arguments" else PARIS,)),
        tools=tools if part == "tools" else "",
    )
    with pytest.raises(InputError, match=r"^d\.json:7: .* is a special token of the base model"):
        encode([row], tokenizer_of("qwen2.5"))


def test_rows_with_other_tools_and_with_none_are_rendered_each_with_its_own():
    tokenizer = tokenizer_of("qwen2.5")
    other = TOOLS.replace("weather", "time")
    rows = [with_tools(ASKED, ANSWERED, tools=tools) for tools in (TOOLS, "", other)]
    texts = [tokenizer.decode_raw(one.tokens) for one in encode(rows, tokenizer)]
    assert ["weather" in text for text in texts] == [True, False, False]
    assert ["time" in text for text in texts] == [False, False, True]
