"""The statements of the storage contract in standard SQL, for every engine that speaks it."""
