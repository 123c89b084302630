"""What the autoscaler keeps in the extraConfig of its head's machine, where whoever asks the vCenter finds it."""
