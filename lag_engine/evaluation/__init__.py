"""What is claimed, measured: official scores, experiments that resume, and reports."""
