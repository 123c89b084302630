"""What a sweep leaves behind: outcome, ranking, files, report."""
