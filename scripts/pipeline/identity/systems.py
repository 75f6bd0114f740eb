"""What is tested, and the files that say what came out: values that the rules make, and that the reports read."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class System:
    """What responds: a base model, a base model under rules, or a tuned model."""

    kind: Literal["base", "rules", "tuned"]
    label: str  # in tables and figures
    variant: str = ""  # the mode, or the variant of the rules
    epochs: int | None = None  # of a tuned model; None: as many as were chosen
    seed: int | None = None
    turn: str = ""  # what the mode shows of the user's turn
    paper: str = ""  # the row of the paper's tables beside it
    rules: tuple[str, ...] = ()  # those that are applied

    @property
    def name(self) -> str:
        """What tells it from the model's other systems, whatever its seed and epochs."""
        return {"base": "base", "rules": f"rules/{self.variant}", "tuned": self.variant}[self.kind]

    @property
    def path(self) -> str:
        """Its folder below its model's."""
        if self.kind != "tuned":
            return self.name
        folder = f"{self.name}/{'chosen' if self.epochs is None else f'epochs{self.epochs}'}"
        return folder if self.seed is None else f"{folder}/seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """A file that numbers come from, and what they are of."""

    stage: Literal["judge", "rank", "generate", "tune", "select", "similarity", "drift", "harness", "data"]
    path: str
    model: str = ""
    system: System | None = None
    set: str = ""  # the evaluation set that was asked, or the dataset that was read
    opponent: str = ""  # the path of the system that it was compared with, or "references"
    seed: int | None = None  # its own, or that of its opponent
    kind: str = ""  # of a dataset: the kind of its rows


@dataclass(frozen=True)
class Experiment:
    """Everything that the reports are made of."""

    models: list[tuple[str, str, int | None]]  # name, condition (empty where nothing is varied), and world
    results: list[Result]
    sets: dict[str, str]  # by model, the evaluation set that its systems respond to
    oracle: bool = False  # whether the judge knows what was requested
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
