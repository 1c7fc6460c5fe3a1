"""The callbacks that are specific to regression."""
