"""The keys of a training run, in files of one idea; `trial.py` puts them together."""
