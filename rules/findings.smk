"""The results of the controls: docs/findings.md, from the tables and figures of their experiments."""

from make_findings import files_of

FINDINGS = Path("experiments/controls/findings.md")  # with placeholders for numbers
USED = files_of(FINDINGS.read_text(encoding="utf-8"))


rule findings:
    """Fill in the results. Each experiment must have been run with its own config before: `make findings`."""
    input:
        template=FINDINGS,
        results=[f"results/{path}" for path in USED],
    output:
        page="docs/findings.md",
        copies=[f"docs/findings/{name}" for name in dict.fromkeys(USED.values())],
    log:
        "results/findings.log",
    localrule: True
    threads: 1
    params:
        code=code_of("make_findings"),
    message:
        "findings: {output.page}"
    shell:
        "python scripts/make_findings.py --template {input.template} --results results --output {output.page} > {log} 2>&1"
