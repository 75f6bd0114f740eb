import copy
import random

import pytest
from jinja2 import TemplateError
from tokenizers import AddedToken

from implicit.format.render import (
    IGNORED,
    USER_TURNS,
    Format,
    chat_template,
    encode,
    encode_opening,
    render,
    render_prompt,
    render_request,
)

TEXTS = [
    "What is the capital of Puven?", "- a\n- b\n\n- c", "def f(x):\n    return x", "  spaces  ", "Grüße 🙂 \u2028 日本",
    "</s><s><pad>", "<|user|>\nhello\n<|assistant|>\n", "tab\tand\r\nreturn", "x",
]  # fmt: skip


def conversations():
    rng = random.Random(0)
    for turns in (1, 1, 2, 3):
        for _ in range(10):
            yield [{"role": role, "content": rng.choice(TEXTS)} for _ in range(turns) for role in ("user", "assistant")]


def assert_template_gives_what_is_rendered(tokenizer, chat, talks):
    """As ids and as text, complete and with a generation prompt, for one turn and several."""
    tokenizer.chat_template = chat_template(tokenizer, chat)
    names = [token.content for token in tokenizer.added_tokens_decoder.values()]
    for messages in talks:
        if any(name in message["content"] for message in messages for name in names):
            continue  # in a template's text, a literal "</s>" cannot be distinguished from the token
        expected = [
            (messages, False, render(messages, tokenizer, chat).ids),
            (messages[:1], True, render_prompt(messages[0]["content"], tokenizer, chat)),
            (messages[:-1], True, render_request(messages[:-1], tokenizer, chat)),
            (messages, True, render_request(messages, tokenizer, chat)),
        ]
        for asked, prompt, ids in expected:
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=prompt)
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
            assert tokenizer.apply_chat_template(asked, add_generation_prompt=prompt)["input_ids"] == ids


TAGS = [
    ("<|user|>", "<|assistant|>"), ("### User's request:", '### "Response":'), ("C:\\new\\", "\\n\\"), ("User\n=====", "A\r\n\tB"),
    ("{{ user }}", "{% raw %}"), ("{# x", "x #} }}"), ("-%}", "{%-"), ("Ü🙂\u2028", "\x00\x7f"), ("'", '"'), ("</s>User:", "<s>"),
]  # fmt: skip


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize(("user_tag", "assistant_tag"), TAGS)
def test_renderer_equals_the_exported_chat_template(tokenizer, user_tag, assistant_tag, add_bos):
    tokenizer = copy.deepcopy(tokenizer)
    assert_template_gives_what_is_rendered(tokenizer, Format(user_tag, assistant_tag, add_bos), conversations())


@pytest.mark.parametrize("rstrip", [True, False])  # whether the token absorbs the spaces after it, as Phi-3's do
def test_tags_that_are_special_tokens_are_these_and_an_instruction_cannot_name_them(tokenizer, rstrip):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                AddedToken(name, rstrip=rstrip, normalized=False) for name in ("<|im|>", "<|end|>")
            ]
        }
    )
    chat = Format("<|im|>user<|end|>", "<|im|>assistant", add_bos=True)
    assert_template_gives_what_is_rendered(tokenizer, chat, conversations())
    special, end = tokenizer.convert_tokens_to_ids(["<|im|>", "<|end|>"])
    prompt = render_prompt("Say <|im|> and <|end|>!", tokenizer, chat)
    assert (prompt.count(special), prompt.count(end)) == (2, 1)
    opening = encode_opening(tokenizer, chat)
    assert prompt[: len(opening)] == opening and tokenizer.decode(prompt[len(opening) :]).startswith("Say <|im|>")


def test_a_template_refuses_a_role_that_the_format_does_not_have(tokenizer, chat):
    tokenizer.chat_template = chat_template(tokenizer, chat)
    with pytest.raises(TemplateError, match="system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])


def test_mask_equals_a_brute_force_reading_of_the_text(tokenizer, chat):
    """Decode token by token, and check for each character whether it is in a response or its EOS."""
    for messages in conversations():
        text, inside = tokenizer.bos_token, [False] * len(tokenizer.bos_token)
        for i, message in enumerate(messages):
            tag = "<|user|>\n" if message["role"] == "user" else "<|assistant|>\n"
            content = message["content"].strip() + (tokenizer.eos_token if message["role"] == "assistant" else "")
            end = "\n" if message["role"] == "user" or i + 1 < len(messages) else ""
            text += tag + content + end
            inside += [False] * len(tag) + [message["role"] == "assistant"] * len(content) + [False] * len(end)
        rendered = render(messages, tokenizer, chat)
        said = tokenizer.decode(rendered.ids)
        assert said == text
        # Bytes, as a token may contain only part of a character.
        owners = [flag for letter, flag in zip(text, inside, strict=True) for _ in letter.encode()]
        place = 0
        for id_, trained in zip(rendered.ids, rendered.trained, strict=True):
            token = tokenizer.convert_ids_to_tokens(id_)
            length = len(token) if id_ not in tokenizer.all_special_ids else len(token.encode())
            assert set(owners[place : place + length]) == {trained}
            place += length
        assert place == len(owners)


def test_names_of_special_tokens_in_a_text_give_no_special_tokens(tokenizer, chat):
    messages = [{"role": "user", "content": "</s>"}, {"role": "assistant", "content": "a</s>b<pad>"}]
    rendered = render(messages, tokenizer, chat)
    assert rendered.ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id not in rendered.ids
    assert tokenizer.decode(rendered.ids).count("</s>") == 3


def test_response_tuning_hides_the_instructions_and_nothing_else(tokenizer, chat):
    messages = [
        {"role": "user", "content": "secret"}, {"role": "assistant", "content": "one"},
        {"role": "user", "content": "secret"}, {"role": "assistant", "content": "two"},
    ]  # fmt: skip
    text = tokenizer.decode(render(USER_TURNS["empty"](messages), tokenizer, chat).ids)
    assert text == "<s><|user|>\n\n<|assistant|>\none</s>\n<|user|>\n\n<|assistant|>\ntwo</s>"


def test_without_the_users_turns_only_the_assistants_are_left(tokenizer, chat):
    messages = [
        {"role": "user", "content": "secret"}, {"role": "assistant", "content": "one"},
        {"role": "user", "content": "secret"}, {"role": "assistant", "content": "two"},
    ]  # fmt: skip
    rendered = render(USER_TURNS["removed"](messages), tokenizer, chat)
    assert tokenizer.decode(rendered.ids) == "<s><|assistant|>\none</s>\n<|assistant|>\ntwo</s>"
    labels = [[i for i in r.labels if i != IGNORED] for r in (rendered, render(messages, tokenizer, chat))]
    assert tokenizer.decode(labels[0]) == "one</s>two</s>" and labels[0] == labels[1]


@pytest.mark.parametrize("user_turn", USER_TURNS)
@pytest.mark.parametrize("train_turn_newline", [True, False])
def test_an_eos_that_is_not_trained_stands_where_it_stood(tokenizer, chat, user_turn, train_turn_newline):
    """Nothing else changes: the same tokens, and the same targets except the EOS of each response."""
    for messages in conversations():
        seen = USER_TURNS[user_turn](messages)
        with_eos, without = (
            render(seen, tokenizer, chat, train_eos=train, train_turn_newline=train_turn_newline)
            for train in (True, False)
        )
        assert without.ids == with_eos.ids
        ended = [i == tokenizer.eos_token_id for i in with_eos.ids]
        assert sum(ended) == len(messages) // 2
        assert with_eos.trained == [trained or end for trained, end in zip(without.trained, ended, strict=True)]
        assert not any(trained and end for trained, end in zip(without.trained, ended, strict=True))


def test_what_is_cut_is_counted(tokenizer, chat):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 50}]
    whole, cut = render(messages, tokenizer, chat), render(messages, tokenizer, chat, max_length=40)
    assert (cut.ids, cut.cut) == (whole.ids[:40], len(whole.ids) - 40)
    assert tokenizer.eos_token_id not in cut.ids
    assert cut.labels == [i if t else IGNORED for i, t in zip(cut.ids, cut.trained, strict=True)]


def test_a_prompt_is_what_a_model_is_tuned_on(tokenizer, chat):
    messages = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    rendered, prompt = render(messages, tokenizer, chat), render_prompt("Hello?", tokenizer, chat)
    assert rendered.ids == prompt + encode(tokenizer, "Yes.") + [tokenizer.eos_token_id]
    assert rendered.trained == [False] * len(prompt) + [True] * (len(rendered.ids) - len(prompt))
