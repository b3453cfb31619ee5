"""Many jobs, unattended: read, ordered, keyed by content, locked, made, journalled. No command line in here."""
