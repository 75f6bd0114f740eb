"""What identifies a result: names of base models and systems, and the code that it depends on."""
