"""One run over several devices, by Ray Train."""
