"""What a trainer does beside training: the disk never holds the device up."""
