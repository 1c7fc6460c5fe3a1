"""Ranks runs and writes tables and figures of them."""

# The x axes of curves, with their labels.
X_AXES = {
    "steps": "optimizer steps",
    "samples": "samples seen",
    "gradient_evaluations": "gradient evaluations",
    "seconds": "seconds of training",
}
