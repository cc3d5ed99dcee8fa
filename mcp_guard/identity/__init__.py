"""Who is calling: instances, their keys and credentials."""
