# Jobs that get into trouble, for tests/test_slurm.py. What they need is in the commands, what they get in the profile.

import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parents[1] / "scripts"))


include: "../../rules/cluster.smk"


rule all:
    input:
        "hungry.txt",
        "slow.txt",
        "cancelled.txt",
        "hopeless/of-memory.txt",
        expand("card{number}.txt", number=range(4)),
        "both_cards.txt",


rule hungry:
    """Needs 1,500 MiB, which is more than the profile gives at first."""
    output:
        "hungry.txt",
    log:
        "hungry.log",
    shell:
        "python -c 'import time; held = bytearray(1500 << 20); time.sleep(5)' > {log} 2>&1; "
        "echo {resources.mem_mb} > {output}"


rule slow:
    """Outlasts its time at the first attempt."""
    output:
        "slow.txt",
    log:
        "slow.log",
    resources:
        runtime=lambda wildcards, attempt: attempt,
        seconds=lambda wildcards, attempt: 300 if attempt == 1 else 1,
    shell:
        "sleep {resources.seconds} > {log} 2>&1 && echo {resources.runtime} > {output}"


rule cancelled:
    """Waits until it is cancelled, the first time."""
    output:
        "cancelled.txt",
    log:
        "cancelled.log",
    shell:
        "if [ ! -e begun ]; then touch begun; sleep 300; fi > {log} 2>&1; echo {resources.mem_mb} > {output}"


rule hopeless:
    """Needs more memory than the last attempt gets."""
    output:
        "hopeless/{what}.txt",
    log:
        "hopeless/{what}.log",
    shell:
        "python -c 'import time; held = bytearray(3600 << 20); time.sleep(20)' > {log} 2>&1 && touch {output}"


rule card:
    """Notes which GPU it has, and when."""
    output:
        "card{number}.txt",
    log:
        "card{number}.log",
    resources:
        slurm_partition="gpu",
        gpu=1,
    shell:
        "(date +%s.%N; sleep 3; date +%s.%N; echo $CUDA_VISIBLE_DEVICES) > {output} 2> {log}"


use rule card as both_cards with:
    output:
        "both_cards.txt",
    log:
        "both_cards.log",
    resources:
        slurm_partition="gpu",
        gpu=2,


onerror:
    explain_failures()
