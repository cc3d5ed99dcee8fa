"""Proves statements about policies for all requests, with an SMT solver (cvc5, the extra `proofs`)."""
