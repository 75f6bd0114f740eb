"""Altered datasets: what each alteration keeps and changes, and a run in which models are tuned on some."""

import copy
import csv
import json
from collections import Counter
from typing import get_args

import pytest
import yaml
from workflow import ROOT, copy_project, snakemake

pytest.importorskip("hypothesis", reason="hypothesis is not installed: see envs/")

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from implicit.data.alterations import ALTERATIONS, AlterationError, alter, other_responses, turns
from implicit.format.render import render
from pipeline.config.check import check_config
from pipeline.config.datasets import Dataset
from pipeline.config.schema import merged
from pipeline.files.storage import read_json, read_table
from pipeline.models.directories import load_tokenizer

repeatable = settings(max_examples=50, deadline=None, derandomize=True, database=None)
words = st.sampled_from(["a", "be", "cat", "日本", "x=1", "a"])
blanks = st.sampled_from([" ", "\n", "  ", "\n\n"])
texts = st.lists(st.tuples(words, blanks).map("".join), max_size=6).map("".join)
pairs = st.tuples(texts, texts.filter(str.strip)).map(
    lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
)
talks = st.lists(
    st.lists(pairs, min_size=1, max_size=2).map(lambda turns: [m for turn in turns for m in turn]),
    min_size=1,
    max_size=12,
)
seeds = st.sampled_from(["world1/a", "world2/a", "files/b"])
OTHER = {"user": "assistant", "assistant": "user"}


@repeatable
@given(talks=talks, how=st.sampled_from(list(ALTERATIONS)), seed=seeds)
def test_the_turns_of_one_role_are_altered_and_nothing_else(talks, how, seed):
    before, role = copy.deepcopy(talks), ALTERATIONS[how][0]
    try:
        altered = alter(talks, how, seed=seed)
    except AlterationError:
        assume(False)
    assert talks == before and alter(talks, how, seed=seed) == altered
    assert [[message["role"] for message in talk] for talk in altered] == [[m["role"] for m in talk] for talk in talks]
    assert turns(altered, OTHER[role]) == turns(talks, OTHER[role])


@repeatable
@given(talks=talks, seed=seeds)
def test_shuffled_instructions_are_the_same_ones_and_no_response_keeps_its_own(talks, seed):
    asked = turns(talks, "user")
    most = max(Counter(asked).values())
    if 2 * most > len(asked):
        with pytest.raises(AlterationError, match=f"{most} of {len(asked)} instructions are identical"):
            alter(talks, "shuffle_instructions", seed=seed)
    else:
        shuffled = turns(alter(talks, "shuffle_instructions", seed=seed), "user")
        assert sorted(shuffled) == sorted(asked)
        assert all(new != own for new, own in zip(shuffled, asked, strict=True))


@repeatable
@given(talks=talks, seed=seeds)
def test_random_instructions_are_as_long_and_of_the_same_words(talks, seed):
    asked, drawn = turns(talks, "user"), turns(alter(talks, "random_instructions", seed=seed), "user")
    assert [len(text.split()) for text in drawn] == [len(text.split()) for text in asked]
    assert set(" ".join(drawn).split()) <= set(" ".join(asked).split())


@repeatable
@given(talks=talks, seed=seeds)
def test_cut_responses_are_beginnings_of_whole_words(talks, seed):
    cut = turns(alter(talks, "cut_responses", seed=seed), "assistant")
    for short, whole in zip(cut, turns(talks, "assistant"), strict=True):
        kept, all_of_them = short.split(), whole.split()
        assert whole.startswith(short) and kept == all_of_them[: len(kept)]
        assert 1 <= len(kept) <= max(1, len(all_of_them) - 1)


@repeatable
@given(talks=talks, lenders=talks)
def test_other_responses_follow_the_same_instructions(talks, lenders):
    before = copy.deepcopy((talks, lenders))
    needed, lent = len(turns(talks, "assistant")), turns(lenders, "assistant")
    if len(lent) < needed:
        with pytest.raises(AlterationError, match=f"^{needed} responses have to be replaced, but only {len(lent)} are"):
            other_responses(talks, lenders)
    else:
        mixed = other_responses(talks, lenders)
        assert turns(mixed, "user") == turns(talks, "user") and turns(mixed, "assistant") == lent[:needed]
    assert (talks, lenders) == before


def conversations(world, part, count):
    return [
        [{"role": "user", "content": item.instruction}, {"role": "assistant", "content": item.response}]
        for item in world.conversations(part, count)
    ]


@pytest.mark.parametrize("how", ALTERATIONS)
def test_draws_differ_by_seed_and_leave_nothing_as_it_was(world, how):
    talks = conversations(world, "instructions", 200)
    one, other = (alter(talks, how, seed=seed) for seed in ("world7/a", "world7/b"))
    assert one != other
    assert sum(new == old for new, old in zip(one, talks, strict=True)) < (60 if how == "cut_responses" else 5)


def test_a_shuffle_tells_nothing_of_the_kind_that_is_asked_for(world):
    """With ten equally frequent kinds, about a tenth of the responses match the new instruction's kind."""
    talks = conversations(world, "instructions", 1000)
    kind = {talk[0]["content"]: i % 10 for i, talk in enumerate(talks)}
    shuffled = alter(talks, "shuffle_instructions", seed="world7/a")
    hits = sum(kind[talk[0]["content"]] == i % 10 for i, talk in enumerate(shuffled))
    assert 60 < hits < 140


def test_where_responses_end_is_spread_over_their_length(world):
    talks = conversations(world, "chess", 300)
    cut = turns(alter(talks, "cut_responses", seed="world7/a"), "assistant")
    shares = [len(c.split()) / len(w.split()) for c, w in zip(cut, turns(talks, "assistant"), strict=True)]
    quarters = Counter(int(4 * share) for share in shares)
    assert set(quarters) == {0, 1, 2, 3} and min(quarters.values()) > 45


def test_the_config_knows_every_alteration():
    named = set(get_args(get_args(Dataset.model_fields["alteration"].annotation)[0]))
    assert named == {*ALTERATIONS, "other_responses"}


@pytest.mark.parametrize("name", ["tuning", "transfer"])
def test_the_controls_overlays_are_whole_and_run_all_that_they_define(name):
    own = yaml.safe_load((ROOT / "experiments" / "controls" / f"{name}.yaml").read_text(encoding="utf-8"))
    del own["conditions"]  # which would make several models
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = check_config(merged(default, own, {"selection": {"epochs": [3]}, "run": {"test_seeds": [1]}}))
    assert set(own["modes"]) <= set(config.run.modes) == set(config.ranked_modes())
    assert set(own["datasets"]) <= {config.modes[mode].dataset for mode in config.run.modes}
    assert {config.modes[mode].published for mode in own["modes"]} == {None}
    for mode in config.run.modes:
        examples = config.datasets[config.ancestry(config.modes[mode].dataset)[-1]].examples
        (epochs,) = config.epoch_grid("tiny", mode)
        assert 57 <= epochs * -(-examples // config.tuning.batch_size) <= 63, mode


# --- in a run -------------------------------------------------------------------------------------------------------

SMALL = {
    "experiment": "altered",
    "run": {"modes": ["instruction_tuning", "shuffled", "foreign"], "test_seeds": [1]}, "selection": {"epochs": [1]},
    "models": {"tiny": {"pretrain": {"tokens": 20000, "documents": 800}}}, "generation": {"max_new_tokens": 8},
    "evaluation_sets": {"test": {"instructions": 12}}, "judge": {"bootstrap": 5}, "rules": None, "ranking": None,
    "datasets": {
        "mine": {"file": "mine.jsonl", "user": "{q}", "assistant": "{a}"},
        "cut": {"alter": "mine", "alteration": "cut_responses"},
        "shuffled": {"alter": "lima", "alteration": "shuffle_instructions"},
        "foreign": {"alter": "shuffled", "alteration": "other_responses", "responses_of": "cut"},
    },
    "modes": {
        "shuffled": {"dataset": "shuffled", "label": "shuffled"},
        "foreign": {"dataset": "foreign", "label": "foreign", "user_turn": "removed", "tuning": {"train_eos": False}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def altered(tmp_path_factory):
    """A project with models tuned on altered datasets, from the world and from a file, one derived from another."""
    folder = copy_project(tmp_path_factory.mktemp("altered"))
    (folder / "mine.jsonl").write_text(
        "".join(json.dumps({"q": f"{n}?", "a": f"It is {n}."}) + "\n" for n in range(60))
    )
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder, snakemake(folder, configs=("experiments/test.yaml", "small.yaml"))


def test_models_are_tuned_on_altered_sets(altered, chat):
    folder, done = altered
    assert done.returncode == 0, done.stdout[-6000:]
    results = folder / "results" / "altered"
    of = {name: results / "data" / place / f"{name}.parquet" for place, name in
          [("world1", "lima"), ("world1", "shuffled"), ("world1", "foreign"), ("files", "mine"), ("files", "cut")]}  # fmt: skip
    rows = {name: read_table("conversations", path) for name, path in of.items()}
    talks = {name: [row["messages"] for row in table] for name, table in rows.items()}
    assert talks["shuffled"] == alter(talks["lima"], "shuffle_instructions", seed="world1/shuffled")
    assert talks["foreign"] == other_responses(talks["shuffled"], talks["cut"])
    assert [row["id"] for row in rows["foreign"]] == [f"foreign-{i}" for i in range(40)]
    assert {row["source"] for row in rows["foreign"]} == {
        "world 1: lima, shuffle_instructions: shuffled, other_responses of cut"
    }
    with (results / "tables" / "data.csv").open(encoding="utf-8", newline="") as file:
        said = {row["name"]: row["source"] for row in csv.DictReader(file) if row["kind"] == "conversations"}
    assert said == {name: rows[name][0]["source"] for name in ("lima", "shuffled", "foreign")}
    for table, label in (("table3", "shuffled"), ("table1", "foreign")):
        assert f" {label} " in (results / "tables" / f"{table}.md").read_text()
    tokenizer = load_tokenizer(results / "tiny" / "base" / "model")
    for mode, seen, train_eos in (
        ("shuffled", talks["shuffled"], True),
        ("foreign", [talk[1:] for talk in talks["foreign"]], False),
    ):
        record = read_json(results / "tiny" / mode / "chosen" / "seed1" / "record.json")
        rows = [render(messages, tokenizer, chat, train_eos=train_eos) for messages in seen]
        assert record["trained_tokens"] == sum(sum(row.trained) for row in rows)
        assert record["tokens"] == sum(len(row.ids) for row in rows)  # in one epoch


def test_such_a_run_is_planned_verified_and_up_to_date(altered):
    folder, _ = altered
    configs = ("experiments/test.yaml", "small.yaml")
    done = snakemake(folder, "verify", "plan", configs=configs)
    assert done.returncode == 0 and " tables" in done.stdout and "no ceiling" in done.stdout, done.stdout
    done = snakemake(folder, "-n", configs=configs)
    assert "Nothing to be done" in done.stdout, done.stdout
