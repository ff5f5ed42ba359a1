"""Contract suites: tests that every method of a role passes, for the house and for plug-ins."""
