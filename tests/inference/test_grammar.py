import json
import random
import subprocess
from threading import Thread

import mlx.core as mx
import numpy as np
import pytest

from helpers import tiny, tiny_tokenizers
from mlx_tune.errors import InputError, UsageError
from mlx_tune.inference import StreamingDetokenizer, TokenBytes, grammar, json_schema
from mlx_tune.inference.grammar import GrammarCompiler
from mlx_tune.models import tokenizer as ours

BUILT = {name: make() for name, make in tiny_tokenizers.KINDS.items()}
MADE = {name: GrammarCompiler(tokenizer) for name, tokenizer in BUILT.items()}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"c', 3, None]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "leaf": {"type": "boolean"},
                "below": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["leaf", "below"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


def a_person(value) -> bool:
    tags = value.get("tags", [])
    return (
        {*value} <= {"name", "age", "tags"}
        and len(value["name"]) <= 9
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and len(tags) <= 3
        and all(tag in ("a", 'b"c', 3, None) for tag in tags)
    )


def a_tree(value) -> bool:
    return (
        {*value} == {"leaf", "below"}
        and type(value["leaf"]) is bool
        and len(value["below"]) <= 2
        and all(map(a_tree, value["below"]))
    )


SCHEMAS = {"person": (PERSON, a_person), "tree": (TREE, a_tree)}


def drawn(processor, tokenizer, *, seed: int) -> list[int]:
    """Tokens drawn from those that are allowed: an end as soon as may be, and brackets closed."""
    random_one, prompt, token_bytes = random.Random(seed), [5, 6, 7], TokenBytes.of(tokenizer)
    answer: list[int] = []
    while not (answer and answer[-1] in tokenizer.end_ids):
        assert len(answer) < 3000
        logits = processor(
            mx.array(prompt + answer), mx.zeros((1, len(token_bytes.vocabulary) + 61))
        )
        allowed = np.flatnonzero(np.isfinite(np.array(logits)[0])).tolist()
        ending = [token for token in allowed if token in tokenizer.end_ids]
        closing = [token for token in allowed if token_bytes(token) in (b"]", b"}")]
        choices = ending or (random_one.random() < 0.7 and closing) or allowed
        answer.append(random_one.choice(choices))
    return answer


def text_of(tokenizer, tokens) -> str:
    detokenizer = StreamingDetokenizer(TokenBytes.of(tokenizer), continues=True)
    return "".join([*map(detokenizer.add, tokens), detokenizer.finish()])


def columns_of(tokenizer) -> int:
    return len(TokenBytes.of(tokenizer).vocabulary)


def follow(processor, tokens, columns: int):
    """The logits after each of an answer's tokens."""
    answer, found = [5], []
    for token in [None, *tokens]:
        answer += [] if token is None else [token]
        found.append(np.isfinite(np.array(processor(mx.array(answer), mx.zeros((1, columns)))))[0])
    return found


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", tiny_tokenizers.KINDS)
def test_whatever_is_drawn_is_json_that_the_schema_accepts(name, schema):
    tokenizer = BUILT[name]
    wanted, accepts = SCHEMAS[schema]
    compiled = MADE[name].json_schema(wanted)
    for seed in range(12):
        processor = compiled.processor()
        tokens = drawn(processor, tokenizer, seed=seed)
        assert accepts(json.loads(text_of(tokenizer, tokens))), text_of(tokenizer, tokens)
        assert processor.complete
        assert processor.problem is None


def test_a_json_object_is_an_object_of_any_kind():
    tokenizer = BUILT["byte-level"]
    columns, encode = columns_of(tokenizer), tokenizer.encode
    for text in ['{"a": [1, {"b": null}], "ž": "\\n🚀"}', "{}", '{ "a" :-1.5e3 }']:
        tokens = encode(text)
        allowed = follow(MADE["byte-level"].json_object().processor(), tokens, columns)
        assert all(mask[token] for mask, token in zip(allowed, tokens, strict=False)), text
        assert np.flatnonzero(allowed[-1]).tolist() == sorted(tokenizer.end_ids)
    for text in ["[]", "1", '"a"', " {}"]:
        first = MADE["byte-level"].json_object().processor()
        assert not follow(first, [], columns)[0][encode(text)[0]], text


def test_the_prompt_is_none_of_the_answer():
    tokenizer = BUILT["byte-level"]
    processor = MADE["byte-level"].json_object().processor()
    prompt = tokenizer.encode('{"a": 1} and then')
    allowed = np.array(processor(mx.array(prompt), mx.zeros((1, columns_of(tokenizer)))))[0]
    assert np.isfinite(allowed[tokenizer.encode("{")[0]])
    assert not np.isfinite(allowed[tokenizer.encode("}")[0]])


def test_padded_columns_and_special_tokens_are_never_allowed():
    tokenizer = BUILT["byte-level"]
    columns, token_bytes = columns_of(tokenizer), TokenBytes.of(tokenizer)
    tokens = tokenizer.encode('{"a": "b')
    allowed = follow(MADE["byte-level"].json_object().processor(), tokens, columns + 100)
    for mask in allowed:
        assert not mask[columns:].any()
        assert not mask[list(token_bytes.special)].any()
    assert allowed[-1].sum() > 150  # within a string nearly everything is


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_allowed_logits_stay_as_they_were(dtype):
    columns = columns_of(BUILT["byte-level"])
    logits = mx.random.normal((1, columns)).astype(dtype)
    found = MADE["byte-level"].json_object().processor()(mx.array([5]), logits)
    assert found.dtype == dtype
    assert found.shape == logits.shape
    masked = np.array(found.astype(mx.float32))
    kept = np.isfinite(masked)
    assert 0 < kept.sum() < columns
    assert (masked == np.array(logits.astype(mx.float32)))[kept].all()


def test_after_the_end_there_are_only_ends():
    tokenizer = BUILT["byte-level"]
    end, other = sorted(tokenizer.end_ids)
    tokens = [*tokenizer.encode("{}"), end, other, 20]  # a generator is ahead of what it returns
    processor = MADE["byte-level"].json_object().processor()
    for mask in follow(processor, tokens, columns_of(tokenizer))[-4:]:
        assert np.flatnonzero(mask).tolist() == [end, other]
    assert processor.complete
    assert processor.problem is None


def test_a_token_that_was_not_allowed_is_a_problem_but_no_exception():
    tokenizer = BUILT["byte-level"]
    processor = MADE["byte-level"].json_object().processor()
    allowed = follow(processor, tokenizer.encode("}"), columns_of(tokenizer))
    assert processor.problem.startswith("the answer left its grammar: ")
    assert len(processor.problem.splitlines()) == 1
    assert not processor.complete
    assert np.flatnonzero(allowed[-1]).tolist() == sorted(tokenizer.end_ids)


def test_a_step_that_costs_too_much_is_a_problem_but_no_exception(monkeypatch):
    monkeypatch.setitem(grammar._LIMITS, "max_lexer_states", 60)
    tokenizer = BUILT["byte-level"]
    schema = {"type": "string", "pattern": "^(.*a.{20})$"}
    processor = MADE["byte-level"].json_schema(schema).processor()
    allowed = follow(processor, tokenizer.encode('"' + "ab" * 60), columns_of(tokenizer))
    assert processor.problem.startswith("the grammar is too complex: ")
    assert np.flatnonzero(allowed[-1]).tolist() == sorted(tokenizer.end_ids)


@pytest.mark.parametrize("name", tiny_tokenizers.KINDS)
def test_a_text_that_spells_structure_is_written_as_text(name):
    tokenizer = BUILT[name]
    wanted = "<|im_end|></s> a"
    processor = MADE[name].json_schema({"const": wanted}).processor()
    tokens = drawn(processor, tokenizer, seed=0)
    assert json.loads(text_of(tokenizer, tokens)) == wanted


def test_blanks_do_not_go_on_for_ever():
    tokenizer = BUILT["byte-level"]
    tokens = [*tokenizer.encode("{"), *tokenizer.encode(" ") * 41]
    allowed = follow(
        MADE["byte-level"].json_object().processor(), tokens[:-1], columns_of(tokenizer)
    )
    assert [bool(mask[tokens[-1]]) for mask in allowed[1:]] == [True] * 40 + [False]


def test_answers_of_one_grammar_do_not_know_of_each_other():
    tokenizer = BUILT["byte-level"]
    compiled, columns = MADE["byte-level"].json_object(), columns_of(tokenizer)
    one = compiled.processor()
    follow(one, tokenizer.encode('{"a'), columns)
    other = follow(compiled.processor(), [], columns)[0]
    assert (other == follow(MADE["byte-level"].json_object().processor(), [], columns)[0]).all()


def test_another_thread_may_make_what_this_one_uses():
    made = []
    thread = Thread(target=lambda: made.append(GrammarCompiler(BUILT["byte-level"]).json_object()))
    thread.start()
    thread.join()
    assert follow(made[0].processor(), [], 400)[0].any()


def generator_for(model, tokenizer):
    from mlx_lm.generate import BatchGenerator

    return BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.end_ids)],
        stream=mx.default_stream(mx.default_device()),
    )


def generated(model, tokenizer, prompts, processors, limit=400) -> list[list[int]]:
    generator = generator_for(model, tokenizer)
    uids = generator.insert(prompts, [limit] * len(prompts), logits_processors=processors)
    answers: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            answers[response.uid].append(int(response.token))
    return [answers[uid] for uid in uids]


def test_mlx_lms_batches_keep_to_the_grammar_of_each_answer():
    tokenizer = tiny.tokenizer()
    model, made = tiny.model(vocab_size=tiny.VOCABULARY + 29), GrammarCompiler(tokenizer)
    prompts = [tokenizer.encode(text) for text in ["a", '{"a": ', "Who is this?" * 5, "b}"]]
    compiled = [made.json_schema(schema) for schema in (PERSON, TREE)]
    processors = [
        [compiled[0].processor()],
        [],
        [compiled[1].processor()],
        [compiled[0].processor()],
    ]
    answers = generated(model, tokenizer, prompts, processors)
    for tokens, accepts in [(answers[0], a_person), (answers[2], a_tree), (answers[3], a_person)]:
        assert tokens[-1] in tokenizer.end_ids
        assert accepts(json.loads(tokenizer.decode(tokens))), tokenizer.decode(tokens)
    assert answers[1] == generated(model, tokenizer, prompts[1:2], [[]])[0]


def test_mlx_lms_single_generator_keeps_to_the_grammar_too():
    from mlx_lm.generate import generate_step

    tokenizer, answer = tiny.tokenizer(), []
    processor = GrammarCompiler(tokenizer).json_schema(PERSON).processor()
    prompt = mx.array(tokenizer.encode("Who is this?"))
    steps = generate_step(prompt, tiny.model(), max_tokens=400, logits_processors=[processor])
    for token, _ in steps:
        answer.append(int(token))
        if token in tokenizer.end_ids:
            break
    assert a_person(json.loads(tokenizer.decode(answer)))


HELD_TO = {
    "type": ({"type": "integer"}, "1", '"1"'),
    "enum": ({"enum": ["a", 1]}, "1", "2"),
    "const": ({"const": {"a": [None]}}, '{"a": [null]}', '{"a": []}'),
    "$ref": ({"$ref": "#/$defs/a~1", "$defs": {"a/": {"type": "null"}}}, "null", "1"),
    "anyOf": ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "1", '"1"'),
    "oneOf": ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, "null", "true"),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, "5", "4"),
    "items": ({"type": "array", "items": {"type": "null"}}, "[null]", "[1]"),
    "prefixItems": ({"type": "array", "prefixItems": [{"type": "null"}]}, "[null, 1]", "[1]"),
    "minItems": ({"type": "array", "minItems": 2}, "[1, 2]", "[1]"),
    "maxItems": ({"type": "array", "maxItems": 1}, "[1]", "[1, 2]"),
    "properties": ({"type": "object", "properties": {"a": {"const": 1}}}, '{"a": 1}', '{"a": 2}'),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^a": {"const": 1}}},
        '{"ab": 1}',
        '{"ab": 2}',
    ),
    "additionalProperties": ({"type": "object", "additionalProperties": False}, "{}", '{"a": 1}'),
    "required": ({"type": "object", "required": ["a"]}, '{"a": 1}', "{}"),
    "minProperties": ({"type": "object", "minProperties": 1}, '{"a": 1}', "{}"),
    "maxProperties": ({"type": "object", "maxProperties": 1}, '{"a": 1}', '{"a": 1, "b": 1}'),
    "minLength": ({"type": "string", "minLength": 2}, '"žž"', '"ž"'),
    "maxLength": ({"type": "string", "maxLength": 1}, '"ž"', '"žž"'),
    "pattern": ({"type": "string", "pattern": "^a+$"}, '"aa"', '"ab"'),
    "format": ({"type": "string", "format": "date"}, '"2024-07-26"', '"26.7.2024"'),
    "minimum": ({"type": "number", "minimum": 2}, "2", "1.9"),
    "maximum": ({"type": "number", "maximum": 2}, "2", "2.1"),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 2}, "2.1", "2"),
    "exclusiveMaximum": ({"type": "number", "exclusiveMaximum": 2}, "1.9", "2"),
    "multipleOf": ({"type": "number", "multipleOf": 0.25}, "0.75", "0.7"),
}


@pytest.mark.parametrize("key", sorted({*json_schema._KEYWORDS} - {"$defs", "definitions"}))
def test_every_keyword_that_is_taken_is_one_that_is_kept_to(key, monkeypatch):
    monkeypatch.setattr(grammar, "_trial", lambda grammar: None)
    schema, right, wrong = HELD_TO[key]
    compiled = MADE["byte-level"].json_schema(schema)
    assert whole(compiled.processor(), right)
    assert not whole(compiled.processor(), wrong)


def whole(processor, text: str) -> bool:
    """Whether a grammar allows a text from beginning to end."""
    tokenizer = BUILT["byte-level"]
    # Character by character, however the model might cut it.
    tokens = [token for character in text for token in tokenizer.encode(character)]
    tokens.append(tokenizer.end_id)
    allowed = follow(processor, tokens, columns_of(tokenizer))
    return all(mask[token] for mask, token in zip(allowed, tokens, strict=False))


REFUSED = {
    "format": ({"type": "string", "format": "frob"}, "Unknown format: frob"),
    "lookahead": (
        {"type": "string", "pattern": "(?=a)b"},
        "error: look-around, including look-ahead and look-behind, is not supported",
    ),
    "one of": ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "oneOf constraints are not supported"),
    "nothing": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than"),
    "nowhere": ({"$ref": "#/$defs/a"}, "Pointer '/$defs/a' does not exist"),
    "remark": ({"$ref": "#/default", "default": {"not": {}}}, "Pointer '/default' does not exist"),
    "circle": (
        {
            "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}},
            "$ref": "#/$defs/a",
        },
        "circular references",
    ),
    "half": ({"const": "\ud800"}, "is not JSON serializable"),
    "type": ({"type": "strng"}, "Invalid type: strng"),
    "no list": ({"enum": 5}, "enum must be an array"),
    "elsewhere": (
        {"$ref": "http://127.0.0.1:9/x"},
        "Resource 'http://127.0.0.1:9/x' is not present in a registry and retrieving it failed",
    ),
    "a file": ({"anyOf": [{"$ref": "file:///etc/passwd"}]}, "Resource 'file:///etc/passwd' is not"),
    "no multiple": ({"multipleOf": "2"}, "Expected f64 for 'multipleOf', got \"2\""),
    "multiple of nothing": ({"multipleOf": 0}, "invalid multiple of"),
    "no count": ({"minLength": 1.5}, "Expected positive integer for 'minLength', got 1.5"),
    "no number": ({"minimum": True}, "Expected f64 for 'minimum', got true"),
    "panic": (
        {
            "allOf": [
                {"anyOf": [{"type": "object", "properties": {f"k{i}{j}": {}}} for j in range(3)]}
                for i in range(8)
            ]
        },
        "",  # which of its limits it meets first is the compiler's affair
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_compiler_refuses_is_said_on_one_line(name):
    schema, reason = REFUSED[name]
    with pytest.raises(
        UsageError, match=r"^JSON schema: an answer cannot be held to it: "
    ) as caught:
        MADE["byte-level"].json_schema(schema)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


IGNORED = {
    "misspelt": {"type": "object", "propertes": {}},
    "OpenAPI's": {"type": "string", "nullable": True},
    "format of a number": {"type": "integer", "format": "date"},
    "definitions in a list": {"$defs": [{}]},
    "rounded": {"const": 2**53 + 1},
    "infinite": {"const": float("inf")},
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_the_compiler_would_ignore_is_refused_before(name, monkeypatch):
    schema = IGNORED[name]
    with pytest.raises(UsageError, match="JSON schema: #"):
        MADE["byte-level"].json_schema(schema)
    monkeypatch.setattr(grammar, "checked", lambda schema: schema)
    MADE["byte-level"].json_schema(schema)  # else the check could go


def test_a_schema_that_takes_too_long_to_compile_is_given_up(monkeypatch):
    monkeypatch.setattr(json_schema, "MAX_MULTIPLE", 10**9)
    monkeypatch.setattr(grammar, "TRIAL_SECONDS", 1000.0)  # its own second of work ends it
    with pytest.raises(UsageError, match="it takes too much time or memory"):
        MADE["byte-level"].json_schema({"type": "integer", "multipleOf": 1_000_003})


def test_a_thousand_optional_properties_are_not_too_many(monkeypatch):
    monkeypatch.setattr(grammar, "_trial", lambda grammar: None)
    schema = {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(1000)}}
    assert whole(MADE["byte-level"].json_schema(schema).processor(), '{"p3": null, "p900": null}')


def test_a_schema_whose_steps_would_take_too_long_is_refused_beforehand():
    either = [
        {"anyOf": [{"properties": {f"k{i}{j}": {"type": "string"}}} for j in range(3)]}
        for i in range(6)
    ]
    with pytest.raises(UsageError, match="an answer cannot be held to it"):
        MADE["byte-level"].json_schema({"type": "object", "allOf": either})


def test_a_trial_that_takes_too_long_by_the_clock_is_given_up(monkeypatch):
    monkeypatch.setattr(grammar, "TRIAL_SECONDS", 0.01)  # Python alone takes longer to start
    with pytest.raises(UsageError, match="it takes too much time or memory"):
        GrammarCompiler(BUILT["byte-level"]).json_schema(PERSON)


def test_a_compiler_that_breaks_down_is_said_in_words(monkeypatch):
    monkeypatch.setattr(grammar, "_trial", lambda grammar: "panic: assertion failed\n  0: <unk>")
    with pytest.raises(UsageError, match=r"held to it: it takes too much time or memory; simplify"):
        GrammarCompiler(BUILT["byte-level"]).json_schema(PERSON)


def test_what_only_the_real_vocabulary_finds_wrong_is_refused_too(monkeypatch):
    monkeypatch.setattr(grammar, "_trial", lambda grammar: None)
    with pytest.raises(UsageError, match="Invalid type: strng"):
        MADE["byte-level"].json_schema({"type": "strng"})


def test_a_schema_is_tried_once_and_tried_again_if_it_failed(monkeypatch):
    made, tried, run = GrammarCompiler(BUILT["byte-level"]), [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **o: tried.append(1) or run(*a, **o))
    for _ in range(3):
        made.json_schema(PERSON)
        made.json_object()
    assert len(tried) == 1
    for _ in range(2):
        with pytest.raises(UsageError):
            made.json_schema({"type": "strng"})
    assert len(tried) == 3


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = ours.Tokenizer(wrapper=BUILT["byte-level"].wrapper, template=None)
    with pytest.raises(InputError, match="has no end token"):
        GrammarCompiler(tokenizer)
