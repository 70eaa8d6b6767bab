"""What a directory's files say of how text is written: which of them counts, what is refused, and what a launch says."""

import json
import warnings
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedTokenizerFast

from kljax.command_line import compose
from kljax.config import Config
from kljax.errors import UserError
from kljax.models.huggingface.generation_settings import FIELDS, FILE, LACKED, OLDER, REFUSED, read, sentences, to_json

TOKENS = ["<s>", "<|end_of_text|>", "<pad>", "[/INST]", "<|eot_id|>", "a", "\n", "<|im_end|>"]
VOCAB = 10  # two rows of the model's embeddings have no token


@pytest.fixture(scope="module")
def tokenizer():
    ids = {token: i for i, token in enumerate(TOKENS)}
    special = {"bos_token": TOKENS[0], "eos_token": TOKENS[1], "pad_token": TOKENS[2]}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(ids)), **special)


@pytest.fixture(scope="module")
def rollout():
    """rollout(**changes): a run's way of sampling; without changes the model's own distribution."""
    plain = compose([], Config).rollout
    return lambda **changes: replace(plain, **{"temperature": 1.0} | changes)


@pytest.fixture
def settings(tmp_path, tokenizer):
    """settings(generation, config): what is read of files that hold this: objects, text or None for no file."""

    def make(generation=None, config=None):
        for name, content in ((FILE, generation), (OLDER, {} if config is None else config)):
            if content is not None:
                (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read(tmp_path, tokenizer, VOCAB, "model.path")

    return make


@pytest.fixture
def complaint(settings):
    """complaint(generation, config): the one sentence with which such files are refused."""

    def make(*contents):
        with pytest.raises(UserError) as raised:
            settings(*contents)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return make


def said(settings, tokenizer, rollout):
    return list(sentences(settings, tokenizer, rollout))


@pytest.mark.parametrize(
    ("generation", "config", "ends", "source"),
    [
        ({"eos_token_id": [4, 1]}, {"eos_token_id": 7}, (1, 4), FILE),
        ({"eos_token_id": 0}, {"eos_token_id": 7}, (0,), FILE),
        ({"eos_token_id": [7, 4, 7]}, {}, (4, 7), FILE),
        ({"temperature": 1.0}, {"eos_token_id": [7, 4]}, (4, 7), OLDER),
        ({"eos_token_id": None}, {"eos_token_id": 7}, (7,), OLDER),
        (None, {"eos_token_id": 7}, (7,), OLDER),
        (None, {"eos_token_id": None}, (1,), "the tokenizer"),
        ({}, {}, (1,), "the tokenizer"),
        (None, {"task_specific_params": {"text-generation": {"eos_token_id": 4}}}, (1,), "the tokenizer"),
        ({"eos_token_id": VOCAB - 1}, {}, (VOCAB - 1,), FILE),
    ],
)
def test_the_ends_are_those_of_the_first_that_names_any(settings, generation, config, ends, source):
    found = settings(generation, config)
    assert (found.ends, found.source) == (ends, source)


@pytest.mark.parametrize("value", [VOCAB, -1, 1.0, "1", True, [], [[1, 4]], [1, VOCAB], [1, None], [1, True], {"a": 1}])
@pytest.mark.parametrize("older", [False, True])
def test_ends_that_are_no_tokens_are_refused_with_file_and_field(complaint, tmp_path, value, older):
    sentence = complaint(*((None, {"eos_token_id": value}) if older else ({"eos_token_id": value},)))
    file = tmp_path / (OLDER if older else FILE)
    assert sentence.startswith(f"model.path: '{file}' has eos_token_id={json.dumps(value)}, expected the id of a token")
    assert "integers from 0 to 9; correct it, or delete the field" in sentence


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"eos_token_id": [1, 4]', "delimiter"),
        ("", "Expecting value"),
        ('\ufeff{"eos_token_id": 1}', "BOM"),
        ('{"eos_token_id": 1, "eos_token_id": [1, 4]}', "it has 'eos_token_id' twice"),
        ('{"temperature": NaN}', "NaN is no JSON"),
        ("[1, 4]", r"holds \[1, 4\]"),
        ("null", "holds null"),
        ("[" * 100_000, "more than 64 lists and objects inside one another"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(complaint, tmp_path, text, reason):
    sentence = complaint(text)
    assert sentence.startswith("model.path: ")
    assert f"'{tmp_path / FILE}'" in sentence
    assert reason.replace("\\", "") in sentence
    assert sentence.endswith("expected a JSON object, or no such file.")


def test_bytes_that_are_no_text_and_a_folder_are_refused(complaint, tmp_path):
    (tmp_path / FILE).write_bytes(b'{"eos_token_id": "\xff"}')
    assert f"cannot read '{tmp_path / FILE}' ('utf-8' codec" in complaint()
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert f"cannot read '{tmp_path / FILE}'" in complaint()


FORBIDDEN = {
    "bad_words_ids": [[3]], "suppress_tokens": [5], "begin_suppress_tokens": [5], "forced_bos_token_id": 0,
    "force_bos_token_to_be_generated": True, "forced_eos_token_id": 1, "forced_decoder_ids": [[1, 5]], "force_words_ids": [[5]],
    "constraints": [1], "prefix_allowed_tokens_fn": "f", "logits_processor": [], "sequence_bias": [[[5], -10.0]],
    "watermarking_config": {"bias": 2.5}, "guidance_scale": 1.5, "min_length": 5, "min_new_tokens": 1,
    "exponential_decay_length_penalty": [5, 1.1], "stop_strings": ["."], "stopping_criteria": [], "max_time": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), FORBIDDEN.items())
def test_what_forces_or_forbids_tokens_or_ends_completions_is_refused_in_either_file(complaint, tmp_path, field, value):
    for contents, file in (({field: value},), FILE), (({}, {field: value}), OLDER):
        (tmp_path / FILE).unlink(missing_ok=True)
        sentence = complaint(*contents)
        assert sentence.startswith(f"model.path: '{tmp_path / file}' has {field}={json.dumps(value)}: it ")
        assert "delete the field from the file" in sentence


def test_a_long_value_is_cut_in_a_message(complaint):
    assert len(complaint({"bad_words_ids": [[i] for i in range(5000)]})) < 400


def test_the_table_of_what_is_refused_is_tried_whole():
    assert FORBIDDEN.keys() == REFUSED.keys()


@pytest.mark.parametrize("field", [*REFUSED, *LACKED])
def test_a_value_that_does_nothing_is_neither_refused_nor_reported(settings, field):
    off = (*(REFUSED[field].off if field in REFUSED else LACKED[field]), None)
    for value in off:
        assert not settings({field: value}, {field: value}).asked, (field, value)


def test_every_field_that_transformers_knows_is_decided_on():
    """A new version's new field has to be put into one of the tables."""
    assert set(GenerationConfig().to_dict()) <= FIELDS
    assert not REFUSED.keys() & LACKED.keys()


LLAMA = {
    "bos_token_id": 0, "do_sample": True, "eos_token_id": [1, 4], "temperature": 0.6, "max_length": 4096, "top_p": 0.9,
    "transformers_version": "4.40.0",
}  # fmt: skip


def test_what_a_run_does_otherwise_is_reported_and_what_it_does_alike_is_not(settings, rollout):
    found = settings(LLAMA)
    assert found.not_followed(rollout()) == {"temperature": 0.6, "top_p": 0.9}
    assert found.not_followed(rollout(temperature=0.6)) == {"top_p": 0.9}
    alike = settings(LLAMA | {"top_p": 1.0})
    assert alike.not_followed(rollout(temperature=0.6)) == {}
    assert found.not_followed(rollout(temperature=0.0)) == {"do_sample": True, "temperature": 0.6, "top_p": 0.9}


def test_what_kljax_has_not_and_what_nobody_knows_is_reported_wherever_it_stands(settings, rollout):
    config = {
        "repetition_penalty": 1.3,
        "vocab_size": 10,
        "no_repeat_ngram_size": 3,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "num_beams": 4}, "x": 3},
    }
    found = settings({"repetition_penalty": 1.05, "chat_format": "chatml", "top_k": 20, "use_cache": True}, config)
    expected = {"num_beams": 4, "repetition_penalty": 1.05, "no_repeat_ngram_size": 3, "chat_format": "chatml", "top_k": 20}
    assert found.not_followed(rollout()) == expected


def test_the_launch_says_what_ends_a_completion_and_what_is_not_followed(settings, tokenizer, rollout):
    assert said(settings(LLAMA, {"repetition_penalty": 1.1}), tokenizer, rollout()) == [
        "A completion ends with <|end_of_text|> (1) or <|eot_id|> (4), as generation_config.json says.",
        "This run does not follow temperature=0.6 and top_p=0.9 of generation_config.json, repetition_penalty=1.1 of "
        "config.json: it samples by rollout.temperature=1 alone, from all tokens.",
    ]


def test_the_launch_warns_where_the_tokenizers_own_end_is_none(settings, tokenizer, rollout):
    assert said(settings({"eos_token_id": [3, 6, 9]}), tokenizer, rollout()) == [
        "A completion ends with [/INST] (3), '\\n' (6) or token 9, for which the tokenizer has no text, as "
        "generation_config.json says.",
        "Warning: the tokenizer's own end token, <|end_of_text|> (1), is not among them: it ends no completion.",
    ]


def test_a_misspelled_field_is_said_to_have_no_effect_with_the_right_name(settings, tokenizer, rollout):
    assert said(settings({"eos_token_ids": [1, 4], "temperature": 0.5}), tokenizer, rollout())[1:] == [
        "This run does not follow temperature=0.5 of generation_config.json: it samples by rollout.temperature=1 "
        "alone, from all tokens.",
        "Unknown here, and without effect: eos_token_ids=[1, 4] of generation_config.json. Did you mean 'eos_token_id'?",
    ]


def test_without_files_the_tokenizers_end_is_said_alone(settings, tokenizer, rollout):
    assert said(settings(), tokenizer, rollout()) == ["A completion ends with <|end_of_text|> (1), as the tokenizer says."]


@pytest.mark.parametrize("changes", [None, {}, {"temperature": 0.7}, {"temperature": 0.0}])
@pytest.mark.parametrize("ends", [(), (4,), (1, 4)])
def test_what_is_written_is_read_by_transformers_and_followed_by_the_run(settings, tmp_path, tokenizer, rollout, changes, ends):
    run = None if changes is None else rollout(**changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / FILE).write_text(json.dumps(to_json(tokenizer, ends, run)))
        theirs = GenerationConfig.from_pretrained(tmp_path)
    assert theirs.eos_token_id == {(): 1, (4,): 4, (1, 4): [1, 4]}[ends]
    assert (theirs.bos_token_id, theirs.pad_token_id) == (0, 2)
    if run is not None:
        greedy = run.temperature == 0
        expected = (False, None, None, None) if greedy else (True, run.temperature, 0, 1.0)
        assert (theirs.do_sample, theirs.temperature, theirs.top_k, theirs.top_p) == expected
        assert not settings().not_followed(run)
    assert (settings().ends, settings().source) == (ends or (1,), FILE)
