"""Where the values of a call come from: the user, a trusted source, or text that an outsider wrote. Pure."""
