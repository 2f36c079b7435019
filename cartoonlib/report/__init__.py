"""The report: what notebooks open, how they are executed, and every metric, table and figure."""
