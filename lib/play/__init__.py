"""A page on this machine on which finished runs are used: a server, and a warm process for each model."""
