"""The pure core: no clock, randomness, environment, file, SQL or network. Everything that decides lives here."""
