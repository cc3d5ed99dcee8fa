"""What `doctor` and `status` inspect: the checks, the state folder, and calls that must be refused."""
