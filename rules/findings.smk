"""Pages of docs/ with the results of several experiments: the controls' and those of a small real model."""

from make_findings import files_of

# Page -> its template, with marks for numbers.
PAGES = {"findings": "experiments/controls/findings.md", "real": "experiments/real.md"}
USED = {page: files_of(Path(template).read_text(encoding="utf-8")) for page, template in PAGES.items()}


rule findings:
    """Fill in the controls' results. Each must have been run with its own config before: `make findings`."""
    input:
        template=PAGES["findings"],
        results=[f"results/{path}" for path in USED["findings"]],
    output:
        page="docs/findings.md",
        copies=[f"docs/findings/{name}" for name in dict.fromkeys(USED["findings"].values())],
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


use rule findings as real with:
    # Of the paper's experiment on a small real model, which must have been run before: `make laptop`.
    input:
        template=PAGES["real"],
        results=[f"results/{path}" for path in USED["real"]],
    output:
        page="docs/real.md",
        copies=[f"docs/real/{name}" for name in dict.fromkeys(USED["real"].values())],
    log:
        "results/real.log",
