"""Tables and figures of an experiment, from the summaries of all stages, and their verification."""

FIGURES = [
    {
        "model": model,
        "system": system.removesuffix(f"/seed{seed}"),
        "label": label,
        "published": published,
        "rules": used,
        "tables": tables,
        "seed": seed,
        "path": judgement_path(model, system, f"seed{seed}"),
    }
    for model in CONFIG.run.models
    for system, seed, label, published, used, tables in comparisons(model)
]
RANKINGS = [
    {
        "model": model,
        "system": system.split("/seed")[0],
        "label": label,
        "published": published,
        "path": f"{RESULTS}/{model}/{system}/ranking.json",
    }
    for model in CONFIG.run.models
    for system, label, published in ranked_systems(model)
]
SELECTIONS = [
    {
        "model": model,
        "mode": mode,
        "path": f"{RESULTS}/{model}/{mode}/selected.json",
        "epochs": CONFIG.epoch_grid(model, mode),
        "validations": validations(model, mode),
    }
    for model in CONFIG.run.models
    for mode in CONFIG.run.modes
]
TUNINGS = [
    {"model": model, "mode": mode, "seed": seed, "path": f"{RESULTS}/{model}/{mode}/chosen/seed{seed}/record.json"}
    for model in CONFIG.run.models
    for mode in CONFIG.run.modes
    for seed in CONFIG.test_seeds(model)
]
RESPONSES = [
    {
        "model": model,
        "system": system,
        "label": system_label(system),
        "path": responses_path(model, system),
        "record": responses_path(model, system).removesuffix(".parquet") + ".record.json",
    }
    for model in CONFIG.run.models
    for system in tested_systems(model)
]
SIMILARITIES = [
    {
        "model": model,
        "label": CONFIG.modes[mode].label,
        "published": CONFIG.modes[mode].published,
        "path": similarity_path(model, mode),
    }
    for model in CONFIG.run.models
    for mode in (CONFIG.similarity.modes if CONFIG.similarity else [])
]
DRIFTS = [
    {"model": model, "system": f"{mode}/chosen", "label": CONFIG.modes[mode].label, "path": drift_path(model, system)}
    for model in CONFIG.run.models
    for mode, system in drifting_systems(model)
]
HARNESSED = [
    {"model": model, "system": system.split("/seed")[0], "label": label, "path": harness_path(model, system)}
    for model in CONFIG.run.models
    for label, system in harness_systems(model)
]
DATA = list(
    dict.fromkeys(
        [("conversations", name, dataset_path(name, model)) for model in CONFIG.run.models for name in used_datasets()]
        + [("evaluation_set", name, set_path(name, model)) for model in CONFIG.run.models for name in used_sets()]
    )
)
TABLES = sorted({table for figure in FIGURES for table in figure["tables"]} | ({"table2"} if RANKINGS else set()))
WIN_RATE_TABLES = [f"{RESULTS}/tables/{table}.csv" for table in TABLES if table != "table2"]
ORACLE = CONFIG.judge is not None and CONFIG.judge.kind == "oracle"
CONTROLS = [
    *(["kinds"] if ORACLE else []),
    *(["judging"] if ORACLE and FIGURES else []),
    *(["ranking_controls"] if RANKINGS else []),
    *(["drift"] if DRIFTS else []),
    *(["harness"] if HARNESSED else []),
]
ALL_TABLES = [*TABLES, *(["similarity"] if SIMILARITIES else []), *CONTROLS, "data", "epochs", "tuning", "responses"]
DRAWN = [
    *(["win_rates"] if WIN_RATE_TABLES else []),
    *(["rules"] if "table4" in TABLES else []),
    *(["ranking"] if RANKINGS else []),
    *(["epochs"] if any(entry["validations"] for entry in SELECTIONS) else []),
    "training",
    "lengths",
    *(["similarity"] if SIMILARITIES else []),
]
KEPT = "--candidates-kept" if EXECUTION.keep_candidates else ""
# Which file belongs to which row: for what makes the tables, and what verifies them.
ROWS = dict(
    models=CONFIG.run.models,
    figures=FIGURES,
    rankings=RANKINGS,
    similarities=SIMILARITIES,
    data=[{"kind": kind, "name": name, "path": path} for kind, name, path in DATA],
    selections=SELECTIONS,
    tunings=TUNINGS,
    responses=RESPONSES,
    drifts=DRIFTS,
    harnessed=HARNESSED,
    oracle=ORACLE,
    set={model: set_path(CONFIG.generation.evaluation_set, model) for model in CONFIG.run.models},
    tables=ALL_TABLES,
    note=CONFIG.note,
)
TABLE_SETTINGS = settings(**ROWS)
CONDITIONS = {"axis": CONFIG.conditions.axis, "models": CONFIG.conditions.models()} if CONFIG.conditions else None
CONDITION_SETTINGS = settings(**ROWS, conditions=CONDITIONS, reference=REFERENCE)
FIGURE_SETTINGS = settings(**ROWS, drawn=DRAWN, reference=REFERENCE)
SUMMARIES = [e["path"] for e in [*FIGURES, *RANKINGS, *SIMILARITIES, *DRIFTS, *HARNESSED, *SELECTIONS, *TUNINGS]]
JUDGEMENTS = [entry["path"].removesuffix(".json") + ".parquet" for entry in FIGURES]


rule tables:
    input:
        expand(f"{RESULTS}/tables/{{table}}.{{ending}}", table=ALL_TABLES, ending=["csv", "md", "tex"]),
        expand(f"{RESULTS}/figures/{{figure}}.{{ending}}", figure=DRAWN, ending=["pdf", "png", "csv"]),


rule make_tables:
    """The paper's tables, those of the controls, and those of epochs, tuning and responses."""
    input:
        code=sources("make_tables"),
        summaries=SUMMARIES,
        responses=[entry["path"] for entry in RESPONSES],
        judgements=JUDGEMENTS,
        rankings=[entry["path"].removesuffix(".json") + ".parquet" for entry in RANKINGS],
        data=[path for _, _, path in DATA],
    output:
        report(
            expand(f"{RESULTS}/tables/{{table}}.csv", table=ALL_TABLES),
            caption="captions/tables.rst",
            category="Tables",
        ),
        expand(f"{RESULTS}/tables/{{table}}.{{ending}}", table=ALL_TABLES, ending=["md", "tex"]),
    log:
        f"{LOGS}/make_tables.log",
    benchmark:
        f"{BENCHMARKS}/make_tables/tables.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        folder=subpath(output[0], parent=True),
        settings=TABLE_SETTINGS,
    message:
        "tables: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python {input.code[0]} --output {params.folder} --settings - > {log} 2>&1"


rule make_figures:
    """Win rates, rules, ranking, choice of epochs, training, lengths and similarity: for papers, and for the report."""
    input:
        code=sources("make_figures"),
        tables=expand(f"{RESULTS}/tables/{{table}}.csv", table=[*TABLES, "epochs"]),
        tunings=[entry["path"] for entry in TUNINGS],
        responses=[entry["path"] for entry in RESPONSES],
        similarities=[path for e in SIMILARITIES for path in (e["path"], e["path"].replace(".json", ".parquet"))],
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
        folder=subpath(output[0], parent=True),
        tables=lambda wildcards, input: os.path.dirname(input.tables[0]),
        settings=FIGURE_SETTINGS,
    message:
        "figures: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python {input.code[0]} --tables {params.tables} --output {params.folder} "
        "--settings - > {log} 2>&1"


rule conditions:
    input:
        (
            [
                *expand(f"{RESULTS}/tables/conditions.{{ending}}", ending=["csv", "md", "tex"]),
                f"{RESULTS}/tables/conditions_by_world.csv",
                *expand(f"{RESULTS}/figures/conditions.{{ending}}", ending=["csv", "png", "pdf"]),
            ]
            if CONFIG.conditions
            else []
        ),


rule make_conditions:
    """What models can do under each condition: a table and a figure, with the spread over worlds."""
    input:
        code=sources("make_conditions"),
        summaries=[entry["path"] for entry in [*FIGURES, *RANKINGS, *RESPONSES, *DRIFTS]],
    output:
        expand(f"{RESULTS}/tables/conditions.{{ending}}", ending=["md", "tex"]),
        f"{RESULTS}/tables/conditions_by_world.csv",
        expand(f"{RESULTS}/figures/conditions.{{ending}}", ending=["pdf", "csv"]),
        table=report(f"{RESULTS}/tables/conditions.csv", caption="captions/tables.rst", category="Tables"),
        figure=report(f"{RESULTS}/figures/conditions.png", caption="captions/figures.rst", category="Figures"),
    log:
        f"{LOGS}/make_conditions.log",
    benchmark:
        f"{BENCHMARKS}/make_conditions/conditions.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
    params:
        tables=subpath(output.table, parent=True),
        figures=subpath(output.figure, parent=True),
        settings=CONDITION_SETTINGS,
    message:
        "conditions: {params.tables}/conditions.csv"
    shell:
        "printf %s {params.settings:q} | python {input.code[0]} --tables {params.tables} --figures {params.figures} "
        "--settings - > {log} 2>&1"


rule verify:
    """Compare all files with the records, and all tables with judgements and scores. It makes nothing, and needs no job."""
    input:
        code=sources("verify"),
    localrule: True
    threads: 1
    params:
        settings=CONDITION_SETTINGS,
        folder=RESULTS,
        gamed=f"--gamed {CONFIG.judge.gamed_table}" if CONFIG.judge and CONFIG.judge.gamed_table else "",
    message:
        "verify: {params.folder}"
    shell:
        "printf %s {params.settings:q} | python {input.code[0]} --results {params.folder} {params.gamed} {KEPT} --settings -"
