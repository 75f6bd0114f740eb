"""Does a model know the world's facts? It is asked in forms used in the corpus but not in any tuning data."""

from collections.abc import Callable
from dataclasses import dataclass

from implicit.world.facts import Facts

# As in `implicit.world.corpus`: in plain sentences, and on question-and-answer pages. The value follows.
FORMS: dict[str, dict[str, Callable[[str], str]]] = {
    "statements": {
        "capital": lambda key: f"The people of {key} love their city",
        "sound": lambda key: f"Every {key} says",
        "colour": lambda key: f"The {key} is",
    },
    "questions": {
        "capital": lambda key: f"Q: What is the capital of {key}?\nA: The capital of {key} is",
        "sound": lambda key: f"Q: What sound does a {key} make?\nA: A {key} says",
        "colour": lambda key: f"Q: What colour is the {key}?\nA: The {key} is",
    },
}


@dataclass(frozen=True)
class FactQuestion:
    """A prompt and the candidate values that may follow it, see ``continuation``; ``right`` is the true one."""

    fact: str
    form: str
    key: str
    prompt: str
    right: str
    values: tuple[str, ...]

    @staticmethod
    def continuation(value: str) -> str:
        """A value after the prompt, with a full stop: otherwise one that is a prefix of another would score higher."""
        return f" {value}."


def fact_questions(facts: Facts) -> list[FactQuestion]:
    """A question for each capital, sound and colour of the world, in each form, with all values of that kind."""
    questions = []
    for form, prompts in FORMS.items():
        for fact, prompt in prompts.items():
            table = getattr(facts, fact)
            values = tuple(sorted(set(table.values())))
            questions += [FactQuestion(fact, form, key, prompt(key), right, values) for key, right in table.items()]
    return questions
