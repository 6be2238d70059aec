"""Nothing: what loading a plugin is compared with."""
