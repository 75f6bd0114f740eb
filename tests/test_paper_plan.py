"""The paper's own experiment, planned: its jobs, its hyperparameters, its cost."""

import re

import pytest
import yaml
from paper_config import OVERLAYS, PAPER, config_of, expected_jobs
from workflow import copy_project, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("paper"))


@pytest.mark.parametrize(
    "names", [["paper"], *(["paper", overlay] for overlay in OVERLAYS)], ids=lambda names: names[-1]
)
def test_the_plan_has_the_jobs_that_the_config_tells_of(project, names):
    done = snakemake(project, "-n", configs=[f"experiments/{name}.yaml" for name in names])
    assert done.returncode == 0, done.stdout
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, flags=re.MULTILINE)}
    jobs.pop("all")
    assert jobs.pop("total") == sum(jobs.values()) + 1
    assert jobs == expected_jobs(config_of(*names))


def test_the_papers_grid_is_the_papers():
    jobs = expected_jobs(config_of("paper"))
    assert jobs["tune_candidate"] == 2 * 7 * 5 and jobs["tune_chosen"] == 2 * 7 * 5
    assert jobs["judge_responses"] == 70 + 2 * 6 * 5 + 2 * 5 + 4 * 5  # 90 of 805, as many as in the paper's tables
    assert expected_jobs(config_of("paper", "paper-published-epochs")).get("tune_candidate") is None


def test_hyperparameters_are_the_papers_and_by_one_overlay_the_scripts():
    """Appendix A of the paper, and the settings of all 182 of the authors' scripts."""
    common = {
        "batch_size": 64,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": 2048,
        "precision": "bfloat16",
        "method": "full",
    }
    different = {
        "paper": {"schedule": "cosine", "warmup": 0.1, "train_turn_newline": False},
        "paper-scripts": {"schedule": "linear", "warmup": 0.03, "train_turn_newline": True, "normalise_by": "example"},
    }
    for name, own in different.items():
        config = config_of("paper", *([name] if name != "paper" else []))
        for model, rate in (("llama2", 1e-5), ("olmo", 3e-6)):
            for mode in config.run.modes:
                tuning = config.mode_tuning(model, mode).model_dump()
                assert common.items() <= tuning.items() and own.items() <= tuning.items()
                assert tuning["learning_rate"] == rate
            assert config.model_chat(model).add_bos == (name == "paper" or model == "llama2")
        assert config.selection.epochs == [5, 7, 10, 15, 20] and config.run.test_seeds == [1, 2, 3, 4, 5]
        assert (config.rules.eos_bonus, config.rules.eos_ramp, config.rules.diversity_penalty) == (15.0, 250, -1.5)
        assert config.rules.eos_after_ramp == ("hold" if name == "paper" else "none")
        assert config.rules.diversity_scope == ("response" if name == "paper" else "prompt_and_response")
        assert config.generation.max_new_tokens == 8192 and config.rules.variants["no_eos"].max_new_tokens == 512
        assert (config.ranking.instructions, config.ranking.others) == (1000, 5)


def test_make_plan_prints_tokens_hours_calls_and_the_ceilings(project):
    configs = [PAPER, "experiments/hosted.yaml"]
    hosted = {"judge": {"server": {"price": {"input": 2.0, "output": 8.0}}}, "ceilings": {"gpu_hours": 50}}
    (project / "experiments" / "hosted.yaml").write_text(yaml.safe_dump(hosted))
    done = snakemake(project, "plan", "--quiet", "all", configs=configs)
    assert done.returncode == 0, done.stdout
    rows = {
        line.split()[0]: line.split()
        for line in done.stdout.splitlines()
        if line.startswith(("tune", "generate", "rank", "judge"))
    }
    config = config_of("paper")
    epochs = {mode: sum(config.selection.epochs) + 5 * 20 for mode in config.run.modes}
    tokens = sum(
        2
        * epochs[mode]
        * config.datasets[config.modes[mode].dataset].examples
        * config.plan.tokens[config.modes[mode].dataset]
        for mode in config.run.modes
    )
    assert rows["tune"][1:4] == ["140", "140", f"{tokens:,}"]
    assert rows["judge"][5] == f"{70 * 56 + 90 * 805:,}"
    assert re.search(r"GPU hours: 0.0 spent, at least [\d.]+ in total: ABOVE the ceiling of 50", done.stdout)
    assert re.search(r"price: 0.0 spent, 1[0-9]{2}.\d in total: ABOVE the ceiling of 100", done.stdout)
    assert not (project / "results").exists()


def test_a_grid_ten_times_as_large_is_planned(project):
    larger = {"run": {"test_seeds": list(range(1, 51))}, "selection": {"epochs": list(range(1, 51))}}
    (project / "larger.yaml").write_text(yaml.safe_dump(larger))
    planned = snakemake(project, "plan", "--quiet", "all", configs=[PAPER, "larger.yaml"])
    assert planned.returncode == 0 and re.search(r"^tune +1400 +1400 ", planned.stdout, flags=re.MULTILINE), (
        planned.stdout
    )
    done = snakemake(project, "-n", "--quiet", "host", configs=[PAPER, "larger.yaml"])
    assert done.returncode == 0 and re.search(r"^judge_responses +1600$", done.stdout, flags=re.MULTILINE), done.stdout[
        -2000:
    ]
