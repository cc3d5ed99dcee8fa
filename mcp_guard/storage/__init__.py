"""Where the state is kept: the contract, and the engines behind it. Nothing outside knows which engine it is,
and nothing outside has SQL, except the verifier."""
