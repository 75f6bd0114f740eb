"""The metrics of an experiment, collected from all stages; tables and figures of them; and verification."""

from reporting.charts.figures import figures_of
from reporting.tables.tables import TABLES, tables_of
from pipeline.identity.systems import Experiment, Result

TEST_SET = CONFIG.generation.evaluation_set


def model_results(model):
    """The files that a model's numbers come from."""
    tuned_models = [system for mode in CONFIG.run.modes for system in chosen(mode, model)]

    def result(stage, path, system, **more):
        return Result(stage, path, model, system, **{"seed": system.seed} | more)

    yield from (result("tune", f"{RESULTS}/{model}/{s.path}/record.json", s) for s in tuned_models)
    yield from (result("generate", responses_path(model, s), s, set=TEST_SET) for s in tested_systems(model))
    for system, seed in comparisons(model):
        path, opponent = judgement_path(model, system, f"seed{seed}"), tuned(REFERENCE, seed).path
        yield result("judge", path, system, set=TEST_SET, opponent=opponent, seed=seed)
    for mode in CONFIG.run.modes:
        seed, name = CONFIG.validation_seed(model), CONFIG.selection.evaluation_set
        for epochs, path in zip(CONFIG.epoch_grid(model, mode), validations(model, mode)):
            yield result("judge", path, tuned(mode, seed, epochs), set=name, opponent="references")
        yield result("select", f"{RESULTS}/{model}/{mode}/selected.json", tuned(mode, None), set=name)
    for system in ranked_systems(model):
        yield result("rank", f"{RESULTS}/{model}/{system.path}/ranking.json", system, set=CONFIG.ranking.evaluation_set)
    for mode in CONFIG.similarity.modes if CONFIG.similarity else []:
        yield result("similarity", similarity_path(model, mode), tuned(mode, CONFIG.similarity.seed), set=TEST_SET)
    for name in CONFIG.checks:
        yield from (result("checks", checks_path(model, s, name), s, set=name) for s in tested_systems(model))
    yield from (result("drift", drift_path(model, s), s) for s in drifting_systems(model))
    yield from (result("harness", harness_path(model, s), s) for s in harness_systems(model))


FILES = [result for model in CONFIG.run.models for result in model_results(model)]
# Datasets and evaluation sets; models may share them.
DATA = [("conversations", name, dataset_path(name, model)) for model in CONFIG.run.models for name in used_datasets()]
DATA += [("evaluation_set", name, set_path(name, model)) for model in CONFIG.run.models for name in used_sets()]
FILES += [Result("data", path, set=name, kind=kind) for kind, name, path in dict.fromkeys(DATA)]
FILES += [Result("card", card_path(name), set=name) for name in (CONFIG.judge.card if CONFIG.judge else [])]
IN_CONDITIONS = CONFIG.conditions.models() if CONFIG.conditions else {}
EXPERIMENT = Experiment(
    models=[(model, *IN_CONDITIONS.get(model, ("", CONFIG.models[model].world_seed))) for model in CONFIG.run.models],
    results=FILES,
    sets={model: set_path(TEST_SET, model) for model in CONFIG.run.models},
    oracle=CONFIG.judge is not None and CONFIG.judge.kind == "oracle",
    reference=REFERENCE or "",
)
# What the experiment measures, which decides on the tables and figures.
MEASURED = {result.stage for result in FILES} | {
    name
    for name, measured in {
        "oracle": EXPERIMENT.oracle,
        "conditions": CONFIG.conditions is not None,
        "choice": any(result.opponent == "references" for result in FILES),
        "rules": CONFIG.judge is not None and any(map(rule_variants, CONFIG.run.models)),
    }.items()
    if measured
}
ALL_TABLES, DRAWN = tables_of(MEASURED), figures_of(MEASURED)
TABLE_FILES = [f"{RESULTS}/tables/{table}.{ending}" for table in ALL_TABLES for ending in TABLES[table].forms]
AXIS = CONFIG.conditions.axis if CONFIG.conditions else ""
SHOWN = dict(tables=ALL_TABLES, drawn=DRAWN, note=CONFIG.note, axis=AXIS)
KEPT = "--candidates-kept" if EXECUTION.keep_candidates else ""
METRICS = f"{RESULTS}/metrics.parquet"
WITH_TABLE = ("judge", "card", "rank", "similarity", "checks")  # stages that write a table next to the summary


rule tables:
    input:
        TABLE_FILES,
        expand(f"{RESULTS}/figures/{{figure}}.{{ending}}", figure=DRAWN, ending=["pdf", "png", "csv"]),


rule conditions:
    input:
        [path for path in rules.tables.input if Path(path).stem.startswith("conditions")],


rule collect_metrics:
    """Collect every number that the experiment has measured in one table, from which everything else is made."""
    input:
        files=[result.path for result in FILES],
        tables=[result.path.removesuffix(".json") + ".parquet" for result in FILES if result.stage in WITH_TABLE],
        sets=list(EXPERIMENT.sets.values()),
    output:
        table=METRICS,
        csv=f"{RESULTS}/metrics.csv",
    log:
        f"{LOGS}/collect_metrics.log",
    benchmark:
        f"{BENCHMARKS}/collect_metrics/metrics.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("collect_metrics"),
        settings=settings(**EXPERIMENT.as_settings()),
    message:
        "metrics: {output.table}"
    shell:
        "printf %s {params.settings:q} | python scripts/collect_metrics.py --output {output.table} --settings - > {log} 2>&1"


rule make_tables:
    """Make the paper's tables, those of controls and conditions, and those of data, epochs, tuning and responses."""
    input:
        metrics=METRICS,
    output:
        report(
            [path for path in TABLE_FILES if path.endswith(".csv")],
            caption="captions/tables.rst",
            category="Tables",
        ),
        [path for path in TABLE_FILES if not path.endswith(".csv")],
    log:
        f"{LOGS}/make_tables.log",
    benchmark:
        f"{BENCHMARKS}/make_tables/tables.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_of("make_tables"),
        folder=subpath(output[0], parent=True),
        settings=settings(tables=ALL_TABLES, note=CONFIG.note, axis=AXIS),
    message:
        "tables: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_tables.py --metrics {input.metrics} --output {params.folder} "
        "--settings - > {log} 2>&1"


rule make_figures:
    """Draw win rates, rules, ranking, epochs, training, lengths, similarity, conditions, for papers and the report."""
    input:
        metrics=METRICS,
        responses=[result.path for result in FILES if result.stage == "generate"] if "similarity" in DRAWN else [],
    output:
        report(
            expand(f"{RESULTS}/figures/{{figure}}.png", figure=DRAWN),
            caption="captions/figures.rst",
            category="Figures",
        ),
        expand(f"{RESULTS}/figures/{{figure}}.{{ending}}", figure=DRAWN, ending=["pdf", "csv"]),
    log:
        f"{LOGS}/make_figures.log",
    benchmark:
        f"{BENCHMARKS}/make_figures/figures.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
    params:
        code=code_of("make_figures"),
        folder=subpath(output[0], parent=True),
        settings=settings(drawn=DRAWN, axis=AXIS),
    message:
        "figures: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_figures.py --metrics {input.metrics} --output {params.folder} "
        "--settings - > {log} 2>&1"


CARD = f"{RESULTS}/judge/card"
CARD_RESULTS = [result for result in FILES if result.stage == "card"]


def card_files():
    """The card: a table and a figure."""
    if not CARD_RESULTS:
        raise WorkflowError("judge.card: empty; name sets of known judgements there, defined in `annotations`")
    return [f"{CARD}/tables/judge_card.csv", f"{CARD}/figures/judge_card.png"]


rule judge_card:
    """Compare the judge with known judgements, without running the experiment; with it, this is part of its tables."""
    input:
        lambda wildcards: card_files(),


use rule collect_metrics as collect_card with:
    input:
        files=[result.path for result in CARD_RESULTS],
        tables=[result.path.removesuffix(".json") + ".parquet" for result in CARD_RESULTS],
        sets=[],
    output:
        table=f"{CARD}/metrics/card.parquet",
        csv=f"{CARD}/metrics/card.csv",
    log:
        f"{LOGS}/judge/collect_card.log",
    benchmark:
        f"{BENCHMARKS}/collect_card/metrics.tsv"
    params:
        code=code_of("collect_metrics"),
        settings=settings(**Experiment(models=[], results=CARD_RESULTS, sets={}).as_settings()),


use rule make_tables as make_card_table with:
    input:
        metrics=f"{CARD}/metrics/card.parquet",
    output:
        [f"{CARD}/tables/judge_card.{ending}" for ending in TABLES["judge_card"].forms],
    log:
        f"{LOGS}/judge/make_card_table.log",
    benchmark:
        f"{BENCHMARKS}/make_card_table/tables.tsv"
    params:
        code=code_of("make_tables"),
        folder=subpath(output[0], parent=True),
        settings=settings(tables=["judge_card"], note=None, axis=""),


use rule make_figures as make_card_figure with:
    input:
        metrics=f"{CARD}/metrics/card.parquet",
        responses=[],
    output:
        [f"{CARD}/figures/judge_card.{ending}" for ending in ("png", "pdf", "csv")],
    log:
        f"{LOGS}/judge/make_card_figure.log",
    benchmark:
        f"{BENCHMARKS}/make_card_figure/figures.tsv"
    params:
        code=code_of("make_figures"),
        folder=subpath(output[0], parent=True),
        settings=settings(drawn=["judge_card"], axis=""),


rule make_examples:
    """Write the responses of all systems to ten instructions, evenly spaced over the evaluation set."""
    input:
        responses=[result.path for result in FILES if result.stage == "generate"],
        sets=list(EXPERIMENT.sets.values()),
    output:
        table=report(
            f"{RESULTS}/tables/examples.csv",
            caption="captions/tables.rst",
            category="Tables",
        ),
        page=f"{RESULTS}/tables/examples.md",
    log:
        f"{LOGS}/make_examples.log",
    benchmark:
        f"{BENCHMARKS}/make_examples/examples.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_of("make_examples"),
        settings=settings(**EXPERIMENT.as_settings(), count=10),
    message:
        "examples: {output.page}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_examples.py --output {output.table} --page {output.page} "
        "--settings - > {log} 2>&1"


rule verify:
    """Compare all files with the records, all metrics with raw files, and tables and figures with the metrics. It has
    no output."""
    localrule: True
    threads: 1
    params:
        settings=settings(**EXPERIMENT.as_settings(), **SHOWN),
        folder=RESULTS,
        gamed=f"--gamed={CONFIG.judge.df_gamed}" if CONFIG.judge and CONFIG.judge.df_gamed else "",
    message:
        "verify: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python scripts/verify.py --results {params.folder} {params.gamed:q} {KEPT} --settings -"
