"""The config's schema, section by section, and its check before any job starts. Each key is explained in its class."""
