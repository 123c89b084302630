"""One vCenter: session, inventory, storage, privileges."""
