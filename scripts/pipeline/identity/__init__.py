"""What makes a result what it is: names of base models and systems, and the code that it depends on."""
