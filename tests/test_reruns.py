"""Which jobs of a finished experiment are rerun after a change of code, by dry runs."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_identity import replaced, reworded
from workflow import overlay, planned

from pipeline.files.storage import read_json
from pipeline.identity.sources import code_of


@contextmanager
def other_texts(folder, texts):
    """Temporarily replace the contents of files."""
    before = {path: (folder / path).read_text(encoding="utf-8") for path in texts}
    try:
        for path, text in texts.items():
            (folder / path).write_text(text, encoding="utf-8")
        yield
    finally:
        for path, text in before.items():
            (folder / path).write_text(text, encoding="utf-8")


def test_other_words_anywhere_rerun_nothing(project):
    """In all modules at once, including those outside the method, and in the rules."""
    scripts = [path.relative_to(project) for path in (project / "scripts").rglob("*.py")]
    texts = {path: reworded((project / path).read_text(encoding="utf-8")) for path in scripts}
    for path in [Path("Snakefile"), *(path.relative_to(project) for path in (project / "rules").glob("*.smk"))]:
        text = (project / path).read_text(encoding="utf-8")
        texts[path] = re.sub(r'(\n    message:\n        ")', r"\1now ", text) + "\n# In other words.\n"
    assert len(texts) > 80
    with other_texts(project, texts):
        assert planned(project) == {}
    assert planned(project) == {}


def test_records_hold_the_code(project):
    results = project / "results" / "test" / "tiny"
    for record, stage in (("poem/chosen/seed1/record.json", "tune"), ("base/test.record.json", "generate_responses")):
        assert read_json(results / record)["code"] == code_of(stage, root=project / "scripts")


SHOWN = {"make_tables": 1, "make_figures": 1, "make_report": 1}
LAST = SHOWN | {"collect_metrics": 1, "make_events": 1}
TUNED = {"tune_chosen": 6, "rank_responses": 4, "measure_drift": 6}
JUDGED = {"judge_responses": 16, "select_epochs": 3, "generate_responses": 6, "make_examples": 1} | TUNED | LAST
ASKED = JUDGED | {
    "tune_candidate": 6,
    "generate_responses": 15,
    "rank_responses": 5,
    "take_base": 1,
    "resolve_rules": 1,
}
DATA = {"make_corpus": 1, "make_dataset": 2, "make_evaluation_set": 2, "list_data": 1, "pretrain": 1}


@pytest.mark.parametrize(
    ("module", "before", "after", "jobs"),
    [
        ("implicit/world/kinds.py", "Please write me some verses", "Write me some verses", DATA | ASKED),
        ("implicit/format/render.py", "", "", ASKED),
        (
            "implicit/tuning/tune.py",
            "trained / tokens",
            "2 * trained / tokens",
            JUDGED | {"tune_candidate": 6, "generate_responses": 12},
        ),
        ("implicit/judging/judge.py", "", "", JUDGED),
        ("implicit/scoring/rank.py", "", "", {"rank_responses": 5, "measure_drift": 6} | LAST),
        (
            "pipeline/files/storage.py",
            '("tuned_logprob", pa.float64())',
            '("tuned_logprob", pa.float32())',
            {"measure_drift": 6} | LAST,
        ),
        ("reporting/metrics/registry.py", 'PERCENT = ("percent", 1)', 'PERCENT = ("percent", 2)', LAST),
        ("reporting/tables/forms.py", '" ± {fixed', '" +- {fixed', SHOWN | {"make_examples": 1}),
        ("make_tables.py", "", "", {"make_tables": 1, "make_report": 1}),
        ("make_figures.py", "", "", {"make_figures": 1, "make_report": 1}),
        ("pipeline/jobs/command.py", "", "", {}),
    ],
)
def test_what_a_change_of_code_reruns(project, module, before, after, jobs):
    path = Path("scripts") / module
    text = (project / path).read_text(encoding="utf-8")
    changed = replaced(text, before, after) if before else text + "\nANOTHER = 1\n"
    with other_texts(project, {path: changed}):
        assert planned(project) == jobs


@pytest.mark.parametrize("mended", [True, False])
def test_a_change_counts_although_something_stale_precedes_it(project, mended):
    """Other rows for one mode, another learning rate for another: Snakemake alone would not see the second."""
    changed = {
        "datasets": {"lima": {"examples": 39}},
        "modes": {"poem": {"tuning": {"learning_rate": 3.0e-4}}},
    }
    unmended = {}
    if not mended:
        path = Path("scripts/pipeline/run/snakemake_internals.py")
        text = (project / path).read_text(encoding="utf-8")
        unmended = {path: replaced(text, 'getattr(DAG, "bfs", None)', 'getattr(DAG, "gone", None)')}
    with other_texts(project, unmended):
        found = planned(project, configs=overlay(project, "changed.yaml", changed))
    assert (found["make_dataset"], found["tune_candidate"], found["tune_chosen"]) == (1, 6, 6)
    assert found.get("take_base", 0) == (0 if mended else 1)


SHOWN_ANEW = LAST | {"record_config": 1, "make_examples": 1}
ANOTHER_MODE = {
    "tune_candidate": 2,
    "tune_chosen": 2,
    "select_epochs": 1,
    "generate_responses": 4,
    "judge_responses": 4,
}
ANOTHER_MODE |= {"measure_drift": 2} | SHOWN_ANEW
ALL_MODES = ["instruction_tuning", "response_tuning", "poem"]


@pytest.mark.parametrize(
    ("added", "jobs"),
    [
        (
            {"run": {"modes": [*ALL_MODES, "code"]}, "datasets": {"code": {"examples": 40}}},
            ANOTHER_MODE | {"make_dataset": 1, "list_data": 1},
        ),
        ({"run": {"modes": [*ALL_MODES, "own"]}, "modes": {"own": {"dataset": "poem", "label": "own"}}}, ANOTHER_MODE),
        (
            {"evaluation_sets": {"more": {"world_part": "test", "instructions": 10}}, "checks": {"more": "gsm8k"}},
            {"make_evaluation_set": 1, "list_data": 1, "generate_responses": 9, "check_responses": 9} | SHOWN_ANEW,
        ),
    ],
)
def test_what_is_added_makes_nothing_anew_that_was_there(project, added, jobs):
    """No model is taken or tuned again because another mode, with data of its own, or another set is added."""
    assert planned(project, configs=overlay(project, "added.yaml", added)) == jobs
