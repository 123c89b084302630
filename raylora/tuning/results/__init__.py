"""The results of a sweep: outcome, ranking, files, report."""
