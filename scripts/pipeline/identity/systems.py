"""Systems under test and their result files: values that the rules create and the reports read."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class System:
    """A system that responds: a base model, a base model with rules, or a tuned model."""

    kind: Literal["base", "rules", "tuned"]
    label: str  # in tables and figures
    variant: str = ""  # the mode, or the variant of the rules
    epochs: int | None = None  # of a tuned model; None: the chosen number
    seed: int | None = None
    turn: str = ""  # the mode's user_turn
    paper: str = ""  # the row of the paper's tables to show next to it
    rules: tuple[str, ...] = ()  # the rules that are applied

    @property
    def name(self) -> str:
        """Its name among the model's systems, without seed and epochs."""
        return {"base": "base", "rules": f"rules/{self.variant}", "tuned": self.variant}[self.kind]

    @property
    def path(self) -> str:
        """Its folder inside its model's."""
        if self.kind != "tuned":
            return self.name
        folder = f"{self.name}/{'chosen' if self.epochs is None else f'epochs{self.epochs}'}"
        return folder if self.seed is None else f"{folder}/seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """A file of results, and what it describes."""

    stage: Literal[
        "judge", "card", "rank", "generate", "tune", "select", "similarity", "checks", "drift", "harness", "data"
    ]
    path: str
    model: str = ""
    system: System | None = None
    set: str = ""  # the evaluation set or dataset
    opponent: str = ""  # the path of the system that it was compared with, or "references"
    seed: int | None = None  # its own seed, or its opponent's
    kind: str = ""  # for a dataset: the kind of its rows


@dataclass(frozen=True)
class Experiment:
    """Everything that the reports are made from."""

    models: list[tuple[str, str, int | None]]  # name, condition (empty if nothing is varied), and world
    results: list[Result]
    sets: dict[str, str]  # model -> the evaluation set that its systems respond to
    oracle: bool = False  # whether the judge is the oracle
    reference: str = ""  # the mode that the others are compared with

    def as_settings(self) -> dict[str, Any]:
        """As plain values, for a script's settings."""
        return asdict(self)

    @classmethod
    def read(cls, settings: dict[str, Any]) -> "Experiment":
        """The experiment that `as_settings` described, read from JSON."""

        def result(row: dict[str, Any]) -> Result:
            system = row["system"] and System(**row["system"] | {"rules": tuple(row["system"]["rules"])})
            return Result(**row | {"system": system})

        models, results = [tuple(model) for model in settings["models"]], [result(row) for row in settings["results"]]
        return cls(models, results, settings["sets"], settings["oracle"], settings["reference"])
