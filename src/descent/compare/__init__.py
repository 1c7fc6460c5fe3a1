"""Ranking, tables and figures over any runs."""

# What a curve may be drawn over, and what its axis says.
X_AXES = {
    "steps": "optimizer steps",
    "samples": "samples seen",
    "gradient_evaluations": "gradient evaluations",
    "seconds": "seconds of training",
}
