"""The shape of a config by section, and its check before any job starts. Each key is explained in its class."""
