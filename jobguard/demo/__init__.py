"""The demonstration: a whole system on one machine, and what survives when parts of it are killed."""
