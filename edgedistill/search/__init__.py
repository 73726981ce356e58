"""Students that fit a budget, measured before they are trained."""
