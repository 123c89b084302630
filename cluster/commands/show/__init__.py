"""The commands that only show something: `status`, `show-gpus`, `logs`, `hours`."""
