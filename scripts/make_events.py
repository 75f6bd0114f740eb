"""Write an experiment's metrics as TensorBoard events: a folder for each run, named after it, with one file.

    python scripts/make_events.py --metrics results/tiny/metrics.parquet --output results/tiny/events

``tensorboard --logdir results/tiny/events`` shows them. The same metrics always give the same bytes: the time of an
event is its step, in seconds, as the time of computation does not matter.
"""

from pathlib import Path

from pipeline.files.storage import written_whole
from pipeline.jobs.command import arguments, run_stage, say
from reporting.metrics.collect import read_metrics
from reporting.metrics.runs import Run, runs_of

FILE = "events.out.tfevents.0"  # TensorBoard recognises event files by "tfevents" in their names
VERSION = "brain.Event:2"  # required in the first event of a file


def write_events(run: Run, folder: Path) -> None:
    """Write a run's event file (a TFRecord of Event messages) to a new folder."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)  # tiny/base contains a file and the folders of its comparisons
    writer = RecordWriter(str(folder / FILE))
    writer.write(Event(wall_time=0, file_version=VERSION).SerializeToString())
    for step, metrics in sorted(run.steps.items()):
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.write(Event(wall_time=step, step=step, summary=Summary(value=values)).SerializeToString())
    writer.close()


def main() -> None:
    args = arguments(__doc__, paths=["metrics", "output"])
    runs = runs_of(read_metrics(args.metrics))
    with written_whole(args.output) as temporary:
        temporary.mkdir()
        for run in runs:
            write_events(run, temporary / run.name)
    say(f"{len(runs)} runs in {args.output}: tensorboard --logdir {args.output}")


if __name__ == "__main__":
    run_stage(main)
