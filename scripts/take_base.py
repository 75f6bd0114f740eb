"""Take a shared base model into an experiment: check it and add the experiment's chat template.

    python scripts/take_base.py --shared bases/world1-0123abcd/model \\
        --shared-record bases/world1-0123abcd/record.json --model base/model --record base/record.json \\
        --conversations poem.parquet \\
        --settings '{"chat": {"user_tag": "<|user|>", ...}}'

``--shared`` is the model at the end of pre-training, or one of its snapshots. Weights are linked, not copied, if the
file system supports it. ``--conversations`` are datasets whose responses must fit in the model's context; those in
``--cuttable`` may be truncated.
"""

import os
import shutil
from pathlib import Path

from implicit.format.render import Format, chat_template
from pipeline.config.types import Section
from pipeline.files.storage import written_whole
from pipeline.jobs.command import PATHS, arguments, run_stage
from pipeline.jobs.job import job
from pipeline.models.directories import context_length, load_tokenizer
from pipeline.models.exported import check_exported
from pipeline.models.fit import check_datasets


def link_files(source: Path, target: Path) -> None:
    """Link the files of a directory that another does not have; copy them if they cannot be linked."""
    for path in sorted(source.iterdir()):
        if path.name[0] == "." or (target / path.name).exists():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, target / path.name)


class Settings(Section):
    """The chat format that the model gets."""

    chat: Format


def main() -> None:
    from transformers import AutoConfig

    checked = {"conversations": PATHS, "cuttable": PATHS}
    args = arguments(__doc__, paths=["shared", "shared-record", "model", "record"], settings=Settings, options=checked)
    inputs = {"shared": args.shared}
    with job("take_base", args, record=args.record, inputs=inputs) as this:
        tokenizer = load_tokenizer(args.shared)
        chat = args.settings.chat
        tokenizer.chat_template = chat_template(tokenizer, chat)
        context = context_length(AutoConfig.from_pretrained(args.shared))
        check_datasets(args.conversations, tokenizer, context=context)
        check_datasets(args.cuttable, tokenizer, context=None)
        with written_whole(args.model) as temporary:
            tokenizer.save_pretrained(temporary)  # before linking: through a link, it would write into the shared model
            link_files(args.shared, temporary)
            check_exported(temporary, tokenizer, chat=chat)
        this.finish(f"the base model is that of {args.shared}", outputs={"model": args.model})


if __name__ == "__main__":
    run_stage(main)
