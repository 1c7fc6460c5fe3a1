"""The plugins that Hydra finds and loads."""
