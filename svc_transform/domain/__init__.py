"""What a transform does, without engine, wire or store: see ../ports.py for the words, then plan.py, run.py, work.py."""
