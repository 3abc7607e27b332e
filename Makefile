proto: ## write the stubs of protos/ again
	.venv/bin/python tools/protogen.py
