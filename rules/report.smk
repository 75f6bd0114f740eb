"""What people and other tools see of an experiment: the report, and its figures as TensorBoard and trackers take them."""

METRICS = dict(figures=FIGURES, rankings=RANKINGS, selections=SELECTIONS, tunings=TUNINGS)
METRIC_SETTINGS = settings(**METRICS)
TRACKING_SETTINGS = settings(**METRICS, module=EXECUTION.tracking, project=CONFIG.experiment)

REPORT = f"{RESULTS}/report.html"
OVER_WORLDS = ["conditions"] if CONFIG.conditions else []
REPORT_SETTINGS = settings(
    **ROWS | {"tables": [*OVER_WORLDS, *ALL_TABLES]},
    drawn=[*OVER_WORLDS, *DRAWN],
    conditions=CONDITIONS,
    reference=REFERENCE,
    experiment=CONFIG.experiment,
)


rule make_events:
    """Losses, win rates, capabilities and validations as TensorBoard events."""
    input:
        summaries=[entry["path"] for entry in [*FIGURES, *RANKINGS, *SELECTIONS, *TUNINGS]],
    output:
        directory(f"{RESULTS}/events"),
    log:
        f"{LOGS}/make_events.log",
    benchmark:
        f"{BENCHMARKS}/make_events/events.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_of("make_events"),
        settings=METRIC_SETTINGS,
    message:
        "events: {output}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_events.py --output {output} --settings - > {log} 2>&1"


if EXECUTION.tracking:

    rule track_metrics:
        """The same figures, sent to where the config says."""
        input:
            summaries=rules.make_events.input.summaries,
        output:
            f"{RESULTS}/tracked/{EXECUTION.tracking}.json",
        log:
            f"{LOGS}/track_metrics.log",
        benchmark:
            f"{BENCHMARKS}/track_metrics/metrics.tsv"
        localrule: True
        threads: 1
        resources:
            mem_mb=1000,
        params:
            code=code_of("track_metrics"),
            settings=TRACKING_SETTINGS,
        message:
            "tracking: {output}"
        shell:
            "printf %s {params.settings:q} | python scripts/track_metrics.py --output {output} --settings - > {log} 2>&1"


rule record_config:
    """The checked config of an experiment, without what only says how it is computed: to be compared with another's."""
    output:
        f"{RESULTS}/config.json",
    log:
        f"{LOGS}/record_config.log",
    benchmark:
        f"{BENCHMARKS}/record_config/config.tsv"
    localrule: True
    threads: 1
    params:
        # By a function, as templates of datasets have braces, which would be taken for wildcards.
        config=lambda wildcards: CONFIG.model_dump_json(exclude={"execution", "plan", "ceilings"}, indent=2),
    message:
        "config: {output}"
    shell:
        "printf '%s\\n' {params.config:q} > {output} 2> {log}"


rule make_report:
    """One HTML file with everything that came out, for any browser."""
    input:
        page=[f"scripts/report/{name}" for name in ("page.html", "figure.html", "style.css", "page.js")],
        config=rules.record_config.output[0],
        tables=rules.make_tables.output,
        figures=rules.make_figures.output,
        conditions=rules.make_conditions.output if CONFIG.conditions else [],
        summaries=SUMMARIES,
        judgements=JUDGEMENTS,
        responses=[path for entry in RESPONSES for path in (entry["path"], entry["record"])],
        sets=[set_path(CONFIG.generation.evaluation_set, model) for model in CONFIG.run.models],
    output:
        report(REPORT, caption="captions/report.rst", category="Report"),
    log:
        f"{LOGS}/make_report.log",
    benchmark:
        f"{BENCHMARKS}/make_report/report.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code_of("make_report"),
        folder=subpath(output[0], parent=True),
        settings=REPORT_SETTINGS,
    message:
        "report: {output}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_report.py --results {params.folder} --config {input.config} "
        "--output {output} --settings - > {log} 2>&1"
