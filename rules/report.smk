"""What people and other tools see of an experiment: the report, and metrics for TensorBoard and trackers."""

REPORT = f"{RESULTS}/report.html"


rule make_events:
    """Write losses, win rates, capabilities and validations as TensorBoard events."""
    input:
        metrics=METRICS,
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
    message:
        "events: {output}"
    shell:
        "python scripts/make_events.py --metrics {input.metrics} --output {output} > {log} 2>&1"


if EXECUTION.tracking:

    rule track_metrics:
        """Send the same metrics to the tracker in the config."""
        input:
            metrics=METRICS,
            records=[result.path for result in FILES if result.stage == "tune"],
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
            settings=settings(module=EXECUTION.tracking, project=CONFIG.experiment),
        message:
            "tracking: {output}"
        shell:
            "python scripts/track_metrics.py --metrics {input.metrics} --output {output} --settings {params.settings:q} "
            "> {log} 2>&1"


rule record_config:
    """Write the checked config of an experiment, without execution settings, for comparison with another's."""
    output:
        f"{RESULTS}/config.json",
    log:
        f"{LOGS}/record_config.log",
    benchmark:
        f"{BENCHMARKS}/record_config/config.tsv"
    localrule: True
    threads: 1
    params:
        # A function, since datasets' templates contain braces, which would be treated as wildcards.
        config=lambda wildcards: CONFIG.model_dump_json(exclude={"execution", "plan", "ceilings"}, indent=2),
    message:
        "config: {output}"
    shell:
        "printf '%s\\n' {params.config:q} > {output} 2> {log}"


rule make_report:
    """Make one HTML file with all results, for any browser."""
    input:
        page=[f"scripts/reporting/page/{name}" for name in ("page.html", "figure.html", "style.css", "page.js")],
        config=rules.record_config.output[0],
        metrics=METRICS,
        files=rules.collect_metrics.input.files,
        tables=rules.collect_metrics.input.tables,
        benchmarks=[*rules.make_tables.output, *rules.make_figures.output],  # the report lists their cost
        sets=list(EXPERIMENT.sets.values()),
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
        settings=settings(**EXPERIMENT.as_settings(), **SHOWN, experiment=CONFIG.experiment),
    message:
        "report: {output}"
    shell:
        "printf %s {params.settings:q} | python scripts/make_report.py --results {params.folder} --config {input.config} "
        "--output {output} --settings - > {log} 2>&1"
