"""What the controls have shown: docs/findings.md, from the tables and drawings of their experiments."""

from make_findings import files_of

FINDINGS = Path("experiments/controls/findings.md")  # with marks where figures are filled in
TOLD = files_of(FINDINGS.read_text(encoding="utf-8"))


rule findings:
    """Fill in what came out. The experiments have been run before, each with a config of its own: `make findings`."""
    input:
        template=FINDINGS,
        results=[f"results/{path}" for path in TOLD],
    output:
        page="docs/findings.md",
        copies=[f"docs/findings/{name}" for name in dict.fromkeys(TOLD.values())],
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
