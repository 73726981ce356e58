"""Results against each other: statistics, the comparison, the table and the report."""
