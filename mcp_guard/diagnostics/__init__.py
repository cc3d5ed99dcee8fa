"""What `doctor` and `status` examine: the checks, the state folder, and trial calls."""
