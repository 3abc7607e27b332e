"""The layers around every RPC, outermost first: telemetry, errors, auth, deadline, fields. `chain.py` puts them together."""
