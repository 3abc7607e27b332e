"""Storage behind transform's ports: tables and outputs, stored recipes and their states, runs, leases."""
