"""How a stage is declared: what it is given, what it makes, and under which key that is kept."""
