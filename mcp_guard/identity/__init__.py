"""Who is calling: instances, their keys and credentials, and bearer tokens."""
