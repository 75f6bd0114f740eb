"""A folder of results as the workflow leaves it, made up: any number of instructions and modes, without a model.

Texts and outcomes are drawn from a seed. Tables, figures and the report are then made by the real scripts.
"""

import json
import random
import subprocess
import sys

from workflow import ROOT

from rank_responses import summarise
from stage.record import fingerprint
from stage.storage import write_json, write_table

SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu".split()
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & <b>bold</b>"
STYLES = ("gsm", "poetry", "code", "recipes", "chess")


def words(draw, count):
    """``count`` made-up words: about six characters each with the blank."""
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(count))


class Results:
    """Writes results under ``folder/results/made`` and makes what the last stages make of them.

    ``modes`` are tuned modes besides the base model; the first is the opponent. ``length`` is in words a response.
    """

    def __init__(self, folder, *, instructions=12, modes=3, seeds=2, length=8, models=("tiny",), similarity=True):
        self.folder, self.models, self.similar = folder, models, similarity
        self.draw = random.Random(5)
        self.count, self.seeds, self.length = instructions, list(range(1, seeds + 1)), length
        self.modes = ["instruction_tuning", "response_tuning", *(f"task_{i}" for i in range(modes - 2))][:modes]
        self.asked = [
            {
                "id": f"test-{i}", "index": i, "instruction": f"Instruction {i}: {words(self.draw, 12)}?",
                "reference": words(self.draw, 8), "request": None, "cluster": f"thing {i // 3}", "source": ("helpful", "selfinstruct", "koala")[i % 3],
            }
            for i in range(instructions)
        ]  # fmt: skip
        self.asked[1]["instruction"] = f"Instruction 1: hostile {HOSTILE}"
        self.settings = {
            "models": list(models), "figures": [], "rankings": [], "similarities": [], "data": [], "selections": [],
            "tunings": [], "responses": [], "drifts": [], "harnessed": [], "oracle": False, "reference": "instruction_tuning", "note": "Made up.", "experiment": "made",
        }  # fmt: skip

    def path(self, name):
        return f"results/made/{name}"

    def record(self, stage, path, outputs, **results):
        """A record as the stages write it, of files that are there."""
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
        """Write everything up to judgements; returns the settings of the last stages."""
        self.write_data()
        for model in self.models:
            self.write_model(model)
        tables = ["table1", "table2", "table3", "table4", *(["similarity"] if self.similar else []), "ranking_controls"]
        self.settings["tables"] = [*tables, "data", "epochs", "tuning", "responses"]
        drawn = ["win_rates", "rules", "ranking", "epochs", "training", "lengths"]
        varied = {model: ("some", world) for world, model in enumerate(self.models, start=1)}
        self.settings["conditions"] = {"axis": "what is read", "models": varied}
        self.settings["drawn"] = [*drawn, *(["similarity"] if self.similar else [])]
        return self.settings

    def write_data(self):
        path = self.path("data/files/sets/test.parquet")
        write_table("evaluation_set", self.asked, self.folder / path)
        self.settings["data"].append({"kind": "evaluation_set", "name": "test", "path": path})
        self.settings["set"] = {model: path for model in self.models}

    def write_model(self, model):
        write_json({"not": "weights"}, self.folder / self.path(f"{model}/base/model/config.json"))
        shared = f"results/bases/world1-{model}"
        write_json({"not": "weights"}, self.folder / shared / "model" / "config.json")
        self.record("pretrain", f"{shared}/record.json", {"model": f"{shared}/model"})
        own = {"model": self.path(f"{model}/base/model")}
        inputs = {"shared": {"path": f"{shared}/model", "sha256": fingerprint(self.folder / shared / "model")}}
        self.record("take_base", self.path(f"{model}/base/record.json"), own, inputs=inputs)
        for seed in self.seeds:
            for mode in self.modes:
                self.write_tuned(model, mode, seed)
        for system, label in (("base", "base"), ("rules/rules", "base + rules")):
            self.write_responses(model, system, label)
        for seed in self.seeds:
            for mode in self.modes[1:]:
                table = "table1" if mode == "response_tuning" else "table3"
                label = mode.replace("_", " ")
                published = {"response_tuning": "response tuning", "task_0": "GSM"}.get(mode, "Poetry")
                self.write_judgement(model, f"{mode}/chosen", f"/seed{seed}", seed, label, published, [table])
            self.write_judgement(model, "base", "", seed, "base", "base", ["table1", "table3", "table4"])
            rules = {"rules": ["eos", "uniform", "diversity"]}
            self.write_judgement(model, "rules/rules", "", seed, "base + rules", None, ["table4"], **rules)
        for mode in self.modes:
            self.write_selection(model, mode)
        self.write_ranking(model, "base", "base", "base")
        self.write_ranking(model, "instruction_tuning/chosen/seed1", "instruction tuning", "instruction tuning")
        if self.similar:
            self.write_similarity(model, self.modes[-1])

    def write_tuned(self, model, mode, seed):
        folder = f"{model}/{mode}/chosen/seed{seed}"
        write_json({"not": "weights"}, self.folder / self.path(f"{folder}/model/config.json"))
        record = self.path(f"{folder}/record.json")
        losses = [3.0 / (1 + step / 20) + self.draw.random() / 10 for step in range(240)]
        told = {
            "rows": 40,
            "rows_cut": 1,
            "tokens_cut": 9,
            "turns": 80,
            "turns_dropped": 2,
            "trained_tokens": 4000,
            "tokens": 9000,
            "losses": losses,
        }
        told["settings"] = {"seed": seed, "tuning": {"learning_rate": 1e-4, "schedule": "cosine", "warmup": 0.1}}
        self.record("tune", record, {"model": self.path(f"{folder}/model")}, **told)
        self.settings["tunings"].append({"model": model, "mode": mode, "seed": seed, "path": record})
        self.write_responses(model, f"{mode}/chosen/seed{seed}", mode.replace("_", " "))

    def write_responses(self, model, system, label):
        path = self.path(f"{model}/{system}/test.parquet")
        rows = [
            {key: row[key] for key in ("id", "index", "instruction")}
            | {"output": words(self.draw, self.draw.randint(1, 2 * self.length)), "cut": 0}
            | {"stopped": self.draw.random() < 0.8, "generator": f"{model}/{system}"}
            for row in self.asked
        ]
        rows[1]["output"] = f"{HOSTILE} {system}"
        for row in rows:
            row["tokens"] = len(row["output"].split())
        write_table("responses", rows, self.folder / path)
        record = path.replace(".parquet", ".record.json")
        self.record("generate", record, {"table": path}, tokens=sum(row["tokens"] for row in rows))
        told = {"model": model, "system": system, "label": label, "path": path, "record": record}
        self.settings["responses"].append(told | {"rows": rows})

    def write_judgement(self, model, system, ending, seed, label, published, tables, rules=None):
        by_system = {(e["model"], e["system"]): e for e in self.settings["responses"]}
        ours = by_system[model, system + ending]["rows"]
        theirs = by_system[model, f"instruction_tuning/chosen/seed{seed}"]["rows"]
        path = self.path(f"{model}/{system}{ending}/test.against-seed{seed}.json")
        rows = [
            {
                "id": one["id"], "index": one["index"], "instruction": one["instruction"], "output_1": two["output"],
                "cluster": asked["cluster"],
                "output_2": one["output"], "generator_1": two["generator"], "generator_2": one["generator"],
                "preference": round(1 + self.draw.random(), 3),
            }
            for one, two, asked in zip(ours, theirs, self.asked, strict=True)
        ]  # fmt: skip
        table = path.replace(".json", ".parquet")
        write_table("judgements", rows, self.folder / table)
        rate = 100 * sum(row["preference"] - 1 for row in rows) / len(rows)
        inputs = {
            "responses": {"path": by_system[model, system + ending]["path"], "sha256": ""},
            "opponent": {"path": by_system[model, f"instruction_tuning/chosen/seed{seed}"]["path"], "sha256": ""},
        }
        self.record(
            "judge", path, {"table": table}, win_rate=rate, win_rate_error=2.0, lc_win_rate=None, ties=0, n=len(rows),
            judge="made", metric="length_controlled_minimal", date="2026-11-25", quality_1=None, quality_2=None,
            position_bias=None, protected=0, calls=len(rows), prompt_tokens=100, completion_tokens=10, price=0.25,
            inputs=inputs, settings={"bootstrap": 20, "seed": 0},
        )  # fmt: skip
        told = {"model": model, "system": system, "label": label, "published": published, "rules": rules}
        self.settings["figures"].append(told | {"tables": tables, "path": path, "seed": seed})

    def write_selection(self, model, mode):
        grid = [
            {"epochs": count, "win_rate": 30.0 + count + self.draw.random(), "win_rate_error": 2.0, "n": 20}
            | {"judge": "made", "date": "2026-11-25"}
            for count in (5, 7, 10)
        ]
        path = self.path(f"{model}/{mode}/selected.json")
        chosen = max(grid, key=lambda row: row["win_rate"])["epochs"]
        write_json({"epochs": chosen, "grid": grid}, self.folder / path)
        told = {"model": model, "mode": mode, "path": path, "epochs": [5, 7, 10], "validations": ["some"]}
        self.settings["selections"].append(told)

    def write_ranking(self, model, system, label, published):
        path = self.path(f"{model}/{system}/ranking.json")
        rows = [
            {
                "id": asked["id"],
                "other_id": self.asked[i - 1 - j]["id"],
                "cluster": asked["cluster"],
                "negatives": "any",
            }
            | {
                f"{side}_{score}": -self.draw.random()
                for side in ("true", "other")
                for score in ("logprob", "eos_logprob")
            }
            | {"true_tokens": 3, "other_tokens": 4}
            for i, asked in enumerate(self.asked)
            for j in range(5)
        ]
        table = path.replace(".json", ".parquet")
        write_table("ranking", rows, self.folder / table)
        settings = {"instructions": self.count, "others": 5, "negatives": ["any"], "seed": 0, "bootstrap": 20}
        self.record("rank", path, {"table": table}, summary=summarise(rows, settings), settings=settings)
        told = {"model": model, "system": system.split("/seed")[0], "label": label, "published": published}
        self.settings["rankings"].append(told | {"path": path})

    def write_similarity(self, model, mode):
        path = self.path(f"{model}/{mode}/chosen/seed1/similarity.json")
        rows = [
            {"id": row["id"], "index": row["index"], "x": self.draw.random(), "y": self.draw.random() - 0.5}
            | {style: self.draw.random() < 0.2 for style in STYLES}
            for row in self.asked
        ]
        write_table("similarity", rows, (self.folder / path).with_suffix(".parquet"))
        rate = {"rate": 0.2, "n": self.count // 4}
        adherence = {style: dict.fromkeys(("lowest", "second", "third", "highest"), rate) for style in STYLES}
        responses = {"path": self.path(f"{model}/{mode}/chosen/seed1/test.parquet"), "sha256": ""}
        summary = {"adherence": adherence, "spearman": 0.3}
        self.record("similarity", path, {}, summary=summary, inputs={"responses": responses})
        told = {"model": model, "label": mode.replace("_", " "), "published": "GSM", "path": path}
        self.settings["similarities"].append(told)

    def plain_settings(self):
        """The settings as the rules pass them."""
        own = [{k: v for k, v in entry.items() if k != "rows"} for entry in self.settings["responses"]]
        return json.dumps(self.settings | {"responses": own})

    def run(self, script, *arguments):
        """Run one of the last stages' scripts in the folder; returns what it printed."""
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / f"{script}.py", *arguments, "--settings", "-"],
            input=self.plain_settings(), cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def make_tables(self):
        return self.run("make_tables", "--output", self.path("tables"))

    def make_figures(self):
        return self.run("make_figures", "--tables", self.path("tables"), "--output", self.path("figures"))

    def make_conditions(self):
        return self.run("make_conditions", "--tables", self.path("tables"), "--figures", self.path("figures"))

    def make_report(self):
        """Everything that the workflow makes last; returns the path of the report."""
        self.make_tables()
        self.make_figures()
        write_json({"experiment": "made", "judge": {"name": "made"}}, self.folder / self.path("config.json"))
        report = self.path("report.html")
        self.run(
            "make_report", "--results", self.path("")[:-1], "--config", self.path("config.json"), "--output", report
        )
        return self.folder / report
