"""Adapters as files, whoever made them: read as the updates that they are, changed, and written in the same layout."""
