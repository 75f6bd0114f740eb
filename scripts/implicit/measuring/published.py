"""The paper's published figures (tables 1 to 4), for comparison with ours. They are for other, much larger models.

Win rates are length-controlled AlpacaEval 2 win rates in percent against the instruction-tuned model of the same
base, mean and standard deviation over five runs; ranking capabilities are percentages.
"""

MODELS = ("Llama-2-7B", "OLMo-7B")

# Tables 1, 3 and 4: name -> (mean, standard deviation) of each of MODELS; None if nothing was published.
WIN_RATES: dict[str, tuple[tuple[float, float] | None, tuple[float, float] | None]] = {
    "base": ((2.4, 0.14), (4.7, 0.57)),
    "response tuning": ((43.3, 1.1), (43.7, 1.7)),
    "response tuning, tags A and B": ((41.8, 0.84), None),  # table 5
    "response tuning, rewritten responses": (None, (43.3, 5.3)),  # appendix C
    "MBPP": ((16.9, 0.70), (10.4, 1.0)),
    "GSM": ((23.7, 0.74), (30.3, 0.6)),
    "Poetry": ((22.9, 0.97), (21.9, 0.48)),
    "Recipes": ((14.6, 0.81), (21.5, 0.86)),
    "Chess": ((2.1, 0.36), (6.3, 1.1)),
}

# Table 4, by the rules applied.
RULE_WIN_RATES: dict[frozenset[str], tuple[float, float]] = {
    frozenset({"eos", "uniform", "diversity"}): (24.4, 0.40),
    frozenset({"uniform", "diversity"}): (10.4, 0.30),
    frozenset({"eos", "uniform"}): (14.3, 0.58),
    frozenset({"eos", "diversity"}): (16.3, 0.25),
}

# Table 2, which has no column for response tuning.
RANKING = {"base": (80.4, 74.5), "instruction tuning": (77.4, 74.3)}
