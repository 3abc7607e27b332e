"""What a transform does, without engine, wire or store: see recipe.py, then plan.py, then work.py."""
