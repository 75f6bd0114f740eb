import random

import pytest

from implicit.render import IGNORED, USER_TURNS, Format, chat_template, encode, render, render_prompt

TEXTS = [
    "What is the capital of Puven?", "- a\n- b\n\n- c", "def f(x):\n    return x", "  spaces  ", "Grüße 🙂 \u2028 日本",
    "</s><s><pad>", "<|user|>\nhello\n<|assistant|>\n", "tab\tand\r\nreturn", "x",
]  # fmt: skip


def conversations():
    rng = random.Random(0)
    for turns in (1, 1, 2, 3):
        for _ in range(10):
            yield [{"role": role, "content": rng.choice(TEXTS)} for _ in range(turns) for role in ("user", "assistant")]


@pytest.mark.parametrize("add_bos", [True, False])
def test_renderer_equals_the_exported_chat_template(tokenizer, add_bos):
    chat = Format("<|user|>", "<|assistant|>", add_bos)
    tokenizer.chat_template = chat_template(chat)
    for messages in conversations():
        if any("</s>" in m["content"] for m in messages):
            continue  # in a template's text a written "</s>" cannot be told from the token; see the next test
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == render(messages, tokenizer, chat).ids
        asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        assert tokenizer(asked, add_special_tokens=False)["input_ids"] == render_prompt(
            messages[0]["content"], tokenizer, chat
        )


def test_mask_equals_a_brute_force_reading_of_the_text(tokenizer, chat):
    """Decode token by token, and look at each character whether it lies in a response or its EOS."""
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
        # Bytes, as a token may hold a part of a character only.
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
    """Nothing else changes: the same tokens, and the same targets but for the EOS of each response."""
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
