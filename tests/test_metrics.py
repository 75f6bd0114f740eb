"""The metrics table and its uses: every number is recomputed by independent code, and adding one is easy."""

import os
from pathlib import Path

import pytest
from results_folder import Results

from implicit.judging.oracle import Oracle
from pipeline.identity.systems import Experiment
from reporting.metrics import registry
from reporting.metrics.collect import COLUMNS, collect, read_metrics, table_of
from reporting.metrics.recounts import Recount
from reporting.metrics.view import View, mean, text
from reporting.tables import tables
from reporting.tables.tables import Table, make_table, tables_of
from verify import by_key, check_collected, check_data, check_recounted

OF_OTHER_JUDGES = {"lc_win_rate", "position_bias", "first_shown", "label_share", "label_share_minimum"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, world):
    """Two models judged by the oracle, with all measurements; in the folder that paths are relative to."""
    results = Results(tmp_path_factory.mktemp("made"), models=("a", "b"), instructions=40, modes=4, world=world)
    results.make()
    before = Path.cwd()
    os.chdir(results.folder)
    yield results
    os.chdir(before)


@pytest.fixture(scope="module")
def metrics(made):
    return read_metrics(Path(made.path("metrics.parquet")))


def lines(name, metrics):
    return [line.cells for line in make_table(name, View(metrics)).lines]


def test_every_metric_is_there_and_counted_anew_by_other_code(made, metrics, capsys):
    assert registry.METRICS.keys() - set(metrics["metric"]) == OF_OTHER_JUDGES
    assert check_collected(by_key(metrics), by_key(collect(Experiment.read(made.experiment.as_settings())))) == []
    assert check_recounted(by_key(metrics), Recount(made.experiment)) + check_data(metrics, made.experiment) == []
    (alone,) = [line for line in capsys.readouterr().out.splitlines() if "from records only" in line]
    recorded = {metric.name for metric in registry.DECLARED if metric.stage == "tune"}
    recorded |= {"protected", "seen", "without_reference"}
    assert set(alone.partition("only: ")[2].split(", ")) == recorded
    changed = metrics.assign(value=metrics["value"] + 0.001)
    faults = check_recounted(by_key(changed), Recount(made.experiment))
    counted = {key for key, row in by_key(metrics).items() if row["metric"] not in recorded}
    assert len([fault for fault in faults if ", value is" in fault]) == len(counted)


def test_settings_and_metrics_survive_their_files(made, metrics):
    assert Experiment.read(made.experiment.as_settings()) == made.experiment
    assert collect(made.experiment).equals(metrics) and list(metrics.columns) == list(COLUMNS)


def test_each_seed_and_world_is_a_row_that_can_be_paired(metrics):
    rates = metrics[(metrics["metric"] == "win_rate") & (metrics["level"] == "seed") & (metrics["set"] == "test")]
    paired = rates.pivot_table(index=["model", "seed"], columns="name", values="value")
    assert paired.shape == (4, 5) and not paired.isna().any(axis=None)
    assert set(rates["world"]) == {1, 2} and set(rates["unit"]) == {"percent"}


def test_a_metric_and_a_table_are_added_in_one_place_each(made, monkeypatch):
    words = registry.Metric(
        "words",
        "generate",
        "words",
        2,
        "mean words of a response",
        registry.mean(lambda row: len(row["output"].split())),
    )
    monkeypatch.setitem(registry.METRICS, "words", words)
    own = Table(
        "Words", frozenset(), lambda view: view.of("words"), columns=lambda view: [text("label"), mean("w", "words")]
    )
    monkeypatch.setitem(tables.TABLES, "words", own)
    assert tables_of(set())[-1] == "words"
    row = lines("words", collect(made.experiment, [words]))[0]
    given = [len(answer["output"].split()) for answer in made.given["a", "base"]]
    assert row == {"label": "base", "w": f"{sum(given) / 40:.2f}"}


def test_kinds_are_the_oracles_of_every_system_and_the_opponent(made, metrics):
    rows = {(row["model"], row["tuning"]): row for row in lines("kinds", metrics)}
    assert rows["a", "instruction tuning"]["seeds"] == 2
    assert rows["a", "base"]["seeds"] == 1 and rows["a", "base"]["n"] == 40
    asked, oracle = {row["id"]: row["request"] for row in made.asked}, Oracle()
    sums = [
        oracle.quality(asked[row["id"]], row["output"], stopped=row["stopped"])
        for row in made.given["a", "base"] if oracle.kind(asked[row["id"]]) == "sum"
    ]  # fmt: skip
    assert len(sums) == 4 and rows["a", "base"]["sum"] == f"{sum(sums) / 4:.2f}"


def test_a_model_without_a_world_has_no_recall_and_without_an_oracle_there_are_no_such_tables(metrics):
    rows = lines("drift", metrics)
    assert [(row["model"], row["recall, statements"] != "") for row in rows] == [("a", True)] * 4 + [("b", False)] * 4
    assert not {"kinds", "judging", "table4", "drift"} & set(tables_of({"judge", "rank"}))


def run(name, seed, **more):
    """A row for a single seed of a tuned model."""
    system = f"{name}/chosen/seed{seed}"
    row = {
        "model": "tiny",
        "name": name,
        "system": system,
        "kind": "tuned",
        "label": name,
        "epochs": "chosen",
        "seed": seed,
    }
    own = {"opponent": f"it/chosen/seed{seed}", "slice": "all", "level": "seed", "source": f"{system}.json", "n": 3}
    return row | own | {"turn": "empty", "value": 0.0} | more


def table1(rows):
    """Table 1 for runs with the given win rates: its cells and its notes."""
    for row in [row for row in rows if row["metric"] == "win_rate" and row["seed"] == 1]:
        rows = [*rows, row | {"level": "seeds", "low": 1.0, "high": 2.0, "seed": None}]
    return make_table("table1", View(table_of(rows)))


def test_what_a_seed_lacks_has_no_mean_where_it_would_mislead():
    rates = [run("poem", seed, metric="win_rate", value=value) for seed, value in ((1, 40.0), (2, 43.0))]
    lengths = [run("poem", seed, metric="lc_win_rate", value=30.0) for seed in (1, 2)]
    biases = [run("poem", 1, metric="position_bias", value=2.0)]
    (whole,), (lacking,) = (table1([*rates, *more, *biases]).lines for more in (lengths, lengths[:1]))
    assert whole.cells["win rate"] == "41.5 ± 2.1" and whole.cells["each seed"] == "40.0 43.0"
    assert (whole.cells["length-controlled"], lacking.cells["length-controlled"]) == ("30.0 ± 0.0", "")
    assert (
        lacking.cells["position bias"] == "+2.0" and lacking.cells["quality"] == ""
    )  # of those that have one; of none


LOSSES = ("rows_cut", "turns_dropped", "prompts_cut", "not_stopped", "protected")


def losses(**counts):
    """Table 1's notes on losses, with a number of each kind, for poem and its opponent, and for another mode."""
    rows = []
    for name in ("it", "poem", "chess"):
        for seed in (1, 2):
            rows += [run(name, seed, metric="win_rate")] if name == "poem" else []
            more = {
                metric: run(name, seed, metric=metric, opponent="", value=counts.get(metric, 0)) for metric in LOSSES
            }
            more["protected"]["n"] = 9
            rows += [row for metric, row in more.items() if metric != "protected" or name == "poem"]
    plain = len(table1([row for row in rows if row["metric"] == "win_rate"]).notes)
    return table1(rows).notes[plain:]


def test_losses_stand_under_the_tables_of_the_systems_that_had_them():
    """Opponents count too, each once; judged texts count for the judged side only. Zero losses are not mentioned."""
    assert losses() == []
    told = losses(rows_cut=1, turns_dropped=3, prompts_cut=2, not_stopped=1, protected=4)
    assert told == [
        "Rows truncated at tuning.max_length: it 1 of 3, poem 1 of 3.",
        "Turns dropped because no response follows them: it 3 of 3, poem 3 of 3.",
        "Prompts truncated because they left too little of the context: it 4 of 6, poem 4 of 6.",
        "Responses that did not stop before max_new_tokens or the end of the context: it 2 of 6, poem 2 of 6.",
        "Texts shown to the judge with special markers broken up: poem 8 of 18.",
    ]
    assert len(losses(prompts_cut=1)) == 1 and "chess" not in "".join(told)


def judged(**told):
    """Table 1 for poem, given what a judge reports about itself: one value per seed."""
    rows = [run("poem", seed, metric="win_rate", value=40.0) for seed in (1, 2)]
    for metric, values in told.items():
        rows += [run("poem", seed, metric=metric, value=value) for seed, value in enumerate(values, start=1)]
    made = table1(rows)
    return made, [note for note in made.notes if note.startswith(("Low probability", "Share of comparisons won"))]


def test_columns_and_a_footnote_tell_of_labels_with_little_probability():
    sound, doubts = judged(label_share=[0.99999, 0.9999], label_share_minimum=[0.9996, 0.6], first_shown=[3.0, -3.0])
    assert doubts == [] and 'label share,"label share, minimum"' in sound.form("csv")
    assert sound.lines[0].cells["label share"] == "1.000" and sound.lines[0].cells["label share, minimum"] == "0.600"
    for shares, minima, told in (
        ([0.89, 0.89], [0.6, 0.7], "0.890, minimum 0.600"), ([0.95, 0.97], [0.9, 0.49], "0.960, minimum 0.490"),
    ):  # fmt: skip
        made, (low,) = judged(label_share=shares, label_share_minimum=minima)
        assert low.startswith("Low probability of the labels") and low.endswith(f": poem {told}.")
        assert low in made.form("tex") and low in made.form("md") and low not in made.form("csv")
    without, doubts = judged()
    assert doubts == [] and "label share" not in without.form("csv")


@pytest.mark.parametrize(
    ("told", "end"),
    [
        ({"first_shown": [50.0, 20.0]}, "poem +35.0."),
        ({"first_shown": [-30.0, -10.0]}, "poem -20.0."),
        ({"first_shown": [50.0, 50.0], "position_bias": [21.0, 19.0]}, "poem +20.0."),  # from both orders instead
    ],
)
def test_a_footnote_tells_that_the_output_shown_first_wins(told, end):
    _, (first,) = judged(**told)
    assert first.startswith("Share of comparisons won by the output shown first") and first.endswith(f": {end}")
    assert judged(first_shown=[50.0, 50.0], position_bias=[19.0, 20.0])[1] == []


def test_of_several_models_each_is_named(metrics):
    told = "\n".join(make_table("table3", View(metrics)).notes)
    assert "a instruction_tuning 1 of 40, a task_0 1 of 40" in told and "b task_1 1 of 40" in told
    assert "a instruction_tuning 2 of 80, a task_0 2 of 80" in told
    _, cut, dropped = make_table("table2", View(metrics)).notes  # nothing generated is shown there
    assert cut.endswith(": a instruction_tuning 1 of 40, b instruction_tuning 1 of 40.")
    assert dropped.endswith(": a instruction_tuning 2 of 80, b instruction_tuning 2 of 80.")


def test_a_table_of_another_version_is_refused(tmp_path, metrics):
    metrics.drop(columns="unit").to_parquet(tmp_path / "metrics.parquet")
    with pytest.raises(ValueError, match="is not a metrics table of this version"):
        read_metrics(tmp_path / "metrics.parquet")


def test_units_and_definitions_are_told_of_all():
    assert all(metric.definition and metric.better in ("", "higher", "lower") for metric in registry.DECLARED)
    assert len(registry.METRICS) == len(registry.DECLARED)
