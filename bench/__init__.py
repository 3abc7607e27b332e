"""Side-by-side measurements against peers. README.md says how to read them."""
