"""`snakemake --lint` complains only about what is intended."""

import re
from pathlib import Path

from workflow import ROOT, snakemake

# Known complaints: title, subject, and why it is kept.
KNOWN = {
    r"Specify a conda environment or container for each rule\.": (r"\w+", "one environment is pinned for all: envs/"),
    r"Mixed rules and functions in same snakefile\.": (r"\w+\.smk", "an input function stands by the rule it belongs to"),
    r"Shell command directly uses variable (WARM|BUDGET|TUNING_OPTIONS|REQUESTS|EXECUTION|KEPT) from outside of the rule": (
        r"\w+",
        "how it is computed, not what: a parameter would rerun what is done (rules/common.smk)",
    ),
    r"No log directive defined": (r"plan|verify", "what they say is for the terminal"),
    r'Absolute path "(/seed|/seed\{seed\}|/", )" in line \d+': (r"(cluster|report|tables)\.smk", "parts of paths, and a slash"),
}  # fmt: skip


def complaints(printed):
    """The complaints of --lint, as (rule or file, title)."""
    found, subject = [], None
    for line in printed.splitlines():
        if match := re.match(r"Lints for (?:rule (\w+) \(line|snakefile (.*):$)", line):
            subject = match[1] or Path(match[2]).name
        elif line.startswith("    * "):
            found.append((subject, line.removeprefix("    * ").removesuffix(":")))
    return found


def unknown(found):
    return [
        (subject, title)
        for subject, title in found
        if not any(re.fullmatch(what, title) and re.fullmatch(of, subject) for what, (of, _) in KNOWN.items())
    ]


def test_nothing_is_complained_of_but_what_is_meant_so():
    done = snakemake(ROOT, "--lint", configs=("config.yaml",))
    found = complaints(done.stdout)
    assert done.returncode == 1 and unknown(found) == []
    for what, (_, why) in KNOWN.items():
        assert any(re.fullmatch(what, title) for _, title in found), f"no longer complained of: {what} ({why})"


def test_a_new_complaint_is_seen(tmp_path):
    (tmp_path / "Snakefile").write_text(
        'rule verify:\n    output:\n        "/data/x",\n    run:\n        pass\n\n\n'
        'rule tune:\n    input:\n        "y",\n    shell:\n        "cat {input[0]} {WARM} {HOME}"\n'
    )
    (tmp_path / "empty.yaml").write_text("{}\n")
    assert unknown(complaints(snakemake(tmp_path, "--lint", configs=("empty.yaml",)).stdout)) == [
        ("Snakefile", 'Absolute path "/data/x" in line 3'),
        ("tune", "Do not access input and output files individually by index in shell commands"),
        ("tune", "No log directive defined"),
        ("tune", "Shell command directly uses variable HOME from outside of the rule"),
    ]
