"""What the five servers share. Start reading at `README.md`, then `bootstrap.py`."""
