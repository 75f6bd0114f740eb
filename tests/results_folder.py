"""A synthetic results folder like the workflow's: any number of instructions and modes, without a model.

Texts and outcomes are drawn from a seed, summaries are made by the stages' own code. Later stages are run for real.
"""

import json
import random
import subprocess
import sys

from workflow import ROOT

from implicit.judging.oracle import Oracle, describe
from implicit.measuring import recount, similarity
from implicit.scoring import drift
from pipeline.files.storage import write_json, write_table
from pipeline.identity.systems import Experiment, Result, System
from pipeline.jobs.record import fingerprint
from rank_responses import Settings as RankSettings
from rank_responses import summarise
from reporting.charts.figures import figures_of
from reporting.tables.tables import tables_of

SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu".split()
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"
PUBLISHED = {"response_tuning": "response tuning", "task_0": "GSM", "instruction_tuning": "instruction tuning"}
BASE = System("base", "base", paper="base")
RULES = System("rules", "base + rules", "rules", rules=("diversity", "eos", "uniform"))
OWN = {
    "bootstrap": 20,
    "seed": 0,
    "metric": "length_controlled_v1",
}  # a judge's own settings; length control is not recomputed


class Results:
    """Writes results under ``folder/results/made`` and runs the last stages on them.

    ``modes`` are tuned modes besides the base model; the first is the opponent. ``length`` is in words per response.
    With a ``world``, its requests are used, its oracle judges, and drift, the harness and checks are included.
    """

    similar = True  # similarity is measured

    def __init__(self, folder, *, instructions=12, modes=3, seeds=2, length=8, models=("tiny",), world=None):
        self.folder, self.models, self.world = folder, models, world
        self.draw, self.oracle = random.Random(5), Oracle()
        self.seeds, self.length = list(range(1, seeds + 1)), length
        self.modes = ["instruction_tuning", "response_tuning", *(f"task_{i}" for i in range(modes - 2))][:modes]
        self.asked = [
            {
                "id": f"test-{i}", "index": i, "instruction": f"Instruction {i}: {self.words(12)}?",
                "reference": self.words(8), "request": None, "cluster": f"thing {i // 3}",
                "source": ("helpful", "selfinstruct", "koala")[i % 3],
            }
            for i in range(instructions)
        ]  # fmt: skip
        self.asked[1]["instruction"] = f"Instruction 1: hostile {HOSTILE}"
        for row, item in zip(self.asked, world.evaluation("test", instructions) if world else [], strict=False):
            row |= {"request": describe(item, world.seed), "reference": item.response}
        self.results, self.given = [], {}
        self.measured = {"judge", "card", "rank", "rules", "choice", "conditions"}
        self.measured |= ({"similarity"} if self.similar else set()) | (
            {"oracle", "drift", "harness", "checks"} if world else set()
        )
        self.experiment = None

    def words(self, count):
        """``count`` invented words: about six characters each, including the space."""
        return " ".join("".join(self.draw.choices(SYLLABLES, k=self.draw.randint(1, 4))) for _ in range(count))

    def path(self, name):
        return f"results/made/{name}"

    def add(self, stage, name, model="", system=None, **more):
        self.results.append(Result(stage, self.path(name), model, system, **{"seed": system and system.seed} | more))
        return self.folder / self.path(name)

    def record(self, stage, path, outputs, **results):
        """A record as the stages write it, of existing files."""
        told = {name: {"path": file, "sha256": fingerprint(self.folder / file)} for name, file in outputs.items()}
        write_json(
            {
                "stage": stage, "settings": {"seed": 1}, "execution": {"device": "cpu"}, "inputs": {},
                "versions": {"python": "3.11", "torch": "2.13"}, "commit": "0123456789abcdef", "command": f"{stage}.py",
                "machine": "Linux x86_64", "outputs": told, "peak_memory_mib": 100, "seconds": 1.5,
            } | results,
            self.folder / path,
        )  # fmt: skip

    def write(self):
        """Write everything up to judgements."""
        test = self.add("data", "data/files/sets/test.parquet", set="test", kind="evaluation_set")
        write_table("evaluation_set", self.asked, test)
        for model in self.models:
            self.write_model(model)
        self.write_card()
        models = [(model, "some", world) for world, model in enumerate(self.models, start=1)]
        sets = {model: self.path("data/files/sets/test.parquet") for model in self.models}
        oracle, axis = self.world is not None, "what is read"
        self.experiment = Experiment(models, self.results, sets, oracle=oracle, reference="instruction_tuning")
        self.settings = {"note": "Made up.", "axis": axis, "experiment": "made"}
        self.settings |= {"tables": tables_of(self.measured), "drawn": figures_of(self.measured)}

    def write_model(self, model):
        tuned = [self.tuned(mode, seed) for mode in self.modes for seed in self.seeds]
        write_json({"not": "weights"}, self.folder / self.path(f"{model}/base/model/config.json"))
        shared = f"results/bases/world1-{model}"
        write_json({"not": "weights"}, self.folder / shared / "model" / "config.json")
        self.record("pretrain", f"{shared}/record.json", {"model": f"{shared}/model"})
        own = {"model": self.path(f"{model}/base/model")}
        inputs = {"shared": {"path": f"{shared}/model", "sha256": fingerprint(self.folder / shared / "model")}}
        self.record("take_base", self.path(f"{model}/base/record.json"), own, inputs=inputs)
        for system in tuned:
            self.write_tuned(model, system)
        for system in (BASE, RULES, *tuned):
            self.write_responses(model, system)
        for seed in self.seeds:
            for system in (BASE, *(self.tuned(mode, seed) for mode in self.modes[1:]), RULES):
                self.write_judgement(model, system, seed)
        for mode in self.modes:
            self.write_selection(model, mode)
        for system in (BASE, self.tuned("instruction_tuning", 1)):
            self.write_ranking(model, system)
        if self.similar:
            self.write_similarity(model, self.tuned(self.modes[-1], 1))
        for system in tuned if self.world else []:
            self.write_costs(model, system)
            for name in ("ifeval", "other"):
                self.write_checks(model, system, name)

    def tuned(self, mode, seed, epochs=None):
        turn = "empty" if mode == "response_tuning" else "shown"
        return System("tuned", mode.replace("_", " "), mode, epochs, seed, turn, PUBLISHED.get(mode, "Poetry"))

    def write_tuned(self, model, system):
        folder = f"{model}/{system.path}"
        write_json({"not": "weights"}, self.folder / self.path(f"{folder}/model/config.json"))
        losses = [3.0 / (1 + step / 20) + self.draw.random() / 10 for step in range(240)]
        told = {"rows": 40, "rows_cut": 1, "tokens_cut": 9, "turns": 80, "turns_dropped": 2, "losses": losses}
        told |= {"trained_tokens": 4000, "tokens": 9000}
        tuning = {"learning_rate": 1e-4, "schedule": "cosine", "warmup": 0.1}
        told["settings"] = {"seed": system.seed, "tuning": tuning, "epochs": 7}
        self.add("tune", f"{folder}/record.json", model, system)
        self.record("tune", self.path(f"{folder}/record.json"), {"model": self.path(f"{folder}/model")}, **told)

    def write_responses(self, model, system):
        rows = [
            {key: row[key] for key in ("id", "index", "instruction")}
            | {"output": self.words(self.draw.randint(1, 2 * self.length)), "cut": 0}
            | {"stopped": self.draw.random() < 0.8, "generator": f"{model}/{system.path}"}
            for row in self.asked
        ]
        rows[1]["output"] = f"{HOSTILE} {system.path}"
        for row, asked in zip(rows, self.asked, strict=True):
            other = self.draw.choice(self.asked)["reference"]
            texts = [asked["reference"], other, f"{asked['reference']} {other}", "", row["output"]]
            row["output"] = self.draw.choice(texts) if self.world else row["output"]
            row["tokens"] = len(row["output"].split())
        path = f"{model}/{system.path}/test.parquet"
        write_table("responses", rows, self.add("generate", path, model, system, set="test"))
        self.given[model, system.path] = rows
        record = self.path(path.replace(".parquet", ".record.json"))
        self.record("generate", record, {"table": self.path(path)}, tokens=sum(row["tokens"] for row in rows))

    def judged(self, path, rows, inputs):
        """Write judgements and their summary."""
        table = path.replace(".json", ".parquet")
        write_table("judgements", rows, self.folder / self.path(table))
        n, (one, two) = len(rows), ([row[f"quality_{side}"] for row in rows] for side in (1, 2))
        summary = {f"quality_{side}": None if None in own else sum(own) / n for side, own in ((1, one), (2, two))}
        summary["win_rate"] = 100 * sum(row["preference"] - 1 for row in rows) / n
        summary["win_rate_error"] = recount.win_rate_error(rows, draws=OWN["bootstrap"], seed=OWN["seed"])
        if rows[0].get("members"):
            of_members = zip(*(row["members"] for row in rows), strict=True)
            rates = [100 * sum(p - 1 for p in own) / n for own in of_members]
            summary["members"] = [{"judge": f"member {i}", "win_rate": rate} for i, rate in enumerate(rates)]
            summary["disagreement"] = sum(min(row["members"]) < 1.5 < max(row["members"]) for row in rows) / n
        summary["ties"] = sum(row["preference"] == 1.5 for row in rows)
        self.record(
            "judge", self.path(path), {"table": self.path(table)}, **summary, lc_win_rate=None, n=n, judge="made",
            metric=OWN["metric"], date="2026-11-25", position_bias=None, protected=0, calls=n, prompt_tokens=100,
            completion_tokens=10, price=0.25, inputs=inputs, settings=OWN,
        )  # fmt: skip

    def write_judgement(self, model, system, seed):
        opponent = self.tuned("instruction_tuning", seed).path
        ours, theirs = self.given[model, system.path], self.given[model, opponent]
        rows = []
        for one, two, asked in zip(theirs, ours, self.asked, strict=True):
            qualities = [
                self.world and self.oracle.quality(asked["request"], row["output"], stopped=row["stopped"])
                for row in (one, two)
            ]
            preference = round(1 + self.draw.random(), 3)
            if self.world:
                preference = 1.5 + (qualities[1] > qualities[0]) / 2 - (qualities[0] > qualities[1]) / 2
            rows.append(
                {"cluster": asked["cluster"], "preference": preference}
                | {key: one[key] for key in ("id", "index", "instruction")}
                | {f"output_{i}": row["output"] for i, row in ((1, one), (2, two))}
                | {f"generator_{i}": row["generator"] for i, row in ((1, one), (2, two))}
                | {"quality_1": qualities[0], "quality_2": qualities[1]}
                | dict.fromkeys(("preference_output_1_first", "preference_output_2_first"))
            )
        inputs = {"responses": system.path, "opponent": opponent}
        inputs = {k: {"path": self.path(f"{model}/{path}/test.parquet"), "sha256": ""} for k, path in inputs.items()}
        path = f"{model}/{system.path}/test.against-seed{seed}.json"
        self.add("judge", path, model, system, set="test", opponent=opponent, seed=seed)
        self.judged(path, rows, inputs)

    def write_selection(self, model, mode):
        rates, systems = {}, [self.tuned(mode, 1, epochs) for epochs in (5, 7, 10)]
        for system in systems:
            rows = [
                {"id": str(i), "cluster": str(i), "preference": self.draw.choice([1.0, 1.5, 2.0]), "output_1": "a"}
                | {"output_2": "b", "quality_1": None, "quality_2": None, "preference_output_1_first": None}
                for i in range(20)
            ]
            for row in rows:  # by a panel of two
                row["members"] = [max(1.0, row["preference"] - 0.4), min(2.0, row["preference"] + 0.4)]
            path = f"{model}/{system.path}/validation.against-references.json"
            self.add("judge", path, model, system, set="validation", opponent="references")
            self.judged(path, rows, {})
            rates[system.epochs] = sum(row["preference"] for row in rows)
        chosen = min(epochs for epochs in rates if rates[epochs] == max(rates.values()))
        path = self.add("select", f"{model}/{mode}/selected.json", model, self.tuned(mode, None))
        write_json({"epochs": chosen, "grid": [{"epochs": epochs} for epochs in rates]}, path)

    def write_card(self):
        """Six models' responses compared with another's, by three annotators and a judge that was shown both orders."""
        rows = []
        for i in range(90):
            orders = [round(1 + self.draw.random(), 3) for _ in range(2)]
            annotators = [self.draw.choice([1.0, 1.5, 2.0]) for _ in range(3)]
            rows.append(
                {"id": f"known-{i}", "cluster": f"known-{i // 6}", "model_1": "base", "model_2": f"m{i % 6}", "copy": False,
                 "length_1": self.draw.randint(1, 9), "length_2": self.draw.randint(1, 9), "annotators": annotators,
                 "annotation": sum(annotators) / 3 - 0.001 * (i % 6) * (sum(annotators) > 4), "preference": sum(orders) / 2,
                 "preference_output_1_first": orders[0], "preference_output_2_first": orders[1]}
            )  # fmt: skip
        rows += [row | {"copy": True, "id": f"copy-{i}"} for i, row in enumerate(rows[:5])]
        path = self.add("card", "judge/card/known.json", set="known")
        write_table("compared", rows, path.with_suffix(".parquet"))
        table = {"table": self.path("judge/card/known.parquet")}
        self.record(
            "card", self.path("judge/card/known.json"), table, judge="made", pairs=90, seen=3, without_reference=2
        )

    def write_ranking(self, model, system):
        sides = [f"{side}_{score}" for side in ("true", "other") for score in ("logprob", "eos_logprob")]
        rows = [
            {"id": asked["id"], "other_id": self.asked[i - 1 - j]["id"], "cluster": asked["cluster"], "negatives": "any"}
            | {side: -self.draw.random() for side in sides} | {"true_tokens": 3, "other_tokens": 4}
            for i, asked in enumerate(self.asked) for j in range(5)
        ]  # fmt: skip
        path = f"{model}/{system.path}/ranking"
        write_table("ranking", rows, self.folder / self.path(f"{path}.parquet"))
        own = {"instructions": len(self.asked), "others": 5, "negatives": ["any"], "seed": 0, "bootstrap": 20}
        own["precision"] = "float32"
        told = {"summary": summarise(rows, RankSettings.model_construct(**own)), "settings": own}
        self.add("rank", f"{path}.json", model, system)
        self.record("rank", self.path(f"{path}.json"), {"table": self.path(f"{path}.parquet")}, **told)

    def write_similarity(self, model, system):
        rows = [
            {"id": row["id"], "index": row["index"], "x": self.draw.random(), "y": self.draw.random() - 0.5}
            | {style: self.draw.random() < 0.2 for style in similarity.STYLES}
            for row in self.asked
        ]
        path = self.add("similarity", f"{model}/{system.path}/similarity.json", model, system)
        write_table("similarity", rows, path.with_suffix(".parquet"))
        responses = {"path": self.path(f"{model}/{system.path}/test.parquet"), "sha256": ""}
        told = {"summary": similarity.summarise(rows), "inputs": {"responses": responses}}
        self.record("similarity", path.relative_to(self.folder), {}, **told)

    def write_costs(self, model, system):
        """Drift and recall (none for the last of several models, as if it had no world), and the harness's figures."""
        draw, folder = self.draw, self.folder / self.path(f"{model}/{system.path}")
        documents = [
            {"id": str(i), "tokens": 9 + i, "cut": i, "base_logprob": -20.0, "tuned_logprob": -25 * draw.random(), "kl": draw.random()}
            for i in range(5)
        ]  # fmt: skip
        facts = [
            {"fact": "colour", "form": form, "key": str(i), "right": "red", "rivals": 10, "base": "red", "tuned": draw.choice(["red", "blue"])}
            for form in ("statements", "questions") for i in range(8) if model == self.models[0]
        ]  # fmt: skip
        write_table("drift", documents, folder / "drift.parquet")
        write_table("recall", facts, folder / "recall.parquet")
        told = {"summary": drift.summarise(documents, facts)}
        write_json(told, self.add("drift", f"{model}/{system.path}/drift.json", model, system))
        found = {"arc_easy": {"acc,none": draw.random(), "acc_norm,none": draw.random()}}
        own = {"arc_easy": found["arc_easy"] | {"alias": "arc", "acc_stderr,none": 0.1}, "group": {"alias": "group"}}
        write_json({"results": own}, folder / "harness.json")
        write_json({"summary": found}, self.add("harness", f"{model}/{system.path}/harness.record.json", model, system))

    def write_checks(self, model, system, name):
        """Checks of five responses, one to three for each, in two ways."""
        rows = [
            {"id": f"{name}-{i}", "cluster": f"{name}-{i}", "name": str(j), "way": way, "passed": self.draw.random() < 0.6}
            for way in ("strict", "loose") for i in range(5) for j in range(1 + i % 3)
        ]  # fmt: skip
        path = self.add("checks", f"{model}/{system.path}/{name}.checks.json", model, system, set=name)
        write_table("checks", rows, path.with_suffix(".parquet"))
        self.record("checks", path.relative_to(self.folder), {}, settings={"checker": "ifeval"})

    def run(self, script, *arguments):
        """Run one of the last stages' scripts in the folder; returns what it printed."""
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / f"{script}.py", *arguments, "--settings", "-"], cwd=self.folder, text=True,
            input=json.dumps(self.experiment.as_settings() | self.settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def of_metrics(self, script, output):
        return self.run(script, "--metrics", self.path("metrics.parquet"), "--output", self.path(output))

    def make(self, *scripts):
        """Write everything, collect its metrics, and run the given last stages."""
        self.write()
        self.run("collect_metrics", "--output", self.path("metrics.parquet"))
        for script, output in {"make_tables": "tables", "make_figures": "figures", "make_events": "events"}.items():
            if script in scripts:
                self.of_metrics(script, output)
        return self

    def make_report(self):
        """Make the report of the collected metrics; returns its path."""
        write_json({"experiment": "made", "judge": {"name": "made"}}, self.folder / self.path("config.json"))
        paths = {"results": self.path("")[:-1], "config": self.path("config.json"), "output": self.path("report.html")}
        self.run("make_report", *(word for name, path in paths.items() for word in (f"--{name}", path)))
        return self.folder / self.path("report.html")


class WithoutSimilarity(Results):
    """As `Results`; similarity is not measured."""

    similar = False
