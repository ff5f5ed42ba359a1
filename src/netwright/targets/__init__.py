"""Hardware as data: one TOML file a target, every number with its source."""
